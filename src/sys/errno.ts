import koffi from 'koffi';

import { BerthError, type ErrorKind, kindOf } from '../base/errors.ts';
import { libc, type Name, showName } from './libc.ts';

const strerrorname: (errno: number) => string | null = libc.func('strerrorname_np', 'str', ['int']);
const strerrordesc: (errno: number) => string | null = libc.func('strerrordesc_np', 'str', ['int']);

/** A system call that the kernel refused. */
export class SyscallError extends BerthError {
  override readonly name = 'SyscallError';
  /** The symbolic error, `ENOENT`. */
  readonly errno: string;
  /** The system call, `mount`. */
  readonly call: string;

  constructor(kind: ErrorKind, message: string, facts: { errno: string; call: string }) {
    super(kind, message);
    this.errno = facts.errno;
    this.call = facts.call;
  }
}

/** What a caller can do about an errno (errno(3)). Those not listed are `internal`. */
const kindOfErrno: Readonly<Record<string, ErrorKind>> = Object.freeze({
  ENOENT: 'notFound',
  ESRCH: 'notFound',
  EEXIST: 'alreadyExists',
  EPERM: 'permission',
  EACCES: 'permission',
  EROFS: 'permission',
  EBUSY: 'precondition',
  ENOTEMPTY: 'precondition',
  ENOTDIR: 'precondition',
  EISDIR: 'precondition',
  ENOSPC: 'exhausted',
  EDQUOT: 'exhausted',
  ENOMEM: 'exhausted',
  EMFILE: 'exhausted',
  ENFILE: 'exhausted',
  EAGAIN: 'exhausted',
  ENAMETOOLONG: 'invalid',
  ENOSYS: 'unimplemented',
  ENOTSUP: 'unimplemented',
});

/** The result of a call that returns -1 on failure; throws a `SyscallError` that names the call and its subject. */
export function check(call: string, subject: Name, rc: number): number {
  if (rc < 0) throw syscallError(call, subject, koffi.errno());
  return rc;
}

/** The symbolic errno of the last failed call of this thread; only valid directly after that call. */
export function lastErrno(): string {
  return errnoName(koffi.errno());
}

/** The error for an errno number, as posix_spawn and the pthread functions return it. */
export function syscallError(call: string, subject: Name, errno: number): SyscallError {
  const name = errnoName(errno);
  const message = `${call} ${showName(subject)}: ${strerrordesc(errno)?.toLowerCase() ?? 'unknown error'} (${name})`;
  return new SyscallError(kindOfErrno[name] ?? 'internal', message, { errno: name, call });
}

/** `ENOENT` for 2. Where two names share a number, that of node:fs: EAGAIN, ENOTSUP. */
export function errnoName(errno: number): string {
  const name = strerrorname(errno) ?? `errno ${errno}`;
  // glibc has the other one.
  return name === 'EOPNOTSUPP' ? 'ENOTSUP' : name;
}

/** As `wrap`, for a failed call of node:fs: the errno decides the kind. */
export function wrapErrno(context: string, cause: unknown): BerthError {
  const code = cause instanceof Error && 'code' in cause && typeof cause.code === 'string' ? cause.code : '';
  return new BerthError(kindOfErrno[code] ?? kindOf(cause), context, { cause });
}

/** True for a `SyscallError`, or an error of node:fs, with one of these symbolic errnos. */
export function isErrno(err: unknown, ...names: readonly string[]): boolean {
  if (err instanceof SyscallError) return names.includes(err.errno);
  return err instanceof Error && 'code' in err && typeof err.code === 'string' && names.includes(err.code);
}

/** Waits for a removal. That there was nothing to remove (ENOENT) is success. */
export async function unlessGone(removal: Promise<void>): Promise<void> {
  await removal.catch((err: unknown) => {
    if (!isErrno(err, 'ENOENT')) throw err;
  });
}
