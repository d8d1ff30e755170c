/**
 * The root filesystems of containers: an overlay of the image's layers and a writable folder of the container's own.
 *
 *     <root>/snapshots/<container id>/upper     what the container writes
 *     <root>/snapshots/<container id>/work      overlayfs' own
 *     <root>/snapshots/<container id>/rootfs    where it is mounted
 */

import { randomBytes } from 'node:crypto';
import {
  chmodSync,
  chownSync,
  close,
  closeSync,
  constants,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  realpathSync,
  renameSync,
  rmdirSync,
  statSync,
} from 'node:fs';
import { mkdir, rmdir } from 'node:fs/promises';
import { basename, join, relative } from 'node:path';

import { BerthError, because, describe, invalid } from '../base/errors.ts';
import { type IdMapping, toHostId } from '../base/id-mapping.ts';
import { forEachLimited } from '../base/limited.ts';
import type { Logger } from '../base/log.ts';
import { O_PATH } from '../sys/at.ts';
import { isErrno, wrapErrno } from '../sys/errno.ts';
import {
  bindMapped,
  mount,
  mountAside,
  readMounts,
  type TextMountRequest,
  unmount,
  unmountAside,
} from '../sys/mount.ts';
import type { DiskWorkers } from './disk-workers.ts';
import { glanceAtImplied } from './implied-folders.ts';
import type { ImplyingLayer, InheritedFolders } from './inherited-folders.ts';
import type { LayerStore } from './layer-store.ts';
import { type OverlayFolders, optionsFit, overlayOptions } from './overlay-options.ts';
import { probeOverlay } from './probe-overlay.ts';
import { removeSmallTree } from './remove-small-tree.ts';
import { defaultTarLimits } from './tar-reader.ts';
import type { TreeWalk } from './tree-usage.ts';
import type { UpperChanges } from './upper-changes.ts';

/** What the snapshots are built from. */
export interface SnapshotsDeps {
  /** Berth's root folder. */
  readonly root: string;
  readonly layers: Pick<LayerStore, 'has' | 'path' | 'shortName' | 'linkFolder' | 'impliedPath'>;
  readonly workers: DiskWorkers;
  /**
   * Whether nothing is waited for that containers write into their root filesystems, be it at their fsync(2) or when the
   * mount ends, which otherwise writes out all that its disk has in memory. What a snapshot holds is then lost at a power
   * cut, as all containers are. Not before Linux 5.10.
   */
  readonly wantsVolatile: boolean;
  readonly log: Logger;
}

/** The user namespace that a container's files belong to. */
export interface SnapshotOwner {
  /** A file of the namespace. */
  readonly userNamespace: string;
  readonly uids: readonly IdMapping[];
  readonly gids: readonly IdMapping[];
}

/** What an earlier container wrote over the same image. */
export interface RestoredDiff {
  /** A tar archive of the files. */
  readonly file: string;
  /** Paths of the image that are gone. */
  readonly hidden: readonly string[];
}

/** What makes a snapshot differ from a plain one. */
export interface SnapshotOptions {
  readonly owner?: SnapshotOwner | undefined;
  readonly diff?: RestoredDiff | undefined;
  /** The SELinux label that all files in it show, whatever they have on disk. */
  readonly label?: string | undefined;
}

/** How the folders of an image look where its layers do not say it themselves. */
interface ImageFolders {
  readonly root: { readonly mode: number; readonly uid: number; readonly gid: number };
  readonly inherited: InheritedFolders;
}

/** An empty folder beside the links: an image may have no layers, and overlayfs wants at least one. */
const EMPTY = 'empty';

/** What a container brings along from an earlier life, below its writable folder. */
const RESTORED = 'restored';

/** Images whose folders are remembered; each takes little, and most nodes run fewer. */
const MAX_REMEMBERED = 256;
/** Of one image. What is larger is found out again each time. */
const REMEMBERED_BYTES = 256 * 1024;
const NOTHING_INHERITED: InheritedFolders = new Uint8Array(new SharedArrayBuffer(0));
/** A container has few folders of its own; more than that belongs into a thread. One entry takes the pool some 0.1 ms. */
const REMOVED_AT_ONCE = 150;

