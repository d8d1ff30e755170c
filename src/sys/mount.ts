import { closeSync, openSync, readFileSync } from 'node:fs';

import { invalid } from '../base/errors.ts';
import { check, isErrno } from './errno.ts';
import { cString, libc, type Name, showName } from './libc.ts';
import { type MountInfo, parseMountInfo } from './mount-info.ts';
import { checkInPool, type PoolCallable } from './pool-call.ts';
import { statfs } from './statfs.ts';

const fn = {
  mount: libc.func('mount', 'int', ['str', 'str', 'str', 'ulong', 'str']) as ((
    source: Name,
    target: Name,
    type: string,
    flags: number,
    data: string,
  ) => number) &
    PoolCallable<[source: string, target: string, type: string, flags: number, data: string]>,
  umount2: libc.func('umount2', 'int', ['str', 'int']) as ((target: Name, flags: number) => number) &
    PoolCallable<[target: string, flags: number]>,
  syscall: libc.func('syscall', 'long', ['long', 'long', 'str', 'ulong', 'const void *', 'size_t']) as (
    nr: number,
    dirfd: number,
    path: Name,
    flags: number,
    attributes: Uint8Array,
    size: number,
  ) => number,
  openTree: libc.func('syscall', 'long', ['long', 'long', 'str', 'ulong']) as (
    nr: number,
    dirfd: number,
    path: Name,
    flags: number,
  ) => number,
  moveMount: libc.func('syscall', 'long', ['long', 'long', 'str', 'long', 'str', 'ulong']) as (
    nr: number,
    fromDirfd: number,
    from: Name,
    toDirfd: number,
    to: Name,
    flags: number,
  ) => number,
};

/** mount(2) flags. */
export const MS_RDONLY = 0x1;
export const MS_NOSUID = 0x2;
export const MS_NODEV = 0x4;
export const MS_NOEXEC = 0x8;
export const MS_REMOUNT = 0x20;
export const MS_NOATIME = 0x400;
export const MS_NODIRATIME = 0x800;
export const MS_BIND = 0x1000;
export const MS_REC = 0x4000;
export const MS_RELATIME = 0x200000;
const MS_UNBINDABLE = 0x20000;
const MS_PRIVATE = 0x40000;
const MS_SLAVE = 0x80000;
const MS_SHARED = 0x100000;

const MNT_DETACH = 2;
const UMOUNT_NOFOLLOW = 8;
const SYS_OPEN_TREE = 428;
const SYS_MOVE_MOUNT = 429;
const SYS_MOUNT_SETATTR = 442;
const OPEN_TREE_CLONE = 1;
const OPEN_TREE_CLOEXEC = 0o2000000;
const AT_EMPTY_PATH = 0x1000;
const MOVE_MOUNT_F_EMPTY_PATH = 4;
const MOUNT_ATTR_IDMAP = 0x100000;
const AT_FDCWD = -100;
const AT_RECURSIVE = 0x8000;
const MOUNT_ATTR_RDONLY = 1;
const MOUNT_ATTR_NOSUID = 0x2;
/** statfs reports relatime with another bit than mount takes. */
const ST_RELATIME = 0x1000;
/** The kernel copies one page of options, the final NUL included. */
const DATA_LIMIT_BYTES = 4095;

/** How mounts and unmounts travel between copies of a mount (mount_namespaces(7)); `r...` means the whole subtree. */
export type Propagation =
  | 'private'
  | 'slave'
  | 'shared'
  | 'unbindable'
  | 'rprivate'
  | 'rslave'
  | 'rshared'
  | 'runbindable';

const propagationFlags: Readonly<Record<Propagation, number>> = Object.freeze({
  private: MS_PRIVATE,
  slave: MS_SLAVE,
  shared: MS_SHARED,
  unbindable: MS_UNBINDABLE,
  rprivate: MS_PRIVATE | MS_REC,
  rslave: MS_SLAVE | MS_REC,
  rshared: MS_SHARED | MS_REC,
  runbindable: MS_UNBINDABLE | MS_REC,
});

