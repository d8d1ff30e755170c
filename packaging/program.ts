import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import { type Bundle, bundle, readPackage, SEPARATE_PACKAGES } from './bundle.ts';
import type { Tree } from './tree.ts';

const STRIP_TIMEOUT_MS = 60_000;

/** The files of packages that stay folders of their own, as far as they are loaded. */
const LOADED: Readonly<Record<string, RegExp>> = {
  koffi: /^(package\.json|index\.js|src\/koffi\/(src\/static|index)\.js)$/,
  'better-sqlite3': /^(package\.json|lib\/.*\.js)$/,
  undici: /^(package\.json|index\.js|lib\/.*\.js)$/,
};

/** Where the parts of the program come from, and what is made. */
export interface ProgramParts {
  /** The checkout, built. */
  readonly top: string;
  readonly version: string;
}

/**
 * Puts the program into a folder of the tree, complete: the bundled code, the native programs and modules, Node and two
 * start scripts in bin/. It runs wherever that folder is. Needs the checkout to be built. The code is in a folder named
 * after the version: while another version is unpacked beside it, a berthd that runs finds what it has not loaded yet.
 */
export async function addProgram(
  tree: Tree,
  folder: string,
  { top, version }: ProgramParts,
): Promise<Pick<Bundle, 'packages'>> {
  const made = await bundle(top, join(tree.top, folder, version, 'src'));
  for (const name of ['berthd', 'berth']) {
    const script = readFileSync(join(top, 'packaging/bin', name), 'utf8');
    tree.file(join(folder, 'bin', name), script.replace('$root/VERSION/', `$root/${version}/`), true);
  }
  for (const name of ['pause', 'exec-monitor'])
    tree.copy(join(top, 'dist/native', name), join(folder, 'native', name), true);
  const { name, license } = readPackage(top);
  const own = { name, version, license, type: 'module' };
  tree.file(join(folder, 'package.json'), `${JSON.stringify(own, undefined, 2)}\n`);

  const platform = `linux-${process.arch}`;
  const modules = join(folder, version, 'node_modules');
  for (const separate of SEPARATE_PACKAGES)
    tree.copyFolder(join(top, 'node_modules', separate), join(modules, separate), LOADED[separate]);
  const koffi = `@koromix/koffi-${platform}`;
  const addon = `linux_${process.arch}/koffi.node`;
  for (const file of ['package.json', 'index.js', addon])
    tree.copy(join(top, 'node_modules', koffi, file), join(modules, koffi, file));
  const prebuilt = `better-sqlite3/prebuilds/${platform}.node`;
  tree.copy(join(top, 'node_modules', prebuilt), join(modules, prebuilt));
  tree.copy(join(top, `node_modules/node-${platform}/bin/node`), join(folder, 'node/bin/node'), true);
  for (const binary of [join(modules, koffi, addon), join(modules, prebuilt), join(folder, 'node/bin/node')])
    execFileSync('strip', ['--strip-all', join(tree.top, binary)], { timeout: STRIP_TIMEOUT_MS });
  return { packages: [...made.packages, ...SEPARATE_PACKAGES, koffi, `node-${platform}`].sort() };
}
