import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import { build } from 'esbuild';

/** What a bundle was made from. */
export interface Bundle {
  /** The npm packages whose code is in it, by name. */
  readonly packages: readonly string[];
}

/** Packages that stay folders of their own: two with native code, and one of which parts are loaded by their paths. */
export const SEPARATE_PACKAGES: readonly string[] = ['koffi', 'better-sqlite3', 'undici'];

/** Programs and threads that are started by name. A thread looks for its file beside the code that starts it. */
const ENTRIES: Readonly<Record<string, string>> = {
  main: 'src/main.ts',
  cli: 'src/cli/main.ts',
  'namespace-worker': 'src/sys/namespace-worker.ts',
  'disk-worker': 'src/image/disk-worker.ts',
  'wal-checkpoint-worker': 'src/store/wal-checkpoint-worker.ts',
  'yaml-worker': 'src/runtime/cdi/yaml-worker.ts',
};

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
    entryPoints: { ...ENTRIES },
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
    charset: 'utf8',
    metafile: true,
    logLevel: 'warning',
  });
  const inputs = Object.keys(metafile.inputs);
  const packages = inputs.flatMap((path) => /^node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(path)?.[1] ?? []);
  return { packages: [...new Set(packages)].sort() };
}

/** Name, version and such of an npm package, or of Berth for the folder of the checkout. */
export function readPackage(folder: string): { readonly name: string; readonly version: string; license?: string } {
  return JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as { name: string; version: string };
}
