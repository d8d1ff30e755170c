/**
 * Fails when anything in the program, its tests or its tools has the type `any`, written or inferred. Assertions with
 * `as` are not counted, nor is the generated code.
 */

import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';

interface Report {
  details: { filePath: string; line: number; character: number; text: string }[];
  totalCount: number;
}

const run = spawnSync(
  process.execPath,
  [
    'node_modules/.bin/type-coverage',
    ...['--project', '.', '--strict', '--ignore-as-assertion', '--ignore-nested', '--ignore-files', 'proto/gen/**'],
    ...['--detail', '--show-relative-path', '--json-output'],
  ],
  { encoding: 'utf8', maxBuffer: 64 << 20, timeout: 900_000, stdio: ['ignore', 'pipe', 'inherit'] },
);
// It ended by the time limit, or could not be started.
if (run.error) throw run.error;
const report: Report = JSON.parse(run.stdout);
if (report.totalCount < 1000) throw new Error(`type-coverage looked at ${report.totalCount} identifiers only`);

/** `AbortSignal.reason` is any in the platform's own types: passing it on is fine, keeping it is found elsewhere. */
function isAbortReason(file: string, line: number, character: number, text: string): boolean {
  const before = readFileSync(file, 'utf8').split('\n')[line]?.slice(0, character) ?? '';
  return text === 'reason' && before.endsWith('.');
}

const found = report.details.filter((at) => !isAbortReason(at.filePath, at.line, at.character, at.text));
for (const at of found) console.error(`${at.filePath}:${at.line + 1}:${at.character + 1}: ${at.text} is any`);
console.log(`${report.totalCount} identifiers, ${found.length} of them any`);
process.exitCode = found.length === 0 ? 0 : 1;
