import { check } from './errno.ts';
import { libc } from './libc.ts';
import type { NamespaceKind } from './namespace-request.ts';

const fn = {
  unshare: libc.func('unshare', 'int', ['int']) as (flags: number) => number,
  setns: libc.func('setns', 'int', ['int', 'int']) as (fd: number, type: number) => number,
  syscall: libc.func('syscall', 'long', ['long', 'long', 'long', 'long']) as (
    nr: number,
    a: number,
    b: number,
    c: number,
  ) => number,
  sethostname: libc.func('sethostname', 'int', ['str', 'size_t']) as (name: string, length: number) => number,
  chdir: libc.func('chdir', 'int', ['str']) as (path: string) => number,
  fchdir: libc.func('fchdir', 'int', ['int']) as (fd: number) => number,
  chroot: libc.func('chroot', 'int', ['str']) as (path: string) => number,
  // glibc has no function for it.
  pivotRoot: libc.func('syscall', 'long', ['long', 'str', 'str']) as (nr: number, root: string, old: string) => number,
};

/** The numbers of setresuid(2): it is older than the architectures' common table. */
const SYS_SETRESUID = process.arch === 'arm64' ? 147 : 117;
const UNCHANGED = -1;

/** CLONE_NEW* of sched.h. */
const cloneFlags: Readonly<Record<NamespaceKind, number>> = Object.freeze({
  net: 0x40000000,
  ipc: 0x08000000,
  uts: 0x04000000,
  pid: 0x20000000,
});

const CLONE_NEWNS = 0x00020000;
const SYS_PIVOT_ROOT = process.arch === 'arm64' ? 41 : 155;

/**
 * Gives the calling thread new namespaces (unshare(2)); a new PID namespace is for its next children. Only for a
 * thread of its own: whatever else runs on it would be in the wrong place.
 */
export function unshare(kinds: readonly NamespaceKind[]): void {
  const flags = flagsOf(kinds);
  if (flags !== 0) check('unshare', kinds.join(), fn.unshare(flags));
}

/** The flags of clone(2) and unshare(2) that stand for these kinds. */
export function flagsOf(kinds: readonly NamespaceKind[]): number {
  return kinds.reduce((sum, kind) => sum | cloneFlags[kind], 0);
}

/** Moves the calling thread into the namespace behind a descriptor (setns(2)). */
export function setns(fd: number, kind: NamespaceKind): void {
  check('setns', kind, fn.setns(fd, cloneFlags[kind]));
}

/** Sets the host name in the calling thread's UTS namespace. */
export function setHostname(name: string): void {
  check('sethostname', name, fn.sethostname(name, Buffer.byteLength(name)));
}

/**
 * Gives the calling thread a copy of its mount namespace, and with it a root and a working directory of its own
 * (unshare(2)). Only for a thread of its own.
 */
export function unshareMounts(): void {
  check('unshare', 'mnt', fn.unshare(CLONE_NEWNS));
}

/** Moves the calling thread into a mount namespace; its root and working directory are that namespace's root. */
export function enterMountNamespace(fd: number): void {
  check('setns', 'mnt', fn.setns(fd, CLONE_NEWNS));
}

/** Makes a mount point the root of the calling thread's mount namespace; what was the root lies on top, at `.`. */
export function pivotRoot(mountPoint: string): void {
  check('chdir', mountPoint, fn.chdir(mountPoint));
  check('pivot_root', mountPoint, fn.pivotRoot(SYS_PIVOT_ROOT, '.', '.'));
}

/** Gives the calling thread, which shares neither with others, another root and working directory. */
export function changeRoot(root: number, folder: number): void {
  check('fchdir', 'root', fn.fchdir(root));
  check('chroot', 'root', fn.chroot('.'));
  check('fchdir', 'working directory', fn.fchdir(folder));
}

/**
 * Runs something as another user, on the calling thread alone: the C library's setresuid would change all threads. Only
 * what is synchronous; the thread is root again afterwards.
 */
export function asThreadUser<T>(uid: number, use: () => T): T {
  check('setresuid', `user ${uid}`, fn.syscall(SYS_SETRESUID, UNCHANGED, uid, UNCHANGED));
  try {
    return use();
  } finally {
    check('setresuid', 'user 0', fn.syscall(SYS_SETRESUID, UNCHANGED, 0, UNCHANGED));
  }
}
