import koffi from 'koffi';

import { closeFd } from './at.ts';
import { check, errnoName, syscallError } from './errno.ts';
import { fdWritable } from './fd-ready.ts';
import { libc } from './libc.ts';
import {
  AF_INET,
  AF_INET6,
  emptyAddress,
  SOCK_CLOEXEC,
  SOCK_NONBLOCK,
  SOCK_STREAM,
  SOL_SOCKET,
  socketCalls,
} from './socket-calls.ts';

const fn = {
  ...socketCalls,
  getsockopt: libc.func('getsockopt', 'int', ['int', 'int', 'int', 'void *', 'void *']) as (
    fd: number,
    level: number,
    name: number,
    value: Uint8Array,
    size: Uint8Array,
  ) => number,
};

const familyNumber = Object.freeze({ ipv4: AF_INET, ipv6: AF_INET6 });
const SO_ERROR = 4;
const SO_LINGER = 13;

/** A TCP socket of the calling thread's network namespace, non-blocking and close-on-exec. The caller closes it. */
export function openTcpSocket(family: 'ipv4' | 'ipv6'): number {
  return check('socket', family, fn.socket(familyNumber[family], SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
}

/**
 * Connects a TCP socket to a port of its own host: of 127.0.0.1 or ::1, by its family. Throws a `SyscallError`
 * (ECONNREFUSED where nobody listens) or the signal's reason; the descriptor is closed then.
 */
export async function connectLoopback(
  fd: number,
  family: 'ipv4' | 'ipv6',
  port: number,
  signal: AbortSignal,
): Promise<void> {
  try {
    const address = loopbackAddress(family, port);
    const subject = `${family === 'ipv4' ? '127.0.0.1' : '[::1]'}:${port}`;
    if (fn.connect(fd, address, address.length) === 0) return;
    const errno = koffi.errno();
    if (errnoName(errno) !== 'EINPROGRESS') throw syscallError('connect', subject, errno);
    await fdWritable(fd, signal);
    const failure = socketError(fd);
    if (failure !== 0) throw syscallError('connect', subject, failure);
  } catch (err) {
    closeFd(fd);
    throw err;
  }
}

/** Has the close of a TCP socket reset its connection, also when its end has been told (SO_LINGER of socket(7)). */
export function resetOnClose(fd: number): void {
  const linger = Buffer.alloc(8);
  linger.writeInt32LE(1, 0);
  check('setsockopt', 'SO_LINGER', fn.setsockopt(fd, SOL_SOCKET, SO_LINGER, linger, linger.length));
}

function loopbackAddress(family: 'ipv4' | 'ipv6', port: number): Buffer {
  const address = emptyAddress(familyNumber[family], port);
  if (family === 'ipv4') address.set([127, 0, 0, 1], 4);
  else address[23] = 1;
  return address;
}

/** SO_ERROR of socket(7): how a connect that was in progress has ended, as an errno; 0 is success. */
function socketError(fd: number): number {
  const value = Buffer.alloc(4);
  const size = Buffer.alloc(4);
  size.writeUInt32LE(value.length);
  check('getsockopt', 'SO_ERROR', fn.getsockopt(fd, SOL_SOCKET, SO_ERROR, value, size));
  return value.readInt32LE(0);
}
