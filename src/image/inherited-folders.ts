/**
 * Folders that a layer has on the way to its files and does not describe. Overlayfs shows a folder with the owner and
 * mode of the topmost layer that has it, so a layer with only `tmp/x` in it would take the sticky bit from /tmp. Layers
 * are shared by content and know nothing of those below them, so this is settled for each image.
 */

import { constants, fchmodSync } from 'node:fs';

import { type IdMapping, toHostId } from '../base/id-mapping.ts';
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
import { readInnerImplied } from './implied-folders.ts';
import { isWhiteout, kernelName } from './layer-root.ts';

const { O_DIRECTORY, O_NOFOLLOW, O_RDONLY, S_IFDIR, S_IFMT } = constants;
const resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS;

/** A layer's tree, and the file of the folders in it that it does not describe (implied-folders.ts). */
export interface ImplyingLayer {
  readonly diff: string;
  readonly implied: string;
}

/**
 * How folders must look because lower layers describe them so: for each its mode, owner and group, with a space between,
 * and its path, ended by a NUL. In memory that threads share: there may be many, and only threads look at them.
 */
export type InheritedFolders = Uint8Array<SharedArrayBuffer>;

/** A mounted snapshot, what its folders inherit, and whose it is where its ids are those of a user namespace. */
export interface DescribeRequest {
  readonly rootfs: string;
  readonly folders: InheritedFolders;
  readonly owner: { readonly uids: readonly IdMapping[]; readonly gids: readonly IdMapping[] } | undefined;
}

/** Names have one character per byte. */
interface InheritedFolder {
  readonly path: string;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
}

/** What an image's folders inherit; layers base first. Without those that look right as they are. For worker threads. */
export function inheritedFolders(layers: readonly ImplyingLayer[]): InheritedFolders {
  return encode(findInherited(layers));
}

function findInherited(layers: readonly ImplyingLayer[]): InheritedFolder[] {
  const implied = layers.map((layer) => new Set(readInnerImplied(layer.implied)));
  const open = layers.map((layer) => openat(AT_FDCWD, layer.diff, O_RDONLY | O_DIRECTORY));
  try {
    const paths = new Set(implied.flatMap((own) => [...own]));
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
export function describeFolders({ rootfs, folders, owner }: DescribeRequest): void {
  const rootfd = openat(AT_FDCWD, rootfs, O_RDONLY | O_DIRECTORY);
  try {
    for (const folder of decode(folders)) {
      const fd = openUnlessGone(rootfd, folder.path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
      if (fd === undefined) continue;
      try {
        const uid = owner ? toHostId(owner.uids, folder.uid) : folder.uid;
        const gid = owner ? toHostId(owner.gids, folder.gid) : folder.gid;
        fchownat(fd, '', uid, gid);
        fchmodSync(fd, folder.mode);
      } finally {
        closeFd(fd);
      }
    }
  } finally {
    closeFd(rootfd);
  }
}

function encode(folders: readonly InheritedFolder[]): InheritedFolders {
  const text = folders.map(({ path, mode, uid, gid }) => `${mode} ${uid} ${gid} ${path}\0`).join('');
  const bytes = new Uint8Array(new SharedArrayBuffer(text.length));
  Buffer.from(bytes.buffer).write(text, 'latin1');
  return bytes;
}

function* decode(folders: InheritedFolders): Generator<InheritedFolder> {
  const bytes = Buffer.from(folders.buffer);
  for (let at = 0, end = bytes.indexOf(0); end >= 0; at = end + 1, end = bytes.indexOf(0, at)) {
    const [mode = '', uid = '', gid = '', ...path] = bytes.toString('latin1', at, end).split(' ');
    yield { mode: Number(mode), uid: Number(uid), gid: Number(gid), path: path.join(' ') };
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
