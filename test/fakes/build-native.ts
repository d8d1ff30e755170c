import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const buildScript = fileURLToPath(new URL('../../native/build.sh', import.meta.url));

/** Compiles a program of native into an existing folder and returns its path. Needs a C compiler. */
export function buildNative(name: 'pause' | 'exec-monitor', folder: string): string {
  const path = `${folder}/${name}`;
  execFileSync('/bin/sh', [buildScript, name, path], { timeout: 60_000 });
  return path;
}
