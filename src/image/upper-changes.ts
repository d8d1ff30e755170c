import { closeSync, constants, openSync, writeSync } from 'node:fs';

import { AT_FDCWD, closeFd, fstatat, openat } from '../sys/at.ts';
import { isErrno } from '../sys/errno.ts';
import { lgetxattrat } from '../sys/xattr.ts';
import { isWhiteout } from './layer-root.ts';
import { entriesOf } from './remove-tree.ts';
import { OPAQUE_XATTR } from './whiteout.ts';

const { O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_RDONLY, O_WRONLY, S_IFDIR, S_IFMT } = constants;
/** Each level holds a descriptor. */
const MAX_DEPTH = 256;

/** What a container did to its image's files, beside those that it wrote. Paths begin with a slash, in UTF-8. */
export interface UpperChanges {
  /** Files and folders of the image that are gone. */
  readonly deleted: readonly string[];
  /** Folders that took the place of one of the image, whose content is gone. */
  readonly opaque: readonly string[];
}

/**
 * Reads a snapshot's writable folder, and writes the names of all that is to be kept of it into the new file `list`,
 * each relative to the folder and ended by a NUL. Synchronous: for worker threads.
 */
export function upperChanges({ upper, list }: { readonly upper: string; readonly list: string }): UpperChanges {
  const changes = { deleted: [] as string[], opaque: [] as string[] };
  const out = openSync(list, O_WRONLY | O_CREAT | O_EXCL, 0o600);
  const top = openat(AT_FDCWD, upper, O_RDONLY | O_DIRECTORY);
  try {
    visit(top, Buffer.alloc(0), 0);
  } finally {
    closeFd(top);
    closeSync(out);
  }
  return changes;

  function visit(dirfd: number, path: Buffer, depth: number): void {
    for (const { name } of entriesOf(dirfd)) {
      const full = path.length === 0 ? name : Buffer.concat([path, Buffer.from('/'), name]);
      const facts = unlessGone(() => fstatat(dirfd, name));
      if (!facts) continue;
      if (isWhiteout(facts)) {
        changes.deleted.push(`/${full.toString()}`);
        continue;
      }
      writeSync(out, Buffer.concat([full, Buffer.alloc(1)]));
      if ((facts.mode & S_IFMT) !== S_IFDIR || depth >= MAX_DEPTH) continue;
      if (lgetxattrat(dirfd, name, OPAQUE_XATTR)?.toString() === 'y') changes.opaque.push(`/${full.toString()}`);
      const fd = unlessGone(() => openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
      if (fd === undefined) continue;
      try {
        visit(fd, full, depth + 1);
      } finally {
        closeFd(fd);
      }
    }
  }
}

function unlessGone<T>(look: () => T): T | undefined {
  try {
    return look();
  } catch (err) {
    if (isErrno(err, 'ENOENT', 'ENOTDIR', 'ELOOP')) return undefined;
    throw err;
  }
}
