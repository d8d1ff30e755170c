/**
 * The folder that a layer is unpacked into. Names come from the archive, so no path is walked but by openat2 with that
 * folder as the root: links inside lead where they would lead in a container, and never out.
 *
 * Names are strings with one character per byte (latin1): tar knows no encoding.
 */

import { constants } from 'node:fs';

import { describe, invalid } from '../base/errors.ts';
import {
  closeFd,
  type FileFacts,
  fchmodat,
  fstatat,
  mkdirat,
  O_PATH,
  openat2,
  RESOLVE_BENEATH,
  RESOLVE_IN_ROOT,
  RESOLVE_NO_MAGICLINKS,
  RESOLVE_NO_SYMLINKS,
  readlinkat,
  unlinkat,
} from '../sys/at.ts';
import { isErrno } from '../sys/errno.ts';
import { lsetxattrat } from '../sys/xattr.ts';
import { ImpliedFolders } from './implied-folders.ts';
import { removeTreeAt } from './remove-tree.ts';
import { OPAQUE_XATTR } from './whiteout.ts';

const { O_DIRECTORY, S_IFCHR, S_IFDIR, S_IFLNK, S_IFMT } = constants;

/** Enough for a walk through a tree in any order; each is an open descriptor. */
const MAX_OPEN_FOLDERS = 64;
/** As the kernel's own limit (path_resolution(7)). */
const MAX_LINKS = 40;

/** A folder in the layer, by descriptor, and a name in it. */
export interface Place {
  readonly dirfd: number;
  readonly name: string | Buffer;
}

/** One character per byte, back to what the kernel takes. */
export function kernelName(name: string): string | Buffer {
  return /^[\x01-\x7f]*$/.test(name) ? name : Buffer.from(name, 'latin1');
}

/** True for what overlayfs takes for a whiteout. */
export function isWhiteout(facts: FileFacts): boolean {
  return (facts.mode & S_IFMT) === S_IFCHR && facts.rdevMajor === 0 && facts.rdevMinor === 0;
}

/** A layer's folder while it is being filled. */
export class LayerRoot {
  readonly #rootfd: number;
  readonly #umask: number;
  /** Least recently used first. */
  readonly #open = new Map<string, number>();
  #isStale = false;
  /** Folders that no member asked for, by their paths without links. */
  readonly implied = new ImpliedFolders();
  /** Called for each folder that is made on the way. */
  readonly #onFolder: () => void;

  /** `rootfd` stays the caller's. */
  constructor(rootfd: number, umask: number, onFolder: () => void) {
    this.#rootfd = rootfd;
    this.#umask = umask;
    this.#onFolder = onFolder;
  }

