import { closeFd } from './at.ts';
import { check } from './errno.ts';
import { AF_INET, SOCK_CLOEXEC, SOCK_DGRAM, socketCalls } from './socket-calls.ts';

const SIOCGIFFLAGS = 0x8913;
const SIOCSIFFLAGS = 0x8914;
const IFF_UP = 1;
/** struct ifreq of netdevice(7): 16 bytes of name, then here the flags as a short. */
const IFREQ_BYTES = 40;
const FLAGS_OFFSET = 16;

/** Brings up `lo` in the calling thread's network namespace; the kernel then gives it 127.0.0.1 and ::1. */
export function bringUpLoopback(): void {
  const fd = check('socket', 'for ioctl on lo', socketCalls.socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  try {
    const ifreq = Buffer.alloc(IFREQ_BYTES);
    ifreq.write('lo');
    check('ioctl', 'SIOCGIFFLAGS of lo', socketCalls.ioctl(fd, SIOCGIFFLAGS, ifreq));
    ifreq.writeUInt16LE(ifreq.readUInt16LE(FLAGS_OFFSET) | IFF_UP, FLAGS_OFFSET);
    check('ioctl', 'SIOCSIFFLAGS of lo', socketCalls.ioctl(fd, SIOCSIFFLAGS, ifreq));
  } finally {
    closeFd(fd);
  }
}
