/** Draws a soak: `node test/soak/plot.ts soak.jsonl docs/soak.svg`. */

import { readFileSync, writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';

import type { SoakSample } from './soak.ts';

/** One figure over the pods that have lived. */
interface Panel {
  readonly title: string;
  readonly of: (sample: SoakSample) => number;
  readonly isDrawn?: (sample: SoakSample) => boolean;
}

type Line = SoakSample & { readonly phase: string };

const WIDTH = 800;
const HEIGHT = 150;
const LEFT = 60;
const GAP = 40;
const COLOURS: Readonly<Record<string, string>> = { kills: '#b23a48', calm: '#2a6f97' };
const PANELS: readonly Panel[] = [
  { title: 'memory, MiB', of: ({ memoryBytes }) => memoryBytes / 2 ** 20 },
  { title: 'descriptors', of: ({ descriptors }) => descriptors },
  { title: 'threads', of: ({ threads }) => threads },
  { title: 'database, MiB', of: ({ databaseBytes }) => databaseBytes / 2 ** 20 },
  // The calm part has no starts.
  { title: 'start, s', of: ({ startMs }) => startMs / 1000, isDrawn: ({ startMs }) => startMs > 0 },
];

const { positionals } = parseArgs({ allowPositionals: true });
const [from, to] = positionals;
if (from === undefined || to === undefined) throw new Error('usage: node test/soak/plot.ts soak.jsonl plot.svg');
const lines = readFileSync(from, 'utf8')
  .split('\n')
  .filter(Boolean)
  .map((line) => JSON.parse(line) as Line);
const total = (HEIGHT + GAP) * PANELS.length + GAP;
const panels = PANELS.map((panel, index) => draw(panel, GAP + index * (HEIGHT + GAP)));
const legend = `<text x="${LEFT}" y="16">pods of one berthd after another; red: it was killed now and then, blue: it was not</text>`;
writeFileSync(
  to,
  `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH + LEFT + 20} ${total}" font-family="sans-serif" font-size="12">
<title>What berthd takes over the pods of a soak</title>
<rect width="100%" height="100%" fill="white"/>
${legend}
${panels.join('\n')}
</svg>
`,
);

function draw({ title, of, isDrawn = () => true }: Panel, top: number): string {
  const most = Math.max(...lines.map(of)) * 1.1 || 1;
  const longest = Math.max(...lines.map(({ lifecycles }) => lifecycles), 1);
  const curves = Object.entries(COLOURS).map(([phase, colour]) => {
    const points = lines
      .filter((line) => line.phase === phase && isDrawn(line))
      .map((line) => {
        const x = LEFT + (line.lifecycles / longest) * WIDTH;
        return `${x.toFixed(1)},${(top + HEIGHT - (of(line) / most) * HEIGHT).toFixed(1)}`;
      });
    return `<polyline fill="none" stroke="${colour}" stroke-width="1.5" points="${points.join(' ')}"/>`;
  });
  const axis = `<path d="M${LEFT} ${top}V${top + HEIGHT}H${LEFT + WIDTH}" fill="none" stroke="#888"/>`;
  const marks = [
    `<text x="4" y="${top + 10}">${most.toFixed(0)}</text>`,
    `<text x="4" y="${top + HEIGHT}">0</text>`,
    `<text x="${LEFT + 8}" y="${top + 14}">${title}</text>`,
    `<text x="${LEFT + WIDTH - 40}" y="${top + HEIGHT + 14}">${longest}</text>`,
  ];
  return [axis, ...curves, ...marks].join('\n');
}
