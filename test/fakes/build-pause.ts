import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const buildScript = fileURLToPath(new URL('../../native/build.sh', import.meta.url));

/** Compiles native/pause.c into an existing folder and returns the program's path. Needs a C compiler. */
export function buildPause(folder: string): string {
  const path = `${folder}/pause`;
  execFileSync('/bin/sh', [buildScript, path], { timeout: 60_000 });
  return path;
}
