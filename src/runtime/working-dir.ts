import { constants } from 'node:fs';

import { invalid, wrap } from '../base/errors.ts';
import {
  AT_FDCWD,
  closeFd,
  fchownat,
  mkdirat,
  O_PATH,
  openat,
  openat2,
  RESOLVE_IN_ROOT,
  RESOLVE_NO_MAGICLINKS,
} from '../sys/at.ts';
import { isErrno } from '../sys/errno.ts';

/**
 * Makes a container's working directory in its root filesystem if it is missing, mode 0755, owned by root or who stands for
 * it on the host. Symbolic
 * links of the image are followed, never out of the root. Throws `invalid` when a part of the path is no folder.
 */
export function ensureWorkingDir(rootfs: string, workingDir: string, owner = { uid: 0, gid: 0 }): void {
  const root = openat(AT_FDCWD, rootfs, O_PATH | constants.O_DIRECTORY);
  try {
    if (isFolder(root, workingDir)) return;
    makeFolders(
      root,
      workingDir.split('/').filter((part) => part !== ''),
      owner,
    );
  } catch (err) {
    if (isErrno(err, 'ENOTDIR', 'EEXIST', 'ELOOP')) {
      throw invalid('config.working_dir', `a part of ${workingDir} is not a folder in the image`);
    }
    if (isErrno(err, 'ENAMETOOLONG')) throw invalid('config.working_dir', 'is too long');
    throw wrap(`make working directory ${workingDir}`, err);
  } finally {
    closeFd(root);
  }
}

function isFolder(root: number, path: string): boolean {
  try {
    closeFd(openFolder(root, path));
    return true;
  } catch (err) {
    if (isErrno(err, 'ENOENT')) return false;
    throw err;
  }
}

function makeFolders(root: number, parts: readonly string[], owner: { uid: number; gid: number }): void {
  for (let i = 1; i <= parts.length; i++) {
    const path = parts.slice(0, i).join('/');
    if (isFolder(root, path)) continue;
    const parent = openFolder(root, parts.slice(0, i - 1).join('/') || '.');
    try {
      const name = parts[i - 1] ?? '';
      mkdirat(parent, name, 0o755);
      if (owner.uid !== 0 || owner.gid !== 0) fchownat(parent, name, owner.uid, owner.gid);
    } finally {
      closeFd(parent);
    }
  }
}

function openFolder(root: number, path: string): number {
  return openat2(root, path, {
    flags: O_PATH | constants.O_DIRECTORY,
    resolve: RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS,
  });
}
