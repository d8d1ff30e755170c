import { execFileSync } from 'node:child_process';
import { copyFileSync, existsSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const buildScript = fileURLToPath(new URL('../../native/build.sh', import.meta.url));

const builtFolder = fileURLToPath(new URL('../../dist/native', import.meta.url));

type NativeName = 'pause' | 'exec-monitor' | 'exec-join' | 'filter-reader' | 'late-close.so';

// A virtual machine has the checkout as it was built, and no compiler.
const COMPILER = '/usr/bin/cc';
export const hasCompiler = existsSync(COMPILER);

/** Compiles a program of native into an existing folder, or copies what `npm run build` has made of it; returns its path. */
export function buildNative(name: NativeName, folder: string): string {
  const path = `${folder}/${name}`;
  if (hasCompiler) execFileSync('/bin/sh', [buildScript, name, path], { timeout: 60_000 });
  else copyFileSync(join(builtFolder, name), path);
  return path;
}

/** Compiles a program of native with other values for what it defines, as { KEPT_MS: 60_000 }. Needs a compiler. */
export function buildNativeWith(values: Readonly<Record<string, number>>, name: NativeName, path: string): string {
  const CPPFLAGS = Object.entries(values)
    .map(([macro, value]) => `-D${macro}=${value}`)
    .join(' ');
  const env = { ...process.env, CPPFLAGS };
  execFileSync('/bin/sh', [buildScript, name, path], { env, timeout: 60_000 });
  return path;
}

/** Compiles a library of C source that is linked with others, by the names of their files. Needs a compiler. */
export function buildLibrary(source: string, libraries: readonly string[], path: string): string {
  const links = libraries.map((file) => `-l:${file}`);
  execFileSync(COMPILER, ['-shared', '-fPIC', '-x', 'c', '-', '-x', 'none', '-o', path, ...links], {
    input: source,
    timeout: 60_000,
  });
  return path;
}