/** Arguments of mount(2). `data` are the file system's own options, comma separated, at most 4095 bytes. */
export interface MountRequest {
  readonly source: Name;
  readonly target: Name;
  readonly type: string;
  readonly flags?: number;
  readonly data?: string;
}

/** One whose names are text. */
export interface TextMountRequest extends MountRequest {
  readonly source: string;
  readonly target: string;
}

/** Mounts a file system (mount(2)). Throws a `SyscallError`; `invalid` when the options do not fit in a page. */
export function mount({ source, target, type, flags = 0, data = '' }: MountRequest): void {
  checkData(target, data);
  mountCall(`${type} on ${showName(target)}`, source, target, type, flags, data);
}

/**
 * As `mount`, off the event loop: a mount waits for whoever changes mounts anywhere, which is tens of milliseconds while
 * containers come up.
 */
export async function mountAside({ source, target, type, flags = 0, data = '' }: TextMountRequest): Promise<void> {
  checkData(target, data);
  await checkInPool('mount', `${type} on ${target}`, fn.mount, cString(source), cString(target), type, flags, data);
}

/**
 * Binds `source` to `target`. With `readonly` the new mount alone turns read-only, with `recursive` too all those
 * under it (mount_setattr(2), Linux 5.12). When that fails the bind is taken back.
 */
export function bindMount(source: Name, target: Name, options?: { recursive?: boolean; readonly?: boolean }): void {
  const recursive = options?.recursive === true;
  const what = `${showName(source)} on ${showName(target)}`;
  mountCall(`bind ${what}`, source, target, '', MS_BIND | (recursive ? MS_REC : 0), '');
  if (options?.readonly !== true) return;
  try {
    if (recursive) setReadonlyBelow(target);
    else remountReadonly(target);
  } catch (err) {
    unmount(target);
    throw err;
  }
}

/**
 * Binds `source` to `target` with the ids of files seen through a user namespace: what belongs to `containerId` of its
 * maps on disk belongs to `hostId` here (mount_setattr(2), MOUNT_ATTR_IDMAP: Linux 5.12, and only file systems that
 * know it: overlayfs as a layer 5.19, tmpfs 6.3). `userNamespace` is a file of it such as /proc/PID/ns/user. Mounts
 * that come and go below the source are seen at the target, and none of the target's at the source. Throws a
 * `SyscallError`; EINVAL where the file system cannot.
 */
export function bindMapped(source: Name, target: Name, userNamespace: string, options?: { recursive?: boolean }): void {
  const recursive = options?.recursive === true ? AT_RECURSIVE : 0;
  const what = `bind ${showName(source)} on ${showName(target)} with ids of ${userNamespace}`;
  const flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | recursive;
  const tree = check('open_tree', what, fn.openTree(SYS_OPEN_TREE, AT_FDCWD, cString(source), flags));
  try {
    const namespace = openSync(userNamespace, 'r');
    try {
      const attributes = Buffer.alloc(32);
      attributes.writeUInt32LE(MOUNT_ATTR_IDMAP, 0);
      // As a peer of the source, taking away what is mounted below the target would take it from the source too.
      attributes.writeUInt32LE(MS_SLAVE, 16);
      attributes.writeUInt32LE(namespace, 24);
      const at = AT_EMPTY_PATH | recursive;
      check('mount_setattr', what, fn.syscall(SYS_MOUNT_SETATTR, tree, '', at, attributes, attributes.length));
    } finally {
      closeSync(namespace);
    }
    const moved = fn.moveMount(SYS_MOVE_MOUNT, tree, '', AT_FDCWD, cString(target), MOVE_MOUNT_F_EMPTY_PATH);
    check('move_mount', what, moved);
  } finally {
    closeSync(tree);
  }
}

