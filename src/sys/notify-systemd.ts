import { closeFd } from './at.ts';
import { check } from './errno.ts';
import { libc } from './libc.ts';
import { AF_UNIX, SOCK_CLOEXEC, SOCK_DGRAM, socketCalls } from './socket-calls.ts';

const fn = {
  sendto: libc.func('sendto', 'long', ['int', 'void *', 'size_t', 'int', 'void *', 'uint']) as (
    fd: number,
    data: Uint8Array,
    length: number,
    flags: number,
    address: Uint8Array,
    addressLength: number,
  ) => number,
};

const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;

/**
 * Tells the service manager a state such as `READY=1` (sd_notify(3)): one datagram to the unix socket that it named in
 * $NOTIFY_SOCKET, where `@` begins an abstract name. Returns false when nobody asked to be told. It never waits: throws
 * EAGAIN when the service manager has not read what it was told before.
 */
export function notifySystemd(state: string, socketName: string): boolean {
  if (!/^[/@]/.test(socketName)) return false;
  const path = Buffer.from(socketName.replace(/^@/, '\0'));
  const address = Buffer.alloc(2 + path.length);
  address.writeUInt16LE(AF_UNIX, 0);
  path.copy(address, 2);
  const fd = check('socket', 'to notify systemd', socketCalls.socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  try {
    const data = Buffer.from(state);
    check('sendto', socketName, fn.sendto(fd, data, data.length, MSG_NOSIGNAL | MSG_DONTWAIT, address, address.length));
    return true;
  } finally {
    closeFd(fd);
  }
}