/** All root filesystems of this node. */
export class Snapshots {
  readonly #deps: SnapshotsDeps;
  readonly #folder: string;
  readonly #imageFolders = new Map<string, ImageFolders>();
  #flags: readonly string[] = [];
  #isVolatile = false;
  #refusesVolatile = false;
  #sweep: Promise<void> = Promise.resolve();
  readonly #closing = new Set<Promise<void>>();

  constructor(deps: SnapshotsDeps) {
    this.#deps = deps;
    this.#folder = join(deps.root, 'snapshots');
  }

  /** Where they all are. */
  get folder(): string {
    return this.#folder;
  }

  /**
   * Tries overlayfs on this file system, and removes what an earlier process left half removed. Throws `precondition`
   * saying what is missing.
   */
  async start(): Promise<void> {
    mkdirSync(this.#folder, { recursive: true, mode: 0o711 });
    mkdirSync(join(this.#deps.layers.linkFolder, EMPTY), { recursive: true, mode: 0o755 });
    this.#flags = overlayFlags();
    const leftOvers = readdirSync(this.#folder).filter((name) => name.startsWith('.'));
    unmountBeneath(leftOvers.map((name) => join(this.#folder, name)));
    const { takesVolatile } = probeOverlay(this.#temporary('.probe'), this.#flags);
    this.#isVolatile = this.#deps.wantsVolatile && takesVolatile;
    this.#sweep = this.#removeAll(leftOvers.map((name) => join(this.#folder, name)));
  }

  /** Waits for removals that run. */
  async close(): Promise<void> {
    await Promise.all([this.#sweep, ...this.#closing]);
  }

  /**
   * Makes a container's root filesystem from layers, base first, and mounts it; with an owner, all ids of the image are
   * mapped to that user namespace. Nothing of it is left on an error: `alreadyExists` for a container that has one, `notFound` for a layer that is not here.
   */
  async mount(
    containerId: string,
    diffIds: readonly string[],
    { owner, diff, label }: SnapshotOptions = {},
  ): Promise<{ rootfs: string }> {
    const folder = this.#path(containerId);
    const lowers = this.#lowers(diffIds);
    const image = await this.#imageFoldersOf(diffIds);
    try {
      await mkdir(folder, { mode: 0o710 });
    } catch (err) {
      throw wrapErrno(`make snapshot folder ${folder}`, err);
    }
    const [upperDir, workDir, rootfs] = [join(folder, 'upper'), join(folder, 'work'), join(folder, 'rootfs')];
    try {
      // Setuid programs are in there, which no user of the host may run; the root of a user namespace must get to them.
      if (owner) chownSync(folder, 0, toHostId(owner.gids, 0));
      await forEachLimited([upperDir, workDir, rootfs], 3, async (part) => void (await mkdir(part, { mode: 0o755 })));
      if (diff) await this.#unpackDiff(join(folder, RESTORED), diff);
      if (diff) lowers.unshift(relative(this.#deps.layers.linkFolder, join(folder, RESTORED)));
      // The root folder of the mount is the upper one as it is.
      chmodSync(upperDir, image.root.mode);
      const root = onHost(image.root, owner);
      if (root.uid !== 0 || root.gid !== 0) chownSync(upperDir, root.uid, root.gid);
      await this.#mountWritable(rootfs, lowers, { upper: { upperDir, workDir }, owner, label });
      if (image.inherited.length > 0) {
        const ids = owner && { uids: owner.uids, gids: owner.gids };
        await this.#deps.workers.run('describe', { rootfs, folders: image.inherited, owner: ids });
      }
      return { rootfs };
    } catch (err) {
      await this.unmount(containerId);
      await this.remove(containerId).catch((undo: unknown) => {
        this.#deps.log.warn({ err: undo, container: containerId }, 'failed snapshot not removed');
      });
      throw wrapErrno(`mount snapshot of container ${containerId}`, err);
    }
  }

  /**
   * Mounts layers, base first, read-only at an existing folder, whose parent must be private to the daemon; with an
   * owner, all ids are mapped to that user namespace. `flags` are those of mount(2). Unmount it by its path.
   */
  mountReadonly(
    target: string,
    diffIds: readonly string[],
    { flags: mountFlags, ...options }: Pick<SnapshotOptions, 'owner' | 'label'> & { readonly flags?: number } = {},
  ): void {
    const lowers = this.#lowers(diffIds);
    // The kernel wants two layers where there is none to write to.
    this.#mountOverlay(target, lowers.length < 2 ? [...lowers, EMPTY] : lowers, { ...options, mountFlags });
  }

  /** Where a container's root filesystem is mounted, if it is. */
  rootfs(containerId: string): string {
    return join(this.#path(containerId), 'rootfs');
  }

  /** Unmounts a container's root filesystem, also one in use. What is not mounted or not there is success. */
  async unmount(containerId: string): Promise<void> {
    const rootfs = this.rootfs(containerId);
    // A mount of an earlier berthd may be of the other kind, so whether its end writes out the disk is not known here.
    const held = holdMount(rootfs);
    try {
      await unmountAside(rootfs);
    } finally {
      if (held !== undefined) this.#letGo(held);
    }
  }

  /**
   * Removes a container's folders. One that has none is success. Throws `precondition` when it is still mounted. A
   * small one is removed by its names, a large one by a thread of its own.
   */
  async remove(containerId: string): Promise<void> {
    const folder = this.#path(containerId);
    // Only a daemon that was killed in between left any.
    removeMapped(mappedFolder(join(folder, 'rootfs')));
    try {
      // Nothing below a mount must go, so the mount point goes first; a busy one is mounted.
      await rmdir(join(folder, 'rootfs'));
    } catch (err) {
      if (isErrno(err, 'EBUSY')) {
        throw because('precondition', `snapshot of container ${containerId} is still mounted`, err);
      }
      if (!isErrno(err, 'ENOENT')) throw wrapErrno(`remove snapshot of container ${containerId}`, err);
      if (!existsSync(folder)) return;
    }
    try {
      if (await removeSmallTree(folder, REMOVED_AT_ONCE)) return;
      const trash = this.#temporary('.trash');
      renameSync(folder, trash);
      await this.#deps.workers.run('remove', trash);
    } catch (err) {
      throw wrapErrno(`remove snapshot of container ${containerId}`, err);
    }
  }

  /**
   * What a container did to its image's files, and the folder that has those that it wrote; their names go into the new
   * file `list`, each ended by a NUL. Throws `notFound` for one without a snapshot.
   */
  async changes(containerId: string, list: string): Promise<UpperChanges & { readonly upper: string }> {
    const upper = join(this.#path(containerId), 'upper');
    if (!existsSync(upper)) throw new BerthError('notFound', `container ${containerId} has no snapshot`);
    return { ...(await this.#deps.workers.run('changes', { upper, list })), upper };
  }

  /** What containers have written, each by a walk in a thread; zeros for one without a snapshot. */
  async usage(containerIds: readonly string[]): Promise<readonly TreeWalk[]> {
    const groups = containerIds.map((id) => ['upper', RESTORED].map((part) => join(this.#path(id), part)));
    return await this.#deps.workers.run('usage', groups);
  }

  /** Whether the last writable mount could not be volatile, though it should be: its disk has had an error. */
  get refusesVolatile(): boolean {
    return this.#refusesVolatile;
  }

  /** The ids of all containers that have a folder, mounted or not. */
  all(): string[] {
    return readdirSync(this.#folder).filter((name) => !name.startsWith('.'));
  }

  async #unpackDiff(target: string, { file, hidden }: RestoredDiff): Promise<void> {
    const blob = { path: file, compression: 'none' } as const;
    await this.#deps.workers.run('unpack', { blob, target, hidden, diffId: undefined, limits: defaultTarLimits });
  }

  #mountOverlay(
    target: string,
    lowers: readonly string[],
    { owner, label, mountFlags }: Pick<SnapshotOptions, 'owner' | 'label'> & Pick<OverlayMount, 'mountFlags'>,
  ): void {
    const more = { flags: this.#flagsWith(label), mountFlags };
    if (owner) {
      this.#mountMapped(target, lowers, more, owner);
      return;
    }
    using request = overlayRequest(target, this.#deps.layers.linkFolder, { lowers, ...more });
    mount(request);
  }

  // The mount of every container, so the event loop does not wait for it; under other ids there are many in a row.
  async #mountWritable(
    target: string,
    lowers: readonly string[],
    options: Pick<SnapshotOptions, 'owner' | 'label'> & Required<Pick<OverlayFolders, 'upper'>>,
  ): Promise<void> {
    const { upper, owner, label } = options;
    const mountWith = async (flags: readonly string[]): Promise<void> => {
      if (owner) {
        this.#mountMapped(target, lowers, { upper, flags }, owner);
        return;
      }
      using request = overlayRequest(target, this.#deps.layers.linkFolder, { lowers, upper, flags });
      await mountAside(request);
    };
    try {
      await mountWith(this.#writableFlags(label));
      this.#refusesVolatile = false;
    } catch (err) {
      if (!this.#isRefusedVolatile(err)) throw err;
      await mountWith(this.#flagsWith(label));
    }
  }

  /** After an error of its disk that nobody has seen yet the kernel makes none (ovl_fill_super), until somebody does. */
  #isRefusedVolatile(err: unknown): boolean {
    if (!this.#isVolatile || !isErrno(err, 'EIO')) return false;
    if (!this.#refusesVolatile) {
      this.#deps.log.warn(
        { folder: this.#folder, err: describe(err) },
        'the disk has had an error (dmesg tells), so root filesystems are not mounted volatile; sync --file-system FOLDER has the kernel forget it',
      );
    }
    this.#refusesVolatile = true;
    return true;
  }

  #writableFlags(label: string | undefined): string[] {
    return this.#isVolatile ? [...this.#flagsWith(label), 'volatile'] : this.#flagsWith(label);
  }

  #flagsWith(label: string | undefined): string[] {
    // Quoted, since a label may have commas in it.
    return label === undefined ? [...this.#flags] : [...this.#flags, `context="${label}"`];
  }

  // Overlayfs itself cannot be seen under other ids, but its layers can, and what is written has the host's ids anyway.
  // The overlay keeps copies of the mounts, so they go as soon as it is there.
  #mountMapped(
    target: string,
    lowers: readonly string[],
    more: Omit<OverlayMount, 'lowers'>,
    { userNamespace }: SnapshotOwner,
  ): void {
    const mapped = mappedFolder(target);
    mkdirSync(mapped, { mode: 0o700 });
    // Their last names stay, so that the overlay's options say what it is made of long after the mounts are gone.
    const names = lowers.map((short) => basename(short));
    try {
      for (const [index, short] of lowers.entries()) {
        const layer = join(mapped, names[index] ?? '');
        mkdirSync(layer, { mode: 0o700 });
        bindMapped(join(this.#deps.layers.linkFolder, short), layer, userNamespace);
      }
      using request = overlayRequest(target, mapped, { lowers: names, ...more });
      mount(request);
    } finally {
      removeMapped(mapped);
    }
  }

  /** Names in the link folder, top layer first. A layer that comes twice counts where it is topmost. */
  #lowers(diffIds: readonly string[]): string[] {
    const names = diffIds.map((diffId) => this.#deps.layers.shortName(diffId)).reverse();
    return names.length === 0 ? [EMPTY] : [...new Set(names)];
  }

  async #imageFoldersOf(diffIds: readonly string[]): Promise<ImageFolders> {
    const key = diffIds.join();
    const known = this.#imageFolders.get(key);
    if (known) return known;
    const { layers, workers } = this.#deps;
    const all = diffIds.map(
      (diffId): ImplyingLayer => ({ diff: layers.path(diffId), implied: layers.impliedPath(diffId) }),
    );
    const glances = all.map(({ diff, implied }) => ({ diff, ...glanceAtImplied(implied) }));
    const top = glances.findLast(({ root }) => !root);
    const facts = top && statSync(top.diff);
    const found = {
      root: { mode: facts ? facts.mode & 0o7777 : 0o755, uid: facts?.uid ?? 0, gid: facts?.gid ?? 0 },
      inherited: glances.some(({ inner }) => inner) ? await workers.run('inherit', all) : NOTHING_INHERITED,
    };
    if (found.inherited.length > REMEMBERED_BYTES) return found;
    const [oldest] = this.#imageFolders.keys();
    if (this.#imageFolders.size >= MAX_REMEMBERED && oldest !== undefined) this.#imageFolders.delete(oldest);
    this.#imageFolders.set(key, found);
    return found;
  }

  /** Who closes an overlay's last descriptor waits until its whole disk is written: that is a pool thread's part. */
  #letGo(fd: number): void {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#closing.add(promise);
    close(fd, () => {
      this.#closing.delete(promise);
      resolve();
    });
  }

  async #removeAll(folders: readonly string[]): Promise<void> {
    for (const folder of folders) {
      await this.#deps.workers.run('remove', folder).catch((err: unknown) => {
        this.#deps.log.warn({ err, folder }, 'left-over snapshot not removed');
      });
    }
  }

  #path(containerId: string): string {
    if (/^[A-Za-z0-9][A-Za-z0-9_-]*$/.test(containerId)) return join(this.#folder, containerId);
    throw invalid('containerId', `${JSON.stringify(containerId)} is none`);
  }

  #temporary(prefix: string): string {
    return join(this.#folder, `${prefix}-${randomBytes(8).toString('hex')}`);
  }
}

/** An overlay, and the flags of mount(2). */
interface OverlayMount extends OverlayFolders {
  readonly mountFlags?: number | undefined;
}

/** What mounts an overlay of layers that are named by their links in one folder; to be disposed of when it is mounted. */
function overlayRequest(
  target: string,
  linkFolder: string,
  { lowers, mountFlags = 0, ...more }: OverlayMount,
): TextMountRequest & Disposable {
  const request = { source: 'overlay', target, type: 'overlay', flags: mountFlags };
  const direct = { ...more, lowers: lowers.map((name) => join(linkFolder, name)) };
  if (optionsFit(direct)) return { ...request, data: overlayOptions(direct), [Symbol.dispose]: () => {} };
  // By a descriptor of the folder, each layer takes a few bytes however long the root's path is.
  const fd = openSync(linkFolder, 'r');
  try {
    const nearer = { ...more, lowers: lowers.map((name) => `/proc/self/fd/${fd}/${name}`) };
    return { ...request, data: overlayOptions(nearer), [Symbol.dispose]: () => closeSync(fd) };
  } catch (err) {
    closeSync(fd);
    throw err;
  }
}

/** Unmounts what a process left mounted in these folders when it was killed, whatever it was for; the newest first. */
function unmountBeneath(folders: readonly string[]): void {
  if (folders.length === 0) return;
  const tops = folders.map((folder) => `${realpathSync(folder)}/`);
  for (const { mountPoint } of readMounts().toReversed()) {
    if (tops.some((top) => mountPoint.startsWith(top))) unmount(mountPoint);
  }
}

/** Where layers are bound under other ids while they are put together at `target`. */
function mappedFolder(target: string): string {
  return `${target}-mapped`;
}

/** Takes mapped layers away again. Safe to repeat. */
function removeMapped(mapped: string): void {
  if (!existsSync(mapped)) return;
  for (const name of readdirSync(mapped)) {
    unmount(join(mapped, name));
    rmdirSync(join(mapped, name));
  }
  rmdirSync(mapped);
}

/** Something of the image's with the ids that it has on the host; those without one there are the owner's root's. */
function onHost<T extends { readonly uid: number; readonly gid: number }>(
  folder: T,
  owner: SnapshotOwner | undefined,
): T {
  if (!owner) return folder;
  return { ...folder, uid: toHostId(owner.uids, folder.uid), gid: toHostId(owner.gids, folder.gid) };
}

/** A descriptor that keeps what is mounted there alive; undefined when there is no such folder. */
function holdMount(path: string): number | undefined {
  try {
    return openSync(path, O_PATH | constants.O_DIRECTORY | constants.O_NOFOLLOW);
  } catch (err) {
    if (isErrno(err, 'ENOENT')) return undefined;
    throw wrapErrno(`open ${path}`, err);
  }
}

/** What is off everywhere else is off here too, where the kernel can do it at all: what a container wrote stays plain. */
function overlayFlags(): string[] {
  return ['index', 'metacopy']
    .filter((name) => existsSync(`/sys/module/overlay/parameters/${name}`))
    .map((name) => `${name}=off`);
}
