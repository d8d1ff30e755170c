import type { Series } from './prometheus.ts';
import type { Panel } from './read-dashboard.ts';

/** A panel with what its expressions gave. */
export interface DrawnPanel {
  readonly panel: Panel;
  readonly series: readonly (Series & { readonly name: string })[];
}

const COLUMN_PX = 46;
const ROW_PX = 27;
const WIDTH_PX = 24 * COLUMN_PX;
const LEFT_PX = 52;
const TOP_PX = 26;
const LEGEND_LINE_PX = 13;
const MOST_SERIES = 6;
const COLORS = ['#73bf69', '#f2cc0c', '#5794f2', '#ff780a', '#f2495c', '#b877d9', '#8ab8ff', '#fade2a'];

/** Grafana's dashboard as one picture: its panels in their places, drawn from what their expressions gave. */
export function drawDashboard(
  title: string,
  panels: readonly DrawnPanel[],
  { fromSeconds, toSeconds }: { readonly fromSeconds: number; readonly toSeconds: number },
): string {
  const rows = Math.max(...panels.map(({ panel: { gridPos } }) => gridPos.y + gridPos.h));
  const height = rows * ROW_PX + 40;
  const body = panels.map((one) => {
    const { x, y } = one.panel.gridPos;
    const drawn = one.panel.type === 'timeseries' ? drawLines(one, fromSeconds, toSeconds) : drawOther(one);
    return `<g transform="translate(${x * COLUMN_PX},${y * ROW_PX + 34})">${drawn}</g>`;
  });
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH_PX} ${height}" font-family="sans-serif" font-size="10">`,
    '<title>The panels of the Grafana dashboard, drawn from what was scraped</title>',
    '<style>path{fill:none;stroke-width:1.3}.p{fill:#181b1f;stroke:#2c3235}.t{fill:#ccccdc}.a{fill:#8e8e9e}.g{stroke:#2c3235}</style>',
    `<rect width="${WIDTH_PX}" height="${height}" fill="#111217"/>`,
    `<text class="t" x="8" y="22" font-size="16">${escapeXml(title)}</text>`,
    ...body,
    '</svg>\n',
  ].join('\n');
}

function drawOther({ panel, series }: DrawnPanel): string {
  const [width, height] = [panel.gridPos.w * COLUMN_PX - 6, panel.gridPos.h * ROW_PX - 6];
  if (panel.type === 'row') return `<text class="t" x="8" y="18" font-size="13">${escapeXml(panel.title)}</text>`;
  const last = series[0]?.points.at(-1)?.[1];
  const value = last === undefined ? 'no data' : show(last, panel.fieldConfig?.defaults.unit ?? '');
  return [
    `<rect class="p" x="3" width="${width}" height="${height}"/>`,
    `<text class="t" x="10" y="17">${escapeXml(panel.title)}</text>`,
    `<text x="${width / 2}" y="${height / 2 + 20}" font-size="26" text-anchor="middle" fill="#73bf69">${value}</text>`,
  ].join('');
}