/**
 * Opens a file so that whoever executes it, or gets hold of it by that, cannot change it, nor open it for writing: by a
 * mount of its own that is read-only (open_tree(2), mount_setattr(2), Linux 5.12), and taken away again, so that nobody
 * can change its flags. It is for reading, as a second reader keeps others from a lease (F_SETLEASE of fcntl(2)) that
 * would hold up whoever executes it. Until the descriptor is closed, which is the caller's. Throws a `SyscallError`.
 */
export function openReadonlyView(file: string): number {
  const what = `read-only view of ${file}`;
  const tree = check(
    'open_tree',
    what,
    fn.openTree(SYS_OPEN_TREE, AT_FDCWD, cString(file), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC),
  );
  try {
    const attributes = Buffer.alloc(32);
    attributes.writeUInt32LE(MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID, 0);
    check('mount_setattr', what, fn.syscall(SYS_MOUNT_SETATTR, tree, '', AT_EMPTY_PATH, attributes, attributes.length));
    return openSync(`/proc/self/fd/${tree}`, 'r');
  } finally {
    closeSync(tree);
  }
}

/** Turns one mount read-only and keeps its other flags: a mount's locked nosuid or nodev must not be dropped. */
export function remountReadonly(target: Name): void {
  const { flags } = statfs(target);
  const kept = flags & (MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME | MS_NODIRATIME);
  const relatime = (flags & ST_RELATIME) !== 0 ? MS_RELATIME : 0;
  const all = MS_BIND | MS_REMOUNT | MS_RDONLY | kept | relatime;
  mountCall(`remount read-only ${showName(target)}`, 'none', target, '', all, '');
}

/** Changes a mount's propagation. */
export function setPropagation(target: Name, propagation: Propagation): void {
  const what = `make ${showName(target)} ${propagation}`;
  mountCall(what, 'none', target, '', propagationFlags[propagation], '');
}

/**
 * Takes a mount away at once, also when it is in use (MNT_DETACH); a symbolic link at the end is not followed. What is
 * not mounted or not there is success. Stacked mounts go one per call.
 */
export function unmount(target: Name): void {
  try {
    check('umount2', target, fn.umount2(cString(target), MNT_DETACH | UMOUNT_NOFOLLOW));
  } catch (err) {
    if (!isErrno(err, 'EINVAL', 'ENOENT')) throw err;
  }
}

/** As `unmount`, off the event loop: it also waits for a grace period of the kernel. */
export async function unmountAside(target: string): Promise<void> {
  try {
    await checkInPool('umount2', target, fn.umount2, cString(target), MNT_DETACH | UMOUNT_NOFOLLOW);
  } catch (err) {
    if (!isErrno(err, 'EINVAL', 'ENOENT')) throw err;
  }
}

/** All mounts that this process sees, parents first. */
export function readMounts(): MountInfo[] {
  return parseMountInfo(readFileSync('/proc/self/mountinfo', 'utf8'));
}

function checkData(target: Name, data: string): void {
  if (Buffer.byteLength(data) <= DATA_LIMIT_BYTES) return;
  throw invalid('data', `mount options of ${showName(target)} are longer than ${DATA_LIMIT_BYTES} bytes`);
}

function mountCall(what: string, source: Name, target: Name, type: string, flags: number, data: string): void {
  check('mount', what, fn.mount(cString(source), cString(target), type, flags, data));
}

function setReadonlyBelow(target: Name): void {
  // struct mount_attr: what to set, what to clear, propagation, user namespace; 64 bits each.
  const attributes = Buffer.alloc(32);
  attributes.writeUInt32LE(MOUNT_ATTR_RDONLY, 0);
  const rc = fn.syscall(SYS_MOUNT_SETATTR, AT_FDCWD, cString(target), AT_RECURSIVE, attributes, attributes.length);
  check('mount_setattr', target, rc);
}
