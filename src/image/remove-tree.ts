import { randomBytes } from 'node:crypto';
import { constants, type Dirent, readdirSync } from 'node:fs';

import { AT_FDCWD, closeFd, openat, pathAt, renameat, unlinkat } from '../sys/at.ts';
import { isErrno } from '../sys/errno.ts';

const { O_DIRECTORY, O_NOFOLLOW, O_RDONLY } = constants;

/** Each level holds a descriptor; what lies deeper is moved up first. */
const MAX_DEPTH = 100;

/**
 * Removes a folder in an open one with all that is in it, however deep, and follows no link. What is gone already is
 * success. Synchronous and possibly slow: for worker threads. `throwIfCancelled` is asked at each entry; what it throws
 * leaves the rest.
 */
export function removeTreeAt(dirfd: number, name: string | Buffer, throwIfCancelled: () => void = () => {}): void {
  const top = openFolder(dirfd, name);
  if (top === undefined) return;
  try {
    let moved = 0;
    const lift = (fromFd: number, from: Buffer): void => {
      // A removal that was ended early has left such names there, and a layer may have any.
      renameat(fromFd, from, top, `.deep-${randomBytes(8).toString('hex')}`);
      moved += 1;
    };
    const during = { lift, throwIfCancelled };
    // What was moved up appears in the next round.
    for (let before = -1; before !== moved; ) {
      before = moved;
      empty(top, 0, during);
    }
  } finally {
    closeFd(top);
  }
  unlinkat(dirfd, name, { directory: true });
}

/** As `removeTreeAt`, for an absolute path. */
export function removeTree(path: string, throwIfCancelled?: () => void): void {
  removeTreeAt(AT_FDCWD, path, throwIfCancelled);
}

/** The entries of an open folder. */
export function entriesOf(dirfd: number): Dirent<Buffer>[] {
  return readdirSync(pathAt(dirfd, '.').toString(), { withFileTypes: true, encoding: 'buffer' });
}

interface Removal {
  /** Moves a folder that lies too deep up to the top. */
  readonly lift: (fromFd: number, from: Buffer) => void;
  readonly throwIfCancelled: () => void;
}

function empty(dirfd: number, depth: number, during: Removal): void {
  for (const entry of entriesOf(dirfd)) {
    during.throwIfCancelled();
    if (!entry.isDirectory()) {
      unlinkIfThere(dirfd, entry.name, false);
    } else if (depth >= MAX_DEPTH) {
      during.lift(dirfd, entry.name);
    } else {
      emptyAndRemove(dirfd, entry.name, depth, during);
    }
  }
}

function emptyAndRemove(dirfd: number, name: Buffer, depth: number, during: Removal): void {
  const fd = openFolder(dirfd, name);
  if (fd === undefined) return;
  try {
    empty(fd, depth + 1, during);
  } finally {
    closeFd(fd);
  }
  unlinkIfThere(dirfd, name, true);
}

function openFolder(dirfd: number, name: string | Buffer): number | undefined {
  try {
    return openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  } catch (err) {
    if (isErrno(err, 'ENOENT')) return undefined;
    throw err;
  }
}

function unlinkIfThere(dirfd: number, name: Buffer, directory: boolean): void {
  try {
    unlinkat(dirfd, name, { directory });
  } catch (err) {
    if (!isErrno(err, 'ENOENT')) throw err;
  }
}
