import { check } from './errno.ts';
import { libc } from './libc.ts';
import type { NamespaceKind } from './namespace-request.ts';

const fn = {
  unshare: libc.func('unshare', 'int', ['int']) as (flags: number) => number,
  setns: libc.func('setns', 'int', ['int', 'int']) as (fd: number, type: number) => number,
  sethostname: libc.func('sethostname', 'int', ['str', 'size_t']) as (name: string, length: number) => number,
};

/** CLONE_NEW* of sched.h. */
const cloneFlags: Readonly<Record<NamespaceKind, number>> = Object.freeze({
  net: 0x40000000,
  ipc: 0x08000000,
  uts: 0x04000000,
  pid: 0x20000000,
});

/**
 * Gives the calling thread new namespaces (unshare(2)); a new PID namespace is for its next children. Only for a
 * thread of its own: whatever else runs on it would be in the wrong place.
 */
export function unshare(kinds: readonly NamespaceKind[]): void {
  const flags = kinds.reduce((sum, kind) => sum | cloneFlags[kind], 0);
  if (flags !== 0) check('unshare', kinds.join(), fn.unshare(flags));
}

/** Moves the calling thread into the namespace behind a descriptor (setns(2)). */
export function setns(fd: number, kind: NamespaceKind): void {
  check('setns', kind, fn.setns(fd, cloneFlags[kind]));
}

/** Sets the host name in the calling thread's UTS namespace. */
export function setHostname(name: string): void {
  check('sethostname', name, fn.sethostname(name, Buffer.byteLength(name)));
}
