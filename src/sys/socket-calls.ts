import { libc } from './libc.ts';

type Rc = number;

/** The system calls of sockets that several files use, with their numbers; each returns -1 on failure, and sets errno. */
export const socketCalls = Object.freeze({
  socket: libc.func('socket', 'int', ['int', 'int', 'int']) as (family: number, type: number, protocol: number) => Rc,
  bind: libc.func('bind', 'int', ['int', 'void *', 'uint']) as (fd: number, address: Uint8Array, size: number) => Rc,
  connect: libc.func('connect', 'int', ['int', 'void *', 'uint']) as (
    fd: number,
    address: Uint8Array,
    size: number,
  ) => Rc,
  setsockopt: libc.func('setsockopt', 'int', ['int', 'int', 'int', 'void *', 'uint']) as (
    fd: number,
    level: number,
    name: number,
    value: Uint8Array,
    size: number,
  ) => Rc,
  ioctl: libc.func('ioctl', 'int', ['int', 'ulong', 'void *']) as (fd: number, request: number, data: Uint8Array) => Rc,
});

export const AF_UNIX = 1;
export const AF_INET = 2;
export const AF_INET6 = 10;
export const SOCK_STREAM = 1;
export const SOCK_DGRAM = 2;
export const SOCK_NONBLOCK = 0o4000;
export const SOCK_CLOEXEC = 0o2000000;
export const SOL_SOCKET = 1;

/** An address of ip(7) or ipv6(7) for a system call, all zeros but for its family and port. */
export function emptyAddress(family: typeof AF_INET | typeof AF_INET6, port: number): Buffer {
  const address = Buffer.alloc(family === AF_INET6 ? 28 : 16);
  address.writeUInt16LE(family, 0);
  address.writeUInt16BE(port, 2);
  return address;
}
