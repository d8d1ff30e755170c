import { closeFd } from './at.ts';
import { check } from './errno.ts';
import { libc } from './libc.ts';

const fn = {
  socket: libc.func('socket', 'int', ['int', 'int', 'int']) as (
    family: number,
    type: number,
    protocol: number,
  ) => number,
  ioctl: libc.func('ioctl', 'int', ['int', 'ulong', 'void *']) as (
    fd: number,
    request: number,
    data: Uint8Array,
  ) => number,
};

const AF_INET = 2;
const SOCK_DGRAM_CLOEXEC = 2 | 0o2000000;
const SIOCGIFFLAGS = 0x8913;
const SIOCSIFFLAGS = 0x8914;
const IFF_UP = 1;
/** struct ifreq of netdevice(7): 16 bytes of name, then here the flags as a short. */
const IFREQ_BYTES = 40;
const FLAGS_OFFSET = 16;

/** Brings up `lo` in the calling thread's network namespace; the kernel then gives it 127.0.0.1 and ::1. */
export function bringUpLoopback(): void {
  const fd = check('socket', 'for ioctl on lo', fn.socket(AF_INET, SOCK_DGRAM_CLOEXEC, 0));
  try {
    const ifreq = Buffer.alloc(IFREQ_BYTES);
    ifreq.write('lo');
    check('ioctl', 'SIOCGIFFLAGS of lo', fn.ioctl(fd, SIOCGIFFLAGS, ifreq));
    ifreq.writeUInt16LE(ifreq.readUInt16LE(FLAGS_OFFSET) | IFF_UP, FLAGS_OFFSET);
    check('ioctl', 'SIOCSIFFLAGS of lo', fn.ioctl(fd, SIOCSIFFLAGS, ifreq));
  } finally {
    closeFd(fd);
  }
}
