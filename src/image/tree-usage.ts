import { constants } from 'node:fs';

import { AT_FDCWD, closeFd, type FileFacts, fstatat, openat } from '../sys/at.ts';
import { isErrno } from '../sys/errno.ts';
import { entriesOf } from './remove-tree.ts';

const { O_DIRECTORY, O_NOFOLLOW, O_RDONLY, S_IFDIR, S_IFMT } = constants;

/** What a tree takes on disk. */
export interface TreeUsage {
  readonly usedBytes: number;
  readonly inodesUsed: number;
}

/** What a tree takes, and how long it took to find out. */
export interface TreeWalk extends TreeUsage {
  readonly walkMs: number;
}

/** Each level holds a descriptor. Nobody but a container that plays tricks has folders this deep. */
const MAX_DEPTH = 256;

/**
 * What a name in an open folder takes on disk, with all that is below it; files with several names count once, what
 * goes away meanwhile is left out, and so is what other mounts cover or lies deeper than 256 folders. Synchronous: for
 * worker threads.
 */
export function treeUsageAt(dirfd: number, name: string | Buffer): TreeUsage {
  const walk = new Walk();
  walk.visit(dirfd, name, 0);
  return { usedBytes: walk.usedBytes, inodesUsed: walk.inodesUsed };
}

/** As `treeUsageAt`, for an absolute path. */
export function treeUsage(path: string): TreeUsage {
  return treeUsageAt(AT_FDCWD, path);
}

class Walk {
  usedBytes = 0;
  inodesUsed = 0;
  readonly #seen = new Set<bigint>();
  #device: string | undefined;

  visit(dirfd: number, name: string | Buffer, depth: number): void {
    const facts = unlessGone(() => fstatat(dirfd, name));
    if (!facts) return;
    const device = `${facts.deviceMajor}:${facts.deviceMinor}`;
    this.#device ??= device;
    if (device !== this.#device || !this.#isNew(facts)) return;
    this.usedBytes += facts.allocatedBytes;
    this.inodesUsed += 1;
    if ((facts.mode & S_IFMT) === S_IFDIR && depth < MAX_DEPTH) this.#visitFolder(dirfd, name, depth);
  }

  #visitFolder(dirfd: number, name: string | Buffer, depth: number): void {
    const fd = unlessGone(() => openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
    if (fd === undefined) return;
    try {
      for (const entry of entriesOf(fd)) this.visit(fd, entry.name, depth + 1);
    } finally {
      closeFd(fd);
    }
  }

  #isNew(facts: FileFacts): boolean {
    if (facts.links === 1 || (facts.mode & S_IFMT) === S_IFDIR) return true;
    if (this.#seen.has(facts.inode)) return false;
    this.#seen.add(facts.inode);
    return true;
  }
}

function unlessGone<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch (err) {
    if (isErrno(err, 'ENOENT', 'ENOTDIR', 'ELOOP')) return undefined;
    throw err;
  }
}
