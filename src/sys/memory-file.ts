import { closeSync, openSync } from 'node:fs';

import { check, isErrno } from './errno.ts';
import { cString, libc } from './libc.ts';

const fn = {
  memfdCreate: libc.func('memfd_create', 'int', ['str', 'uint']) as (name: string, flags: number) => number,
  fcntl: libc.func('fcntl', 'int', ['int', 'int', 'int']) as (fd: number, command: number, argument: number) => number,
};

const MFD_CLOEXEC = 0x01;
const MFD_ALLOW_SEALING = 0x02;
/** Linux 6.3; before that every memory file could be executed. */
const MFD_EXEC = 0x10;
const F_ADD_SEALS = 1033;
/** F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW and F_SEAL_WRITE: exactly those that runc looks for on its own program. */
const SEALS = 0x0f;

/**
 * A file that lives in memory (memfd_create(2)), and that can be executed once it is sealed. Open for writing and
 * close-on-exec; the caller closes it.
 */
export function createMemoryFile(name: string): number {
  cString(name);
  const flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
  try {
    return check('memfd_create', name, fn.memfdCreate(name, flags | MFD_EXEC));
  } catch (err) {
    if (!isErrno(err, 'EINVAL')) throw err;
    return check('memfd_create', name, fn.memfdCreate(name, flags));
  }
}

/**
 * Makes a memory file one that nobody can ever change, and returns a descriptor of it for reading and executing, which
 * is the caller's. The one for writing is closed in any case: what is open for writing cannot be executed.
 */
export function sealMemoryFile(fd: number): number {
  try {
    check('fcntl', `seals of fd ${fd}`, fn.fcntl(fd, F_ADD_SEALS, SEALS));
    return openSync(`/proc/self/fd/${fd}`, 'r');
  } finally {
    closeSync(fd);
  }
}
