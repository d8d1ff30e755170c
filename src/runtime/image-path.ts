import { constants, readlinkSync } from 'node:fs';

import { BerthError, invalid, wrap } from '../base/errors.ts';
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

/**
 * The real path of a folder or file inside an image that is mounted read-only at `root`; '' is the root itself.
 * Symbolic links of the image are followed as a container would, never out of it. Throws `invalid` naming the field for
 * what the image has not, and for what is neither a folder nor a file.
 */
export function resolveImagePath(root: string, path: string, field: string): string {
  if (path.includes('\0')) throw invalid(field, 'has a NUL byte in it');
  if (path.split('/').includes('..')) throw invalid(field, `${JSON.stringify(path)} must not contain ..`);
  const rootFd = openat(AT_FDCWD, root, O_PATH | constants.O_DIRECTORY);
  let fd = -1;
  try {
    fd = openat2(rootFd, path === '' ? '.' : path, { flags: O_PATH, resolve: RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS });
    const kind = fstatat(fd, '').mode & constants.S_IFMT;
    if (kind !== constants.S_IFDIR && kind !== constants.S_IFREG)
      throw invalid(field, `${JSON.stringify(path)} is neither a folder nor a file in the image`);
    // Nobody can change a part of it any more: the image is read-only.
    const real = realPathOf(fd);
    // The state folder may be named by a link, /var/run for one.
    const top = realPathOf(rootFd);
    if (real === top || real.startsWith(`${top}/`)) return real;
    throw new BerthError('internal', `${field}: ${real} is not in ${root}`);
  } catch (err) {
    if (isErrno(err, 'ENOENT', 'ENOTDIR')) throw invalid(field, `the image has no ${JSON.stringify(path)}`);
    if (isErrno(err, 'ELOOP', 'ENAMETOOLONG')) throw invalid(field, `${JSON.stringify(path)} cannot be followed`);
    throw wrap(`find ${JSON.stringify(path)} in the image at ${root}`, err);
  } finally {
    if (fd >= 0) closeFd(fd);
    closeFd(rootFd);
  }
}

function realPathOf(fd: number): string {
  return readlinkSync(`/proc/self/fd/${fd}`);
}
