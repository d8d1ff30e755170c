/**
 * Folders that a layer has on the way to its files and does not describe. Overlayfs shows a folder with the owner and
 * mode of the topmost layer that has it, so a layer with only `tmp/x` in it would take the sticky bit from /tmp. Layers
 * are shared by content and know nothing of those below them, so this is settled for each image.
 */

import { constants, fchmodSync } from 'node:fs';

import {
  AT_FDCWD,
  closeFd,
  type FileFacts,
  fchownat,
  fstatat,
  O_PATH,
  openat,
  openat2,
  RESOLVE_BENEATH,
  RESOLVE_NO_SYMLINKS,
} from '../sys/at.ts';
import { isErrno } from '../sys/errno.ts';
import { isWhiteout, kernelName } from './layer-root.ts';

const { O_DIRECTORY, O_NOFOLLOW, O_RDONLY, S_IFDIR, S_IFMT } = constants;
const resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS;

/** A layer's tree, and the folders in it that it does not describe. */
export interface ImplyingLayer {
  readonly diff: string;
  readonly implied: readonly string[];
}

/** How a folder must look, because a lower layer describes it so. Names have one character per byte. */
export interface InheritedFolder {
  readonly path: string;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
}

/** What an image's folders inherit; layers base first. Without those that look right as they are. For worker threads. */
export function inheritedFolders(layers: readonly ImplyingLayer[]): InheritedFolder[] {
  const implied = layers.map((layer) => new Set(layer.implied));
  const open = layers.map((layer) => openat(AT_FDCWD, layer.diff, O_RDONLY | O_DIRECTORY));
  try {
    const paths = new Set(layers.flatMap((layer) => layer.implied));
    return [...paths].flatMap((path) => {
      let seen: FileFacts | undefined;
      for (let at = layers.length - 1; at >= 0; at -= 1) {
        const facts = factsOf(open[at] ?? -1, path);
        if (!facts) continue;
        if ((facts.mode & S_IFMT) !== S_IFDIR || isWhiteout(facts)) return [];
        if (implied[at]?.has(path) === true) {
          seen ??= facts;
          continue;
        }
        return !seen || looksLike(seen, facts)
          ? []
          : [{ path, mode: facts.mode & 0o7777, uid: facts.uid, gid: facts.gid }];
      }
      return [];
    });
  } finally {
    for (const fd of open) closeFd(fd);
  }
}

/** Gives folders of a mounted snapshot what they inherit; those that are not seen in it are left out. For worker threads. */
export function describeFolders(rootfs: string, folders: readonly InheritedFolder[]): void {
  const rootfd = openat(AT_FDCWD, rootfs, O_RDONLY | O_DIRECTORY);
  try {
    for (const folder of folders) {
      const fd = openUnlessGone(rootfd, folder.path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
      if (fd === undefined) continue;
      try {
        fchownat(fd, '', folder.uid, folder.gid);
        fchmodSync(fd, folder.mode);
      } finally {
        closeFd(fd);
      }
    }
  } finally {
    closeFd(rootfd);
  }
}

function factsOf(rootfd: number, path: string): FileFacts | undefined {
  const fd = openUnlessGone(rootfd, path, O_PATH | O_NOFOLLOW);
  if (fd === undefined) return undefined;
  try {
    return fstatat(fd, '');
  } finally {
    closeFd(fd);
  }
}

function openUnlessGone(rootfd: number, path: string, flags: number): number | undefined {
  try {
    return openat2(rootfd, kernelName(path), { flags, resolve });
  } catch (err) {
    if (isErrno(err, 'ENOENT', 'ENOTDIR', 'ELOOP')) return undefined;
    throw err;
  }
}

function looksLike(one: FileFacts, other: FileFacts): boolean {
  return one.mode === other.mode && one.uid === other.uid && one.gid === other.gid;
}