  /** The place of a member; folders above it that are missing are made, root's and 0755. Throws `invalid`. */
  place(components: readonly string[]): Place {
    const name = components.at(-1);
    if (name === undefined) return { dirfd: this.#rootfd, name: '.' };
    return { dirfd: this.folder(components.slice(0, -1).join('/')), name: kernelName(name) };
  }

  /** The place of something that must be there already; undefined when the folders above it are not. */
  find(components: readonly string[]): Place | undefined {
    const name = components.at(-1);
    if (name === undefined) return { dirfd: this.#rootfd, name: '.' };
    const dirfd = this.#lookUp(components.slice(0, -1).join('/'));
    return dirfd === undefined ? undefined : { dirfd, name: kernelName(name) };
  }

  /**
   * A descriptor (O_PATH) of a folder, made if it is missing. It stays this object's; it is open at least until the
   * look-up after the next one, or until the next one when something was removed between them.
   */
  folder(path: string): number {
    return this.#lookUp(path) ?? this.#remember(path, this.#make(path));
  }

  /** Facts of a place; undefined when nothing is there. */
  facts({ dirfd, name }: Place): FileFacts | undefined {
    try {
      return fstatat(dirfd, name);
    } catch (err) {
      if (isErrno(err, 'ENOENT')) return undefined;
      throw err;
    }
  }

  /** Removes what is there, a folder with all in it. */
  remove({ dirfd, name }: Place, facts: FileFacts): void {
    const type = facts.mode & S_IFMT;
    if (type === S_IFDIR) removeTreeAt(dirfd, name);
    else unlinkat(dirfd, name);
    // Open folders may have been reached through it; the caller still uses one of them.
    if (type === S_IFDIR || type === S_IFLNK) this.#isStale = true;
  }

  /** Marks a folder as one that hides all that lower layers have in it. */
  makeOpaque({ dirfd, name }: Place): void {
    lsetxattrat(dirfd, name, OPAQUE_XATTR, Buffer.from('y'));
  }

  /** Closes the folders that are open. */
  forget(): void {
    for (const fd of this.#open.values()) closeFd(fd);
    this.#open.clear();
    this.#isStale = false;
  }

  #lookUp(path: string): number | undefined {
    if (this.#isStale) this.forget();
    if (path === '') return this.#rootfd;
    const open = this.#open.get(path);
    if (open !== undefined) {
      this.#open.delete(path);
      this.#open.set(path, open);
      return open;
    }
    try {
      const resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
      return this.#remember(path, openat2(this.#rootfd, kernelName(path), { flags: O_PATH | O_DIRECTORY, resolve }));
    } catch (err) {
      if (isErrno(err, 'ENOENT', 'ENOTDIR')) return undefined;
      if (isErrno(err, 'ELOOP', 'ENAMETOOLONG')) throw invalid('path', describe(err));
      throw err;
    }
  }

  #remember(path: string, fd: number): number {
    const [oldest] = this.#open;
    if (this.#open.size >= MAX_OPEN_FOLDERS && oldest) {
      closeFd(oldest[1]);
      this.#open.delete(oldest[0]);
    }
    this.#open.set(path, fd);
    return fd;
  }

  /** Walks by single steps, makes what is missing, also where a link points to. */
  #make(path: string): number {
    const pending = path.split('/');
    let real: string[] = [];
    let links = 0;
    for (let step = pending.shift(); step !== undefined; step = pending.shift()) {
      if (step === '' || step === '.') continue;
      if (step === '..') {
        real.pop();
        continue;
      }
      const target = this.#step(real, step);
      if (target === undefined) {
        real.push(step);
        continue;
      }
      links += 1;
      if (links > MAX_LINKS) throw invalid('path', `has more than ${MAX_LINKS} links in it`);
      if (target.startsWith('/')) real = [];
      pending.unshift(...target.split('/'));
    }
    return this.#openReal(real);
  }

  /** One step of the walk; the target when it is a link. */
  #step(real: readonly string[], step: string): string | undefined {
    const dirfd = this.#openReal(real);
    try {
      const place = { dirfd, name: kernelName(step) };
      const facts = this.facts(place);
      const type = facts ? facts.mode & S_IFMT : 0;
      if (type === S_IFDIR) return undefined;
      if (type === S_IFLNK) return readlinkat(dirfd, place.name).toString('latin1');
      if (facts && !isWhiteout(facts)) throw invalid('path', `${JSON.stringify(step)} in it is no folder`);
      if (facts) this.remove(place, facts);
      mkdirat(dirfd, place.name, 0o755);
      if ((this.#umask & 0o755) !== 0) fchmodat(dirfd, place.name, 0o755);
      if (facts) this.makeOpaque(place);
      else this.#onFolder();
      this.implied.add([...real, step].join('/'));
      return undefined;
    } finally {
      closeFd(dirfd);
    }
  }

  #openReal(real: readonly string[]): number {
    const resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS;
    const path = real.length === 0 ? '.' : kernelName(real.join('/'));
    return openat2(this.#rootfd, path, { flags: O_PATH | O_DIRECTORY, resolve });
  }
}
