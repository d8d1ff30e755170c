/** The figures of a bench as one SVG: a panel for each, a bar for each endpoint. The same figures make the same bytes. */

import type { EndpointResults, Results } from './results.ts';

interface Bar {
  /** Index of the endpoint, which gives the colour. */
  readonly of: number;
  readonly label: string;
  readonly value: number;
  /** A longer line over the bar, for a p99. */
  readonly whisker?: number;
}

interface Panel {
  readonly title: string;
  readonly bars: readonly Bar[];
}

const COLUMNS = 3;
const PANEL_WIDTH = 380;
const BAR_HEIGHT = 16;
const BAR_STEP = 20;
const LABEL_WIDTH = 120;
const VALUE_WIDTH = 60;
const TITLE_HEIGHT = 34;
const LEGEND_HEIGHT = 44;
const MARGIN = 16;
const COLOURS = ['#0b6e99', '#d9730d', '#6b7280', '#8a3ffc', '#2e7d32'];

/** Draws what was measured; panels without a value are left out. */
export function drawPlots({ endpoints }: Results): string {
  const panels = panelsOf(endpoints).filter(({ bars }) => bars.length > 0);
  const rows = Array.from({ length: Math.ceil(panels.length / COLUMNS) }, (_, row) =>
    panels.slice(row * COLUMNS, (row + 1) * COLUMNS),
  );
  const heights = rows.map((row) => Math.max(...row.map(panelHeight)));
  const tops = heights.map((_, row) => heights.slice(0, row).reduce((sum, height) => sum + height, LEGEND_HEIGHT));
  const width = COLUMNS * PANEL_WIDTH + MARGIN;
  const height = heights.reduce((sum, one) => sum + one, LEGEND_HEIGHT + MARGIN);
  const drawn = rows.flatMap((row, at) =>
    row.map((panel, column) => drawPanel(panel, MARGIN + column * PANEL_WIDTH, tops[at] ?? 0)),
  );
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}"`,
    ' font-family="sans-serif" font-size="12" fill="#1f2937">\n',
    `<rect width="${width}" height="${height}" fill="#ffffff"/>\n`,
    ...endpoints.map(({ name, runtime }, index) => drawLegend(index, `${name} (${runtime})`)),
    ...drawn,
    '</svg>\n',
  ].join('');
}

function panelsOf(endpoints: readonly EndpointResults[]): Panel[] {
  const levelled = (
    title: string,
    read: (level: EndpointResults['levels'][number]) => Omit<Bar, 'of' | 'label'> | undefined,
  ): Panel => ({
    title,
    bars: (endpoints[0]?.levels ?? []).flatMap(({ parallel }) =>
      endpoints.flatMap(({ levels }, of) => {
        const level = levels.find((one) => one.parallel === parallel);
        const bar = level && read(level);
        return bar ? [{ of, label: `${parallel} at a time`, ...bar }] : [];
      }),
    ),
  });
  const plain = (title: string, read: (endpoint: EndpointResults) => number | undefined): Panel => ({
    title,
    bars: endpoints.flatMap((endpoint, of) => {
      const value = read(endpoint);
      return value === undefined ? [] : [{ of, label: endpoint.name, value }];
    }),
  });
  const call = (name: string): Panel =>
    levelled(`${name}, ms: p50, line to p99`, ({ calls }) => {
      const figures = calls[name];
      return figures && { value: figures.p50, whisker: figures.p99 };
    });
  const [first] = endpoints[0]?.standing ?? [];
  const pods = first?.pods ?? 0;
  const standing = (title: string, read: (one: NonNullable<typeof first>) => number | undefined): Panel =>
    plain(title, (endpoint) => {
      const found = endpoint.standing.find((one) => one.pods === pods);
      return found && read(found);
    });
  return [
    call('pod up'),
    call('pod down'),
    call('ExecSync'),
    levelled('lives per second', ({ lifecyclesPerSecond }) => ({ value: lifecyclesPerSecond })),
    levelled('processor time for a life, ms', ({ machineMsPerLifecycle }) => ({ value: machineMsPerLifecycle })),
    plain('memory of the daemon after the lives, rested, MB', ({ memoryRested }) => megabytes(memoryRested?.bytes)),
    standing(`ListContainerStats, ${pods} pods, ms`, ({ calls }) => calls['ListContainerStats']?.p50),
    standing(`ListPodSandboxStats, ${pods} pods, ms`, ({ calls }) => calls['ListPodSandboxStats']?.p50),
    standing(`ListContainers, ${pods} pods, ms`, ({ calls }) => calls['ListContainers']?.p50),
    standing('memory of each standing pod, MB', ({ bytesPerPod }) => megabytes(bytesPerPod)),
    standing(`processor at rest, ${pods} pods, %`, ({ restShare }) => restShare && restShare * 100),
    standing(`start with ${pods} pods, ms`, ({ startMs }) => startMs),
    plain('exec stream, MB/s', ({ streams }) => megabytes(streams?.exec.bytesPerSecond)),
    plain('port-forward stream, MB/s', ({ streams }) => megabytes(streams?.portForward.bytesPerSecond)),
  ];
}

function panelHeight({ bars }: Panel): number {
  return TITLE_HEIGHT + bars.length * BAR_STEP + MARGIN;
}

function drawPanel({ title, bars }: Panel, left: number, top: number): string {
  const most = Math.max(...bars.map(({ value, whisker = 0 }) => Math.max(value, whisker)), Number.MIN_VALUE);
  const room = PANEL_WIDTH - LABEL_WIDTH - VALUE_WIDTH - MARGIN;
  const lines = bars.map(({ of, label, value, whisker }, index) => {
    const y = top + TITLE_HEIGHT + index * BAR_STEP;
    const x = left + LABEL_WIDTH;
    const length = (value / most) * room;
    const reach = ((whisker ?? 0) / most) * room;
    const middle = y + BAR_HEIGHT / 2;
    return [
      index > 0 && bars[index - 1]?.label === label ? '' : text(left, y + 12, label),
      `<rect x="${x}" y="${y}" width="${fixed(length)}" height="${BAR_HEIGHT}" fill="${colour(of)}"/>\n`,
      whisker === undefined
        ? ''
        : `<path d="M${fixed(x + length)} ${middle}H${fixed(x + reach)}m0 -4v8" stroke="${colour(of)}" fill="none"/>\n`,
      text(x + Math.max(length, reach) + 6, y + 12, shown(value)),
    ].join('');
  });
  return `<text x="${left}" y="${top + 20}" font-weight="bold">${escaped(title)}</text>\n${lines.join('')}`;
}

function drawLegend(index: number, name: string): string {
  const x = MARGIN + index * PANEL_WIDTH;
  return `<rect x="${x}" y="14" width="14" height="14" fill="${colour(index)}"/>\n${text(x + 20, 26, name)}`;
}

function text(x: number, y: number, content: string): string {
  return `<text x="${fixed(x)}" y="${y}">${escaped(content)}</text>\n`;
}

function shown(value: number): string {
  if (value >= 100) return value.toFixed(0);
  return value.toFixed(value >= 10 ? 1 : 2);
}

function fixed(value: number): string {
  return value.toFixed(1);
}

function colour(index: number): string {
  return COLOURS[index % COLOURS.length] ?? 'black';
}

function escaped(content: string): string {
  return content.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}

function megabytes(bytes: number | undefined): number | undefined {
  return bytes === undefined ? undefined : bytes / 1e6;
}
