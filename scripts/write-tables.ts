/** Writes the tables that are made of code: docs/metrics.md and docs/operations.md, or into the folder that is named. */

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { renderReloadTable } from '../src/config/compare-configs.ts';
import { renderMetricsTable } from '../src/metrics/catalog.ts';

const docs = fileURLToPath(new URL('../docs', import.meta.url));
const to = process.argv[2] ?? docs;

function write(name: string, firstCell: string, table: string): void {
  const text = readFileSync(join(docs, name), 'utf8');
  const place = new RegExp(`\\n\\| ${firstCell} +\\|[\\s\\S]*?\\n(?=\\n)`);
  if (!place.test(text)) throw new Error(`docs/${name} has no table of ${firstCell} any more`);
  writeFileSync(
    join(to, name),
    text.replace(place, () => `\n${table}\n`),
  );
}

write('metrics.md', 'Metric', renderMetricsTable());
write('operations.md', 'Key', renderReloadTable());
