import { constants } from 'node:os';

import koffi from 'koffi';

import { check, syscallError } from './errno.ts';
import { libc } from './libc.ts';
import { socketCalls } from './socket-calls.ts';

const fn = {
  read: libc.func('read', 'long', ['int', 'void *', 'size_t']) as (
    fd: number,
    into: Uint8Array,
    size: number,
  ) => number,
  write: libc.func('write', 'long', ['int', 'const void *', 'size_t']) as (
    fd: number,
    from: Uint8Array,
    size: number,
  ) => number,
  ioctl: socketCalls.ioctl,
  shutdown: libc.func('shutdown', 'int', ['int', 'int']) as (fd: number, how: number) => number,
};

const FIONREAD = 0x541b;
const TCGETS = 0x5401;
const TCSETS = 0x5402;
const TIOCSWINSZ = 0x5414;
const SHUT_RD = 0;
const SHUT_WR = 1;
/** The kernel's struct termios: four words of flags, a byte, 19 control characters; c_oflag is the second word. */
const TERMIOS_BYTES = 36;
const OUTPUT_FLAGS_OFFSET = 4;
const ONLCR = 0x4;

/** Reads from a non-blocking descriptor: the number of bytes, 0 at the end, undefined when nothing is there now. */
export function readFd(fd: number, into: Uint8Array): number | undefined {
  return unlessBusy('read', fd, fn.read(fd, into, into.length));
}

/** Writes to a non-blocking descriptor: how much was taken, undefined when nothing can be taken now. */
export function writeFd(fd: number, bytes: Uint8Array): number | undefined {
  return unlessBusy('write', fd, fn.write(fd, bytes, bytes.length));
}

/** How many bytes a pipe, socket or terminal has for its reader (ioctl_tty(2), FIONREAD). */
export function readableBytes(fd: number): number {
  const count = Buffer.alloc(4);
  check('ioctl FIONREAD', `fd ${fd}`, fn.ioctl(fd, FIONREAD, count));
  return count.readInt32LE(0);
}

/** Refuses what the other side of a socket would still send (shutdown(2)). */
export function shutdownRead(fd: number): void {
  check('shutdown', `fd ${fd}`, fn.shutdown(fd, SHUT_RD));
}

/** Tells the other side of a socket that no more will come (shutdown(2)). */
export function shutdownWrite(fd: number): void {
  check('shutdown', `fd ${fd}`, fn.shutdown(fd, SHUT_WR));
}

/** Sets a terminal's size in characters; its foreground programs get SIGWINCH when it changes (ioctl_tty(2)). */
export function setWindowSize(fd: number, size: { readonly width: number; readonly height: number }): void {
  const winsize = Buffer.alloc(8);
  winsize.writeUInt16LE(size.height, 0);
  winsize.writeUInt16LE(size.width, 2);
  check('ioctl TIOCSWINSZ', `fd ${fd}`, fn.ioctl(fd, TIOCSWINSZ, winsize));
}

/** Has a terminal send a carriage return before each line feed, as people's terminals need it (ONLCR of termios(3)). */
export function addCarriageReturns(fd: number): void {
  const termios = Buffer.alloc(TERMIOS_BYTES);
  check('ioctl TCGETS', `fd ${fd}`, fn.ioctl(fd, TCGETS, termios));
  termios.writeUInt32LE(termios.readUInt32LE(OUTPUT_FLAGS_OFFSET) | ONLCR, OUTPUT_FLAGS_OFFSET);
  check('ioctl TCSETS', `fd ${fd}`, fn.ioctl(fd, TCSETS, termios));
}

function unlessBusy(call: string, fd: number, rc: number): number | undefined {
  if (rc >= 0) return rc;
  // No exception: this is how every stream's reading and writing pauses.
  const errno = koffi.errno();
  if (errno === constants.errno.EAGAIN || errno === constants.errno.EINTR) return undefined;
  throw syscallError(call, `fd ${fd}`, errno);
}
