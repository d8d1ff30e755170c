import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { type Bundle, bundle, readPackage, SEPARATE_PACKAGES } from './bundle.ts';
import { Tree } from './tree.ts';

const STRIP_TIMEOUT_MS = 60_000;
const SQUASH_TIMEOUT_MS = 600_000;
/** The best that is quick to make: beyond it 22, the last, saves one part in a hundred and takes many times as long. */
const SQUASH_LEVEL = 15;
/** What is read and unpacked at once. Eight times as much saves a tenth on disk, and makes a start read far more. */
const SQUASH_BLOCK_BYTES = 128 * 1024;

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
  /** The time of what is in Node's image, in seconds since 1970. */
  readonly epochSeconds: number;
}

/** Where Node's image is mounted, below the folder of a version. */
export const NODE_MOUNT = 'node';

/**
 * Puts the program into a folder of the tree, complete: the bundled code, the native programs and modules, Node and two
 * start scripts in bin/. It runs wherever that folder is. Needs the checkout to be built. The code and Node are in a
 * folder named after the version: while another version is unpacked beside it, a berthd that runs finds what it has not
 * loaded yet, and nothing is ever unpacked into a folder that is mounted over.
 */
export async function addProgram(
  tree: Tree,
  folder: string,
  { top, version, epochSeconds }: ProgramParts,
): Promise<Pick<Bundle, 'packages'>> {
  const made = await bundle(top, join(tree.top, folder, version, 'src'));
  for (const name of ['berthd', 'berth']) {
    const script = readFileSync(join(top, 'packaging/bin', name), 'utf8');
    tree.file(join(folder, 'bin', name), script.replaceAll('$root/VERSION/', `$root/${version}/`), true);
  }
  for (const name of ['pause', 'exec-monitor', 'exec-join', 'filter-reader', 'late-close.so'])
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
  for (const binary of [join(modules, koffi, addon), join(modules, prebuilt)]) strip(join(tree.top, binary));
  tree.copy(join(top, 'packaging/bin/provide-node'), join(folder, version, 'provide-node'), true);
  tree.folder(join(folder, version, NODE_MOUNT));
  const image = join(folder, version, 'node.squashfs');
  addNodeImage(tree, image, { program: join(top, `node_modules/node-${platform}/bin/node`), epochSeconds });
  return { packages: [...made.packages, ...SEPARATE_PACKAGES, koffi, `node-${platform}`].sort() };
}

/** Node's program is four parts of five of all, and a start needs the lesser part of it: it stays compressed. */
function addNodeImage(
  tree: Tree,
  path: string,
  { program, epochSeconds }: { readonly program: string; readonly epochSeconds: number },
): void {
  const folder = mkdtempSync(join(tmpdir(), 'berth-node-'));
  try {
    const content = new Tree(join(folder, 'content'));
    content.copy(program, 'bin/node', true);
    strip(join(content.top, 'bin/node'));
    content.settle(epochSeconds);
    const made = join(folder, 'node.squashfs');
    const packed = ['-comp', 'zstd', '-Xcompression-level', String(SQUASH_LEVEL), '-b', String(SQUASH_BLOCK_BYTES)];
    const same = ['-reproducible', '-all-root', '-all-time', String(epochSeconds), '-mkfs-time', String(epochSeconds)];
    const { SOURCE_DATE_EPOCH: _, ...env } = process.env;
    execFileSync('mksquashfs', [content.top, made, ...packed, ...same, '-no-xattrs', '-noappend', '-no-progress'], {
      timeout: SQUASH_TIMEOUT_MS,
      stdio: ['ignore', 'ignore', 'inherit'],
      // mksquashfs refuses to be told the time twice.
      env,
    });
    tree.copy(made, path);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function strip(binary: string): void {
  execFileSync('strip', ['--strip-all', binary], { timeout: STRIP_TIMEOUT_MS });
}
