import { closeSync, constants, openSync, readSync, writeSync } from 'node:fs';

import { BerthError, wrap } from '../base/errors.ts';
import {
  AT_FDCWD,
  closeFd,
  fstatat,
  O_PATH,
  openat,
  openat2,
  RESOLVE_IN_ROOT,
  RESOLVE_NO_MAGICLINKS,
} from '../sys/at.ts';
import { isErrno } from '../sys/errno.ts';

/** passwd and group files of real images have some kilobytes; they are read on the event loop. */
const FILE_LIMIT_BYTES = 512 * 1024;

/**
 * A text file of the image; empty when it has none. Symbolic links are followed as the container would, never out of
 * the root filesystem, and nothing but a regular file is opened: a fifo would hang, a device might act.
 */
export function readImageFile(rootfs: string, path: string): string {
  return withImageFile(rootfs, path, (fd, size) => readOpened(fd, path, size)) ?? '';
}

/** Adds a line to a text file of the image, found as readImageFile() finds it. An image that has none stays without. */
export function appendImageLine(rootfs: string, path: string, line: string): void {
  withImageFile(rootfs, path, (pathFd, size) => {
    const text = readOpened(pathFd, path, size);
    const fd = openSync(`/proc/self/fd/${pathFd}`, constants.O_WRONLY | constants.O_APPEND);
    try {
      writeSync(fd, `${text === '' || text.endsWith('\n') ? '' : '\n'}${line}\n`);
    } finally {
      closeSync(fd);
    }
  });
}

function withImageFile<T>(rootfs: string, path: string, use: (pathFd: number, size: number) => T): T | undefined {
  const root = openat(AT_FDCWD, rootfs, O_PATH | constants.O_DIRECTORY);
  let fd = -1;
  try {
    fd = openat2(root, path, { flags: O_PATH, resolve: RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS });
    const { mode, size } = fstatat(fd, '');
    if ((mode & constants.S_IFMT) !== constants.S_IFREG) throw unusable(path, 'is not a file');
    if (size > FILE_LIMIT_BYTES) throw unusable(path, `has more than ${FILE_LIMIT_BYTES} bytes`);
    return use(fd, size);
  } catch (err) {
    if (isErrno(err, 'ENOENT', 'ENOTDIR')) return undefined;
    throw wrap(`open ${path} of the image`, err);
  } finally {
    if (fd >= 0) closeFd(fd);
    closeFd(root);
  }
}

function readOpened(pathFd: number, path: string, size: number): string {
  const fd = openSync(`/proc/self/fd/${pathFd}`, 'r');
  try {
    // One more than there should be: the file may have grown since it was looked at.
    const bytes = Buffer.allocUnsafe(size + 1);
    let length = 0;
    for (let got = -1; got !== 0 && length < bytes.length; length += got) {
      got = readSync(fd, bytes, length, bytes.length - length, null);
    }
    if (length > size) throw unusable(path, 'changed while it was read');
    return bytes.toString('utf8', 0, length);
  } finally {
    closeSync(fd);
  }
}

function unusable(path: string, problem: string): BerthError {
  return new BerthError('precondition', `${path} ${problem}`);
}