function drawLines({ panel, series }: DrawnPanel, from: number, to: number): string {
  const { unit = '', custom } = panel.fieldConfig?.defaults ?? {};
  const isStacked = custom?.stacking.mode === 'normal';
  const shown = series
    .filter(({ points }) => points.length > 0)
    .toSorted((a, b) => peak(b.points) - peak(a.points))
    .slice(0, MOST_SERIES);
  const lines = isStacked ? stacked(shown) : shown.map(({ points }) => points);
  const [width, height] = [panel.gridPos.w * COLUMN_PX - 6, panel.gridPos.h * ROW_PX - 6];
  // Long names have a line to themselves.
  const columns = shown.some(({ name }) => name.length > 20) ? 1 : 2;
  const plotHeight = height - TOP_PX - 16 - Math.ceil(shown.length / columns) * LEGEND_LINE_PX;
  const base = unit === 'bytes' || unit === 'Bps' ? 1024 : 1;
  const top = niceTop(Math.max(0, ...lines.map(peak)), base);
  const xOf = (at: number): string => (LEFT_PX + ((at - from) / (to - from)) * (width - LEFT_PX - 8)).toFixed(0);
  const yOf = (value: number): string => (TOP_PX + plotHeight * (1 - value / top)).toFixed(1);
  const grid = [0, 0.5, 1].map((part) => {
    const y = yOf(top * part);
    const label = `<text class="a" x="${LEFT_PX - 5}" y="${Number(y) + 3}" text-anchor="end">${show(top * part, unit)}</text>`;
    return `<line class="g" x1="${LEFT_PX}" x2="${width - 8}" y1="${y}" y2="${y}"/>${label}`;
  });
  const paths = lines.map((points, at) => {
    const steps = points.map(([x, y]) => `${xOf(x)} ${yOf(y)}`);
    return `<path stroke="${COLORS[at]}" d="M${steps.join('L')}"/>`;
  });
  const legend = shown.map(({ name, points }, at) => {
    const x = 10 + (at % columns) * (width / 2);
    const y = TOP_PX + plotHeight + 26 + Math.floor(at / columns) * LEGEND_LINE_PX;
    const last = points.at(-1)?.[1] ?? 0;
    const text = `${name.length > 46 ? `${name.slice(0, 45)}…` : name} ${show(last, unit)}`;
    return `<rect x="${x}" y="${y - 6}" width="9" height="3" fill="${COLORS[at]}"/><text class="a" x="${x + 13}" y="${y}">${escapeXml(text)}</text>`;
  });
  const ends = [from, to].map((at, end) => {
    const time = new Date(at * 1000).toISOString().slice(11, 19);
    const place = end === 0 ? `x="${LEFT_PX}"` : `x="${width - 8}" text-anchor="end"`;
    return `<text class="a" ${place} y="${TOP_PX + plotHeight + 13}">${time}</text>`;
  });
  return [
    `<rect class="p" x="3" width="${width}" height="${height}"/>`,
    `<text class="t" x="10" y="17">${escapeXml(panel.title)}</text>`,
    ...(shown.length === 0
      ? ['<text class="a" x="60" y="60">no data</text>']
      : [...grid, ...ends, ...paths, ...legend]),
  ].join('');
}

/** Each on top of those before it, where both have a value. */
function stacked(series: readonly Series[]): (readonly (readonly [number, number])[])[] {
  const sums = new Map<number, number>();
  return series.map(({ points }) =>
    points.map(([at, value]) => {
      const sum = (sums.get(at) ?? 0) + value;
      sums.set(at, sum);
      return [at, sum] as const;
    }),
  );
}

function peak(points: Series['points']): number {
  return Math.max(0, ...points.map(([, value]) => value));
}

/** The end of an axis; with `base` 1024 in round numbers of KiB, MiB or GiB. */
function niceTop(value: number, base: number): number {
  if (value <= 0) return 1;
  const unit = base === 1 ? 1 : base ** Math.max(0, Math.floor(Math.log(value) / Math.log(base)));
  const power = unit * 10 ** Math.floor(Math.log10(value / unit));
  return ([1, 2, 5, 10].find((step) => step * power >= value) ?? 10) * power;
}

/** A value in its unit, short. */
function show(value: number, unit: string): string {
  if (unit === 's') {
    if (value < 1) return `${Number((value * 1000).toPrecision(3))} ms`;
    return value < 120 ? `${Number(value.toPrecision(3))} s` : `${Math.round(value / 60)} min`;
  }
  const scale = unit === 'bytes' || unit === 'Bps' ? 1024 : 1000;
  const names = scale === 1024 ? ['B', 'KiB', 'MiB', 'GiB'] : ['', 'k', 'M', 'G'];
  const power = value >= 1 ? Math.min(3, Math.floor(Math.log(value) / Math.log(scale))) : 0;
  const text = `${Number((value / scale ** power).toPrecision(3))} ${names[power]}`.trim();
  const ends: Readonly<Record<string, string>> = { reqps: '/s', ops: '/s', Bps: '/s' };
  return `${text}${ends[unit] ?? ''}`;
}

function escapeXml(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}
