/** Writes the table of all metrics into docs/metrics.md, or into the copy of it that is named. */

import { readFileSync, writeFileSync } from 'node:fs';

import { renderMetricsTable } from '../src/metrics/catalog.ts';

const source = new URL('../docs/metrics.md', import.meta.url);
const text = readFileSync(source, 'utf8');
const table = /\n\| Metric +\|[\s\S]*?\n(?=\n)/;
if (!table.test(text)) throw new Error('docs/metrics.md has no table of metrics any more');
writeFileSync(
  process.argv[2] ?? source,
  text.replace(table, () => `\n${renderMetricsTable()}\n`),
);
