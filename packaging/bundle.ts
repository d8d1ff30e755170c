import { globSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';

import { build } from 'esbuild';

/** What a bundle was made from. */
export interface Bundle {
  /** The npm packages whose code is in it, by name. */
  readonly packages: readonly string[];
  /** The names of its files. */
  readonly files: readonly string[];
}

/** Packages that stay folders of their own: two with native code, and one of which parts are loaded by their paths. */
export const SEPARATE_PACKAGES: readonly string[] = ['koffi', 'better-sqlite3', 'undici'];

/** Where programs begin: the two, and the process that berthd has work on the disk done by. */
const PROGRAMS: Readonly<Record<string, string>> = {
  main: 'src/main.ts',
  cli: 'src/cli/main.ts',
  'disk-program': 'src/image/disk-program.ts',
};

/** Programs and threads. A thread is started by the name of its file, beside the code that starts it. */
function findEntries(top: string): Record<string, string> {
  const threads = globSync('src/**/*-worker.ts', { cwd: top }).map((path) => [basename(path, '.ts'), path] as const);
  const entries = Object.fromEntries([...Object.entries(PROGRAMS), ...threads.sort()]);
  if (Object.keys(entries).length !== threads.length + Object.keys(PROGRAMS).length)
    throw new Error(`two threads have one name: ${threads.map(([, path]) => path).join(', ')}`);
  return entries;
}

/** What CommonJS code finds around it, for the packages that are such. */
const COMMONJS = [
  "import { createRequire as bundledRequire } from 'node:module';",
  'const require = bundledRequire(import.meta.url);',
  'const __filename = import.meta.filename;',
  'const __dirname = import.meta.dirname;',
].join('\n');

/**
 * Puts the code of src and of the npm packages that it uses into few files, which a start reads in half the time of
 * many. All lie in one folder, so that what code looks for beside itself is there for every part of it.
 */
export async function bundle(top: string, folder: string): Promise<Bundle> {
  const { metafile } = await build({
    absWorkingDir: top,
    entryPoints: findEntries(top),
    outdir: folder,
    entryNames: '[name]',
    chunkNames: 'part-[hash]',
    bundle: true,
    splitting: true,
    platform: 'node',
    target: 'node24',
    format: 'esm',
    external: [...SEPARATE_PACKAGES],
    banner: { js: COMMONJS },
    // What is wrong in the field is read from stack traces: lines and names stay, comments go.
    legalComments: 'none',
    // One character that is not Latin-1 has V8 keep two bytes for each of its file.
    charset: 'ascii',
    metafile: true,
    logLevel: 'warning',
  });
  const inputs = Object.keys(metafile.inputs);
  const packages = inputs.flatMap((path) => /^node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(path)?.[1] ?? []);
  return {
    packages: [...new Set(packages)].sort(),
    files: Object.keys(metafile.outputs).map((path) => basename(path)),
  };
}

/** Name, version and such of an npm package, or of Berth for the folder of the checkout. */
export function readPackage(folder: string): { readonly name: string; readonly version: string; license?: string } {
  return JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as { name: string; version: string };
}
