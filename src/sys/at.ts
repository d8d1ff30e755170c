import { check } from './errno.ts';
import { cString, libc, type Name } from './libc.ts';

/**
 * File calls relative to an open folder. None of them follows a symbolic link in the last component, and only
 * `openat2` walks more than one: whoever holds a folder's descriptor cannot be led out of it. For names use one
 * component, checked by the caller. All are synchronous and may be used in worker threads.
 */

type Rc = number;
const fn = {
  syscall: libc.func('syscall', 'long', ['long', 'long', 'const void *', 'const void *', 'long']) as (
    nr: number,
    fd: number,
    path: Name,
    how: Uint8Array,
    size: number,
  ) => Rc,
  openat: libc.func('openat', 'int', ['int', 'str', 'int', 'uint']) as (
    fd: number,
    name: Name,
    flags: number,
    mode: number,
  ) => Rc,
  close: libc.func('close', 'int', ['int']) as (fd: number) => Rc,
  mkdirat: libc.func('mkdirat', 'int', ['int', 'str', 'uint']) as (fd: number, name: Name, mode: number) => Rc,
  mknodat: libc.func('mknodat', 'int', ['int', 'str', 'uint', 'ulong']) as (
    fd: number,
    name: Name,
    mode: number,
    dev: bigint,
  ) => Rc,
  symlinkat: libc.func('symlinkat', 'int', ['str', 'int', 'str']) as (target: Name, fd: number, name: Name) => Rc,
  linkat: libc.func('linkat', 'int', ['int', 'str', 'int', 'str', 'int']) as (
    fromFd: number,
    from: Name,
    toFd: number,
    to: Name,
    flags: number,
  ) => Rc,
  unlinkat: libc.func('unlinkat', 'int', ['int', 'str', 'int']) as (fd: number, name: Name, flags: number) => Rc,
  renameat: libc.func('renameat', 'int', ['int', 'str', 'int', 'str']) as (
    fromFd: number,
    from: Name,
    toFd: number,
    to: Name,
  ) => Rc,
  readlinkat: libc.func('readlinkat', 'long', ['int', 'str', 'void *', 'size_t']) as (
    fd: number,
    name: Name,
    out: Uint8Array,
    size: number,
  ) => Rc,
  statx: libc.func('statx', 'int', ['int', 'str', 'int', 'uint', 'void *']) as (
    fd: number,
    name: Name,
    flags: number,
    mask: number,
    out: Uint8Array,
  ) => Rc,
  fchownat: libc.func('fchownat', 'int', ['int', 'str', 'uint', 'uint', 'int']) as (
    fd: number,
    name: Name,
    uid: number,
    gid: number,
    flags: number,
  ) => Rc,
  fchmodat: libc.func('fchmodat', 'int', ['int', 'str', 'uint', 'int']) as (
    fd: number,
    name: Name,
    mode: number,
    flags: number,
  ) => Rc,
  utimensat: libc.func('utimensat', 'int', ['int', 'str', 'const void *', 'int']) as (
    fd: number,
    name: Name,
    times: Uint8Array,
    flags: number,
  ) => Rc,
};

/** The same number on every architecture: calls newer than Linux 5.1 share one table. */
const SYS_OPENAT2 = 437;

/** In place of a descriptor: relative to the working directory, and absolute paths as they are. */
export const AT_FDCWD = -100;
const AT_SYMLINK_NOFOLLOW = 0x100;
const AT_REMOVEDIR = 0x200;
const AT_EMPTY_PATH = 0x1000;

/** fcntl.h; the rest is in `constants` of node:fs. A handle on a path that reads and writes nothing. */
export const O_PATH = 0o10000000;
const O_CLOEXEC = 0o2000000;

/** openat2(2): links of /proc (`/proc/self/fd/3`) fail with ELOOP. */
export const RESOLVE_NO_MAGICLINKS = 0x02;
/** openat2(2): any symbolic link fails with ELOOP. */
export const RESOLVE_NO_SYMLINKS = 0x04;
/** openat2(2): a path that would leave the folder, also for a moment, fails with EXDEV. */
export const RESOLVE_BENEATH = 0x08;
/** openat2(2): the folder is taken for the root; `..` and absolute links stay in it. */
export const RESOLVE_IN_ROOT = 0x10;

/** A point in time for file stamps: whole seconds since 1970 (may be negative) and 0 to 999999999 nanoseconds. */
export interface FileTime {
  readonly seconds: number;
  readonly nanoseconds: number;
}

/** What statx(2) tells about a file. Sizes in bytes; `mode` with the file type's bits (S_IFMT). */
export interface FileFacts {
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly size: number;
  readonly links: number;
  readonly inode: bigint;
  /** Space taken on disk, in bytes. */
  readonly allocatedBytes: number;
  readonly deviceMajor: number;
  readonly deviceMinor: number;
  /** For device files: what they stand for. */
  readonly rdevMajor: number;
  readonly rdevMinor: number;
  readonly modifiedAt: FileTime;
}

/** Opens a path under the given RESOLVE_ flags (openat2(2), Linux 5.6). Close-on-exec. Returns the descriptor. */
export function openat2(dirfd: number, path: Name, how: { flags: number; mode?: number; resolve: number }): number {
  // Each field is 64 bits wide, and all values fit in the lower half.
  const openHow = Buffer.allocUnsafe(24);
  openHow.fill(0);
  openHow.writeUInt32LE(how.flags | O_CLOEXEC, 0);
  openHow.writeUInt32LE(how.mode ?? 0, 8);
  openHow.writeUInt32LE(how.resolve, 16);
  return check('openat2', path, fn.syscall(SYS_OPENAT2, dirfd, cString(path), openHow, 24));
}

