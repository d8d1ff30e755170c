import { constants } from 'node:fs';
import { basename, dirname } from 'node:path';

import koffi from 'koffi';

import { AT_FDCWD, closeFd, O_PATH, openat, unlinkat } from './at.ts';
import { check, SyscallError } from './errno.ts';
import { fdReadable } from './fd-ready.ts';
import { libc } from './libc.ts';
import { AF_UNIX, SOCK_CLOEXEC, SOCK_NONBLOCK, SOCK_STREAM, SOL_SOCKET, socketCalls } from './socket-calls.ts';

type Rc = number;
const fn = {
  ...socketCalls,
  listen: libc.func('listen', 'int', ['int', 'int']) as (fd: number, backlog: number) => Rc,
  accept4: libc.func('accept4', 'int', ['int', 'void *', 'void *', 'int']) as (
    fd: number,
    address: null,
    size: null,
    flags: number,
  ) => Rc,
  recvmsg: libc.func('recvmsg', 'long', ['int', 'void *', 'int']) as (
    fd: number,
    message: Uint8Array,
    flags: number,
  ) => Rc,
};

const SOCK_SEQPACKET = 5;
const SCM_RIGHTS = 1;
const MSG_CMSG_CLOEXEC = 0x40000000;
/** sockaddr_un of unix(7): two bytes of family, then the path with its final NUL. */
const LONGEST_SOCKET_PATH = 107;
/** cmsghdr of cmsg(3): length (8), level (4), type (4); then here one descriptor, padded. */
const CONTROL_BYTES = 24;
const MSGHDR_BYTES = 56;

/**
 * Connects to a socket that keeps messages apart (SOCK_SEQPACKET of unix(7)), wherever it lies, without waiting. Throws
 * `notFound` when it is not there, `exhausted` (EAGAIN) when too many wait for its owner, `internal` (ECONNREFUSED)
 * when it has none. The caller closes the descriptor, which is non-blocking.
 */
export function connectMessages(path: string): number {
  const fd = check('socket', path, fn.socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  try {
    withAddress(path, (address) => check('connect', path, fn.connect(fd, address, address.length)));
    return fd;
  } catch (err) {
    closeFd(fd);
    throw err;
  }
}

/**
 * A socket at which one descriptor is handed over: an OCI runtime gives a terminal's master that way (runc's
 * --console-socket). Dispose of it in any case.
 */
export class DescriptorSocket implements Disposable {
  readonly #path: string;
  readonly #fd: number;

  /** Listens at a path that is not there yet; only root may connect. */
  constructor(path: string) {
    this.#path = path;
    this.#fd = check('socket', path, fn.socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    try {
      withAddress(path, (address) => check('bind', path, fn.bind(this.#fd, address, address.length)));
      check('listen', path, fn.listen(this.#fd, 1));
    } catch (err) {
      this[Symbol.dispose]();
      throw err;
    }
  }

  /** The descriptor, close-on-exec, once somebody has handed it over. Throws the signal's reason. */
  async receive(signal: AbortSignal): Promise<number> {
    await fdReadable(this.#fd, signal);
    const connection = check('accept4', this.#path, fn.accept4(this.#fd, null, null, SOCK_NONBLOCK | SOCK_CLOEXEC));
    try {
      await fdReadable(connection, signal);
      return receiveDescriptor(connection, this.#path);
    } finally {
      closeFd(connection);
    }
  }

  [Symbol.dispose](): void {
    closeFd(this.#fd);
    try {
      unlinkat(AT_FDCWD, this.#path);
    } catch {
      // It was never bound.
    }
  }
}

/** recvmsg(2) with SCM_RIGHTS of unix(7). */
function receiveDescriptor(fd: number, subject: string): number {
  const text = Buffer.alloc(4096);
  const control = Buffer.alloc(CONTROL_BYTES);
  const vector = Buffer.alloc(16);
  vector.writeBigUInt64LE(koffi.address(text), 0);
  vector.writeBigUInt64LE(BigInt(text.length), 8);
  const message = Buffer.alloc(MSGHDR_BYTES);
  message.writeBigUInt64LE(koffi.address(vector), 16);
  message.writeBigUInt64LE(1n, 24);
  message.writeBigUInt64LE(koffi.address(control), 32);
  message.writeBigUInt64LE(BigInt(control.length), 40);
  check('recvmsg', subject, fn.recvmsg(fd, message, MSG_CMSG_CLOEXEC));
  const isRights = control.readInt32LE(8) === SOL_SOCKET && control.readInt32LE(12) === SCM_RIGHTS;
  if (message.readBigUInt64LE(40) === 0n || !isRights) {
    throw new SyscallError('internal', `recvmsg ${subject}: no descriptor came`, { errno: 'EBADMSG', call: 'recvmsg' });
  }
  return control.readInt32LE(16);
}

/** A socket's address is short; a long path is reached through its folder's descriptor. */
function withAddress(path: string, use: (address: Buffer) => void): void {
  if (Buffer.byteLength(path) <= LONGEST_SOCKET_PATH) {
    use(unixAddress(path));
    return;
  }
  const folder = openat(AT_FDCWD, dirname(path), O_PATH | constants.O_DIRECTORY);
  try {
    use(unixAddress(`/proc/self/fd/${folder}/${basename(path)}`));
  } finally {
    closeFd(folder);
  }
}

function unixAddress(path: string): Buffer {
  const address = Buffer.alloc(2 + Buffer.byteLength(path) + 1);
  address.writeUInt16LE(AF_UNIX, 0);
  address.write(path, 2);
  return address;
}
