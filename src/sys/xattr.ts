import { pathAt } from './at.ts';
import { check, lastErrno } from './errno.ts';
import { cString, libc, type Name } from './libc.ts';

const fn = {
  fsetxattr: libc.func('fsetxattr', 'int', ['int', 'str', 'const void *', 'size_t', 'int']) as (
    fd: number,
    key: Name,
    value: Uint8Array,
    size: number,
    flags: number,
  ) => number,
  lsetxattr: libc.func('lsetxattr', 'int', ['str', 'str', 'const void *', 'size_t', 'int']) as (
    path: Name,
    key: Name,
    value: Uint8Array,
    size: number,
    flags: number,
  ) => number,
  fgetxattr: libc.func('fgetxattr', 'long', ['int', 'str', 'void *', 'size_t']) as (
    fd: number,
    key: Name,
    out: Uint8Array,
    size: number,
  ) => number,
  lgetxattr: libc.func('lgetxattr', 'long', ['str', 'str', 'void *', 'size_t']) as (
    path: Name,
    key: Name,
    out: Uint8Array,
    size: number,
  ) => number,
  flistxattr: libc.func('flistxattr', 'long', ['int', 'void *', 'size_t']) as (
    fd: number,
    out: Uint8Array,
    size: number,
  ) => number,
  llistxattr: libc.func('llistxattr', 'long', ['str', 'void *', 'size_t']) as (
    path: Name,
    out: Uint8Array,
    size: number,
  ) => number,
};

/** The kernel's limit for one value and for one file's list of names (xattr(7)). */
const LIMIT_BYTES = 65_536;

/** Sets an extended attribute of an open file. The descriptor must not be an O_PATH one. */
export function fsetxattr(fd: number, key: Name, value: Uint8Array): void {
  check('fsetxattr', key, fn.fsetxattr(fd, cString(key), value, value.length, 0));
}

/** Sets an extended attribute of a name in an open folder, of a link itself. */
export function lsetxattrat(dirfd: number, name: Name, key: Name, value: Uint8Array): void {
  check('lsetxattr', key, fn.lsetxattr(cString(pathAt(dirfd, name)), cString(key), value, value.length, 0));
}

/** The value of an open file's attribute, or undefined when it has none of that name. */
export function fgetxattr(fd: number, key: Name): Buffer | undefined {
  return readValue('fgetxattr', key, (out) => fn.fgetxattr(fd, cString(key), out, out.length));
}

/** The value of an attribute of a name in an open folder, of a link itself, or undefined. */
export function lgetxattrat(dirfd: number, name: Name, key: Name): Buffer | undefined {
  const path = cString(pathAt(dirfd, name));
  return readValue('lgetxattr', key, (out) => fn.lgetxattr(path, cString(key), out, out.length));
}

/** The names of an open file's attributes; empty where the file system has none. */
export function flistxattr(fd: number): string[] {
  return readNames('flistxattr', `fd ${fd}`, (out) => fn.flistxattr(fd, out, out.length));
}

/** The names of the attributes of a name in an open folder, of a link itself. */
export function llistxattrat(dirfd: number, name: Name): string[] {
  const path = cString(pathAt(dirfd, name));
  return readNames('llistxattr', name, (out) => fn.llistxattr(path, out, out.length));
}

function readValue(call: string, key: Name, read: (out: Buffer) => number): Buffer | undefined {
  const result = readGrowing(read);
  if (result.length >= 0) return result.bytes.subarray(0, result.length);
  if (lastErrno() === 'ENODATA' || lastErrno() === 'ENOTSUP') return undefined;
  check(call, key, result.length);
  return undefined;
}

function readNames(call: string, subject: Name, read: (out: Buffer) => number): string[] {
  const result = readGrowing(read);
  if (result.length < 0 && lastErrno() === 'ENOTSUP') return [];
  check(call, subject, result.length);
  return result.bytes.toString('utf8', 0, result.length).split('\0').slice(0, -1);
}

/** Most lists and values are small; only one that does not fit costs a large buffer. */
function readGrowing(read: (out: Buffer) => number): { length: number; bytes: Buffer } {
  const small = Buffer.allocUnsafe(512);
  const length = read(small);
  if (length >= 0 || lastErrno() !== 'ERANGE') return { length, bytes: small };
  const large = Buffer.allocUnsafe(LIMIT_BYTES);
  return { length: read(large), bytes: large };
}
