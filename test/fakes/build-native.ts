import { execFileSync } from 'node:child_process';
import { copyFileSync, existsSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const buildScript = fileURLToPath(new URL('../../native/build.sh', import.meta.url));

const builtFolder = fileURLToPath(new URL('../../dist/native', import.meta.url));

type NativeName = 'pause' | 'exec-monitor' | 'exec-join' | 'filter-reader' | 'late-close.so';

/** Compiles a program of native into an existing folder, or copies what `npm run build` has made of it; returns its path. */
export function buildNative(name: NativeName, folder: string): string {
  const path = `${folder}/${name}`;
  // A virtual machine has the checkout as it was built, and no compiler.
  if (existsSync('/usr/bin/cc')) execFileSync('/bin/sh', [buildScript, name, path], { timeout: 60_000 });
  else copyFileSync(join(builtFolder, name), path);
  return path;
}
