import { check } from './errno.ts';
import { cString, libc, type Name } from './libc.ts';

const statfsCall: (path: Name, out: Uint8Array) => number = libc.func('statfs', 'int', ['str', 'void *']);

/** What statfs(2) tells about the file system under a path. */
export interface FileSystemFacts {
  /** The magic number, `TMPFS_MAGIC`. */
  readonly type: number;
  readonly blockSize: number;
  readonly totalBytes: number;
  readonly freeBytes: number;
  /** Free for unprivileged users. */
  readonly availableBytes: number;
  readonly totalInodes: number;
  readonly freeInodes: number;
  /** The mount's ST_ flags; the lower ones equal the MS_ flags of mount.ts. */
  readonly flags: number;
}

/** statfs type of tmpfs. */
export const TMPFS_MAGIC = 0x01021994;
/** statfs type of overlayfs. */
export const OVERLAYFS_MAGIC = 0x794c7630;
/** statfs type of a pinned or /proc namespace file. */
export const NSFS_MAGIC = 0x6e736673;

/** Throws a `SyscallError` (notFound for a missing path). */
export function statfs(path: Name): FileSystemFacts {
  const raw = Buffer.alloc(120);
  check('statfs', path, statfsCall(cString(path), raw));
  const word = (index: number): number => Number(raw.readBigUInt64LE(index * 8));
  const blockSize = word(9) || word(1);
  return {
    type: word(0),
    blockSize,
    totalBytes: word(2) * blockSize,
    freeBytes: word(3) * blockSize,
    availableBytes: word(4) * blockSize,
    totalInodes: word(5),
    freeInodes: word(6),
    flags: word(10),
  };
}
