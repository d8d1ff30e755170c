/** The Debian that the virtual machine boots: made once, kept in a cache under a name for all that went into it. */

import { execFileSync, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
} from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';

import { NGINX_PACKAGES } from '../fakes/nginx.ts';
import { lastLines } from './machine.ts';

/** Where the parts of a base image are. */
export interface BaseImage {
  readonly root: string;
  readonly kernel: string;
  readonly initrd: string;
}

/** Where Debian's packages come from. */
export interface Mirrors {
  readonly main: string;
  readonly security: string;
}

const SUITE = 'bookworm';
const HERE = import.meta.dirname;
const SCRIPT = join(HERE, 'base-image.sh');
const GUEST = join(HERE, 'guest');
const PACKAGES_SCRIPT = join(HERE, '../../scripts/debian-packages.sh');
const DEBIAN: Mirrors = { main: 'http://deb.debian.org/debian', security: 'http://deb.debian.org/debian-security' };
/** What makes a Debian a node to test on. Berth's own packages come from scripts/debian-packages.sh. */
const MACHINE_PACKAGES = [
  ...['linux-image-cloud-amd64', 'initramfs-tools', 'lz4', 'kmod', 'apparmor', 'ca-certificates'],
  // critest loads its profiles by it.
  'sudo',
];
const BUILD_TIMEOUT_MS = 20 * 60_000;
const KEPT_DAYS = 14;
const DAY_MS = 86_400_000;

/** The mirrors among what `apt-get indextargets` says with ORIGIN, LABEL and REPO_URI; Debian's own where it says none. */
export function mirrorsOf(indexTargets: string): Mirrors {
  const find = (label: string): string | undefined =>
    indexTargets
      .split('\n')
      .map((line) => line.split('\t'))
      .find(([origin, name, uri]) => origin === 'Debian' && name === label && uri !== undefined)?.[2]
      ?.replace(/\/$/, '');
  return { main: find('Debian') ?? DEBIAN.main, security: find('Debian-Security') ?? DEBIAN.security };
}

/** The words of the lists in scripts/debian-packages.sh: DEBIAN_RUN='runc crun' and so on. */
export function packagesIn(script: string, lists: readonly string[]): string[] {
  return lists.flatMap((list) => {
    const words = new RegExp(`^DEBIAN_${list}='([^']*)'$`, 'm').exec(script)?.[1];
    if (words === undefined) throw new Error(`scripts/debian-packages.sh has no DEBIAN_${list}`);
    return words.split(' ').filter(Boolean);
  });
}

/** A name for an image that is made of this. */
export function imageKey(ingredients: readonly string[]): string {
  const hash = createHash('sha256');
  for (const ingredient of ingredients) hash.update(`${ingredient.length}:`).update(ingredient);
  return hash.digest('hex').slice(0, 16);
}

/** Where base images are kept. */
export function cacheFolder(): string {
  return join(process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'berth', 'vm');
}

/** Takes the image from the cache, or makes it, which takes minutes and needs the network. Throws with the log's end. */
export async function findBaseImage(rebuild: boolean, say: (text: string) => void): Promise<BaseImage> {
  const packages = [
    ...MACHINE_PACKAGES,
    ...packagesIn(readFileSync(PACKAGES_SCRIPT, 'utf8'), ['BUILD', 'RUN', 'DEMO', 'TEST']),
  ];
  const guest = readdirSync(GUEST).map((name) => readFileSync(join(GUEST, name), 'utf8'));
  const key = imageKey([SUITE, packages.join(' '), NGINX_PACKAGES.join(' '), readFileSync(SCRIPT, 'utf8'), ...guest]);
  const cache = cacheFolder();
  const folder = join(cache, `${SUITE}-${key}`);
  if (rebuild || !existsSync(folder)) {
    say(`making the base image (Debian ${SUITE}); the next run takes it from ${cache}`);
    mkdirSync(cache, { recursive: true });
    const work = mkdtempSync(join(cache, 'making-'));
    try {
      await make(work, packages);
      rmSync(folder, { recursive: true, force: true });
      renameSync(work, folder);
    } finally {
      // The script's mounts were in a namespace of its own, and are gone with it.
      rmSync(work, { recursive: true, force: true });
    }
  }
  utimesSync(folder, new Date(), new Date());
  dropOld(cache);
  return { root: join(folder, 'root.ext4'), kernel: join(folder, 'vmlinuz'), initrd: join(folder, 'initrd.img') };
}

/** Images that nobody has booted for long are of earlier lists of packages. What is being made belongs to another run. */
function dropOld(cache: string): void {
  for (const name of readdirSync(cache)) {
    const path = join(cache, name);
    const ageDays = (Date.now() - statSync(path).mtimeMs) / DAY_MS;
    if (ageDays > KEPT_DAYS) rmSync(path, { recursive: true, force: true });
  }
}

async function make(folder: string, packages: readonly string[]): Promise<void> {
  const format = '$(ORIGIN)\t$(LABEL)\t$(REPO_URI)';
  const mirrors = mirrorsOf(execFileSync('apt-get', ['indextargets', '--format', format], { encoding: 'utf8' }));
  const logFile = join(folder, 'log');
  const log = openSync(logFile, 'w');
  const lists = [NGINX_PACKAGES.join(' '), ...packages];
  const args = ['-n', '15', SCRIPT, folder, SUITE, mirrors.main, mirrors.security, ...lists];
  const child = spawn('nice', args, { stdio: ['ignore', log, log], timeout: BUILD_TIMEOUT_MS, killSignal: 'SIGKILL' });
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  child.once('error', reject).once('exit', (code, signal) => resolve(signal ?? String(code)));
  const status = await promise;
  if (status !== '0')
    throw new Error(`making the base image ended with ${status}:\n${lastLines(readFileSync(logFile, 'utf8'))}`);
}
