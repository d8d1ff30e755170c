/** The disk that brings this checkout into the virtual machine, as /opt/berth: what tests need, and no tools. */

import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { cp, mkdir } from 'node:fs/promises';
import { join, relative } from 'node:path';

const TOP = join(import.meta.dirname, '../..');
/** Of the checkout; node_modules is looked through. */
const TAKEN = [
  'bin',
  'deploy',
  'dist',
  'native',
  'node_modules',
  'package.json',
  'package-lock.json',
  'proto',
  'scripts',
  'src',
  'test',
  'tsconfig.json',
];
/** Development packages that tests import. */
const TESTS_NEED = new Set(['fast-check', 'pure-rand']);
/** Of Node's own package only the program is needed. */
const NODE_EXTRAS = /^node_modules\/node-linux-[a-z0-9]+\/(include|share)$/;
const DISK_MIB = 1024;
const MKFS_TIMEOUT_MS = 120_000;

/** The folders of packages that a lockfile has for development only, save those that tests import. */
export function developmentFolders(lockfile: string): Set<string> {
  const { packages } = JSON.parse(lockfile) as {
    packages: Readonly<Record<string, { readonly dev?: boolean; readonly devOptional?: boolean }>>;
  };
  const folders = Object.entries(packages).flatMap(([path, { dev, devOptional }]) =>
    dev || devOptional ? [path] : [],
  );
  return new Set(folders.filter((path) => !TESTS_NEED.has(path.replace(/^.*node_modules\//, ''))));
}

/** True for a path of the checkout that goes along. */
export function isTaken(path: string, leftOut: ReadonlySet<string>): boolean {
  if (leftOut.has(path) || NODE_EXTRAS.test(path)) return false;
  return !/^(node_modules\/\.cache|test\/vm\/results|dist\/\.compile-cache|dist\/packages)$/.test(path);
}

/** Makes the ext4 image `disk`. `extra` adds what is not of the checkout: paths in the disk, and where they are now. */
export async function makeCheckoutDisk(disk: string, work: string, extra: ReadonlyMap<string, string>): Promise<void> {
  const leftOut = developmentFolders(readFileSync(join(TOP, 'package-lock.json'), 'utf8'));
  const staged = mkdtempSync(join(work, 'checkout-'));
  try {
    for (const name of TAKEN.filter((name) => existsSync(join(TOP, name)))) {
      await cp(join(TOP, name), join(staged, name), {
        recursive: true,
        verbatimSymlinks: true,
        preserveTimestamps: true,
        filter: (source) => isTaken(relative(TOP, source), leftOut),
      });
    }
    for (const [path, source] of extra) {
      await mkdir(join(staged, path, '..'), { recursive: true });
      await cp(source, join(staged, path), { recursive: true, preserveTimestamps: true });
    }
    writeFileSync(disk, '');
    const args = ['-q', '-F', '-E', 'lazy_itable_init=0,lazy_journal_init=0', '-d', staged, disk, `${DISK_MIB}M`];
    execFileSync('mkfs.ext4', args, { timeout: MKFS_TIMEOUT_MS, stdio: ['ignore', 'ignore', 'inherit'] });
  } finally {
    rmSync(staged, { recursive: true, force: true });
  }
}