/**
 * Opens a path that must stay beneath the folder: `..` above it, absolute paths and links leading out fail with EXDEV.
 * Symbolic links that stay inside are followed. Close-on-exec.
 */
export function openBeneath(dirfd: number, path: Name, flags: number, mode = 0): number {
  return openat2(dirfd, path, { flags, mode, resolve: RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS });
}

/** Opens one name in a folder (openat(2)). Add O_NOFOLLOW where a link must not be followed. Close-on-exec. */
export function openat(dirfd: number, name: Name, flags: number, mode = 0): number {
  return check('openat', name, fn.openat(dirfd, cString(name), flags | O_CLOEXEC, mode));
}

/** Closes a descriptor that this room opened; fs.closeSync warns about those in worker threads. Never throws. */
export function closeFd(fd: number): void {
  // Linux frees the number whatever close(2) answers; a second try could hit another file.
  fn.close(fd);
}

/** Makes a folder; the process's umask applies. */
export function mkdirat(dirfd: number, name: Name, mode: number): void {
  check('mkdirat', name, fn.mkdirat(dirfd, cString(name), mode));
}

/** Makes a device, fifo or socket; `mode` with its type (S_IFCHR, ...). A character device 0:0 is overlayfs' whiteout. */
export function mknodat(dirfd: number, name: Name, mode: number, major = 0, minor = 0): void {
  check('mknodat', name, fn.mknodat(dirfd, cString(name), mode, deviceNumber(major, minor)));
}

/** Makes a symbolic link at `name` that says `target`. */
export function symlinkat(target: Name, dirfd: number, name: Name): void {
  check('symlinkat', name, fn.symlinkat(cString(target), dirfd, cString(name)));
}

/** Makes a hard link; a symbolic link at `from` is linked itself. */
export function linkat(fromDirfd: number, from: Name, toDirfd: number, to: Name): void {
  check('linkat', to, fn.linkat(fromDirfd, cString(from), toDirfd, cString(to), 0));
}

/** Removes a file, or an empty folder when `directory` is set. */
export function unlinkat(dirfd: number, name: Name, options?: { directory?: boolean }): void {
  check('unlinkat', name, fn.unlinkat(dirfd, cString(name), options?.directory === true ? AT_REMOVEDIR : 0));
}

/** Renames, replacing what is there. */
export function renameat(fromDirfd: number, from: Name, toDirfd: number, to: Name): void {
  check('renameat', to, fn.renameat(fromDirfd, cString(from), toDirfd, cString(to)));
}

/** The bytes of a symbolic link, at most 4096 (PATH_MAX). */
export function readlinkat(dirfd: number, name: Name): Buffer {
  const target = Buffer.allocUnsafe(4096);
  return target.subarray(0, check('readlinkat', name, fn.readlinkat(dirfd, cString(name), target, target.length)));
}

/** Facts of one name, of a link itself; an empty name means the descriptor's own file. */
export function fstatat(dirfd: number, name: Name): FileFacts {
  const raw = Buffer.allocUnsafe(256);
  const basicStats = 0x7ff;
  check('statx', name, fn.statx(dirfd, cString(name), AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH, basicStats, raw));
  return {
    links: raw.readUInt32LE(16),
    uid: raw.readUInt32LE(20),
    gid: raw.readUInt32LE(24),
    mode: raw.readUInt16LE(28),
    inode: raw.readBigUInt64LE(32),
    size: Number(raw.readBigUInt64LE(40)),
    allocatedBytes: Number(raw.readBigUInt64LE(48)) * 512,
    modifiedAt: { seconds: Number(raw.readBigInt64LE(112)), nanoseconds: raw.readUInt32LE(120) },
    rdevMajor: raw.readUInt32LE(128),
    rdevMinor: raw.readUInt32LE(132),
    deviceMajor: raw.readUInt32LE(136),
    deviceMinor: raw.readUInt32LE(140),
  };
}

/** Sets owner and group, of a link itself; an empty name means the descriptor's own file. Clears setuid bits. */
export function fchownat(dirfd: number, name: Name, uid: number, gid: number): void {
  check('fchownat', name, fn.fchownat(dirfd, cString(name), uid, gid, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH));
}

/** Sets permission bits, setuid and sticky included. Follows links (the kernel has no other form before 6.6). */
export function fchmodat(dirfd: number, name: Name, mode: number): void {
  check('fchmodat', name, fn.fchmodat(dirfd, cString(name), mode, 0));
}

/** Sets access and modification time, of a link itself. */
export function utimensat(dirfd: number, name: Name, accessedAt: FileTime, modifiedAt: FileTime): void {
  const times = Buffer.allocUnsafe(32);
  times.writeBigInt64LE(BigInt(accessedAt.seconds), 0);
  times.writeBigInt64LE(BigInt(accessedAt.nanoseconds), 8);
  times.writeBigInt64LE(BigInt(modifiedAt.seconds), 16);
  times.writeBigInt64LE(BigInt(modifiedAt.nanoseconds), 24);
  check('utimensat', name, fn.utimensat(dirfd, cString(name), times, AT_SYMLINK_NOFOLLOW));
}

/** A path by which calls that have no *at form reach a name in an open folder. */
export function pathAt(dirfd: number, name: Name): Name {
  const folder = `/proc/self/fd/${dirfd}/`;
  return typeof name === 'string' ? folder + name : Buffer.concat([Buffer.from(folder), name]);
}

/** glibc's makedev(3): 32-bit major and minor numbers, interleaved. */
function deviceNumber(major: number, minor: number): bigint {
  const ma = BigInt(major);
  const mi = BigInt(minor);
  return ((ma & 0xfffff000n) << 32n) | ((ma & 0xfffn) << 8n) | ((mi & 0xffffff00n) << 12n) | (mi & 0xffn);
}
