import { check } from './errno.ts';
import { libc } from './libc.ts';

const fn = {
  pipe2: libc.func('pipe2', 'int', ['void *', 'int']) as (fds: Uint8Array, flags: number) => number,
  socketpair: libc.func('socketpair', 'int', ['int', 'int', 'int', 'void *']) as (
    family: number,
    type: number,
    protocol: number,
    fds: Uint8Array,
  ) => number,
  fcntl: libc.func('fcntl', 'int', ['int', 'int', 'int']) as (fd: number, command: number, argument: number) => number,
};

const O_CLOEXEC = 0o2000000;
const F_DUPFD_CLOEXEC = 1030;
const F_GETFL = 3;
const F_SETFL = 4;
const O_NONBLOCK = 0o4000;
const AF_UNIX = 1;
const SOCK_STREAM_CLOEXEC = 1 | O_CLOEXEC;

/** A pipe whose both ends are closed in children unless `posixSpawn` hands them over. The caller closes them. */
export function createPipe(): { readFd: number; writeFd: number } {
  const fds = Buffer.alloc(8);
  check('pipe2', 'new pipe', fn.pipe2(fds, O_CLOEXEC));
  return { readFd: fds.readInt32LE(0), writeFd: fds.readInt32LE(4) };
}

/** Two stream sockets that are connected to each other, close-on-exec. The caller closes them. */
export function createSocketPair(): { ownFd: number; otherFd: number } {
  const fds = Buffer.alloc(8);
  check('socketpair', 'new pair', fn.socketpair(AF_UNIX, SOCK_STREAM_CLOEXEC, 0, fds));
  return { ownFd: fds.readInt32LE(0), otherFd: fds.readInt32LE(4) };
}

/** A second descriptor for the same open file, numbered `lowest` or higher, close-on-exec. */
export function duplicateFd(fd: number, lowest: number): number {
  return check('fcntl', `fd ${fd}`, fn.fcntl(fd, F_DUPFD_CLOEXEC, lowest));
}

/** Has reads and writes fail with EAGAIN in place of waiting, for all who share the open file (fcntl(2), F_SETFL). */
export function makeNonBlocking(fd: number): void {
  const flags = check('fcntl', `fd ${fd}`, fn.fcntl(fd, F_GETFL, 0));
  check('fcntl', `fd ${fd}`, fn.fcntl(fd, F_SETFL, flags | O_NONBLOCK));
}
