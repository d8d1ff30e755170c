import { closeSync, openSync, readdirSync, read as readFd, readFileSync, writeFileSync } from 'node:fs';
import { promisify } from 'node:util';

import { closeFd } from './at.ts';
import { check, isErrno } from './errno.ts';
import { libc } from './libc.ts';
import { pidfdOpen, pidfdSendSignal } from './pidfd.ts';
import type { SignalName } from './signals.ts';

const setpriorityCall: (which: number, who: number, nice: number) => number = libc.func('setpriority', 'int', [
  'int',
  'uint',
  'int',
]);
const getpriorityCall: (which: number, who: number) => number = libc.func('getpriority', 'int', ['int', 'uint']);
/** The C library of Debian 12 has no wrapper for sched_setattr(2). */
const syscall: (number: number, pid: number, attributes: Uint8Array, flags: number) => number = libc.func(
  'syscall',
  'long',
  ['long', 'int', 'const void *', 'uint'],
);
const exitCall: (code: number) => void = libc.func('_exit', 'void', ['int']);
const SYS_SCHED_SETATTR = process.arch === 'x64' ? 314 : 274;
const read = promisify(readFd);
/** More than the numbers and the name of such a line take. */
const STAT_BYTES = 2048;
/** SCHED_ATTR_SIZE_VER0. */
const SCHED_ATTR_BYTES = 48;
const PRIO_PROCESS = 0;
const SCHED_OTHER = 0;
const SCHED_FLAG_RESET_ON_FORK = 1n;
/** The shortest that the kernel takes. */
const SHORTEST_SLICE_NS = 100_000n;

/**
 * Has the calling thread, and no other of the process, give way to those of a lower `nice` value (setpriority(2), "C
 * library/kernel differences").
 */
export function setThreadNice(nice: number): void {
  check('setpriority', String(nice), setpriorityCall(PRIO_PROCESS, 0, nice));
}

/**
 * Has all threads that this process has by now come before others, by a negative `nice` value, and neither its children
 * nor threads that start later (sched(7), "The SCHED_RESET_ON_FORK scheduling policy"). From Linux 6.12 on they also take
 * the place of one that runs as soon as they have something to do (the slice of sched_setattr(2)). All, and not just the
 * first: up to glibc 2.40 pthread_cond_signal(3) may wait until a thread has run that was woken before, so that the first
 * waits as long for a processor as those of libuv and V8. If this process leads its session, that comes before others
 * too, with all children that it does not give one of their own. Where the nice value is not 0, somebody has chosen it,
 * and nothing changes. Throws a `SyscallError` without CAP_SYS_NICE.
 */
export function preferThreads(nice: number): void {
  if (getpriorityCall(PRIO_PROCESS, 0) !== 0) return;
  const tids = readdirSync('/proc/self/task').map(Number);
  for (const tid of tids) preferThread(tid, nice);
  if (sessionOf(readFileSync('/proc/self/stat', 'latin1')) === process.pid) setSessionNice(process.pid, nice);
}

/**
 * Ends this process (_exit(2)), without what is to be done at its exit: process.exit() waits for the threads of libuv's
 * pool, one of which may hang on a disk. A wait that not even SIGKILL ends holds the process all the same.
 */
export function exitAtOnce(code: number): void {
  exitCall(code);
}

/**
 * Has the session of a process come before others, or give way to them, where the kernel shares the processors out
 * among sessions first (sched(7), "The autogroup feature"): there the nice value of a thread counts only within its
 * session. It does so with processes that are in no cgroup of the cpu controller. For others nothing changes, nor when
 * the process is gone or this one may not: nobody depends on it.
 */
export function setSessionNice(pid: number, nice: number): void {
  try {
    writeFileSync(`/proc/${pid}/autogroup`, String(nice), { flag: 'r+' });
  } catch {
    // There is no such file in a kernel that does not do it.
  }
}

function preferThread(tid: number, nice: number): void {
  const attributes = Buffer.alloc(SCHED_ATTR_BYTES);
  attributes.writeUInt32LE(SCHED_ATTR_BYTES, 0);
  attributes.writeUInt32LE(SCHED_OTHER, 4);
  attributes.writeBigUInt64LE(SCHED_FLAG_RESET_ON_FORK, 8);
  attributes.writeInt32LE(nice, 16);
  attributes.writeBigUInt64LE(SHORTEST_SLICE_NS, 24);
  const rc = syscall(SYS_SCHED_SETATTR, tid, attributes, 0);
  try {
    check('sched_setattr', String(tid), rc);
  } catch (err) {
    // It has ended meanwhile.
    if (!isErrno(err, 'ESRCH')) throw err;
  }
}

/**
 * When a process started, in clock ticks since boot (field 22 of /proc/pid/stat): with its pid, a name that no other
 * process will ever have until the next boot. Undefined when there is no such process. Zombies still have theirs.
 */
export function readProcessStartTime(pid: number): number | undefined {
  try {
    return parseStartTime(readFileSync(`/proc/${pid}/stat`, 'latin1'));
  } catch (err) {
    if (isErrno(err, 'ENOENT', 'ESRCH')) return undefined;
    throw err;
  }
}

/**
 * The line of /proc/pid/stat, read by a thread of libuv's pool: of a process that is executing a program newer kernels
 * give it out when that is done (exec_update_lock), and one that waits for a processor meanwhile takes its time. Throws
 * ENOENT or ESRCH when the process is gone.
 */
export async function readStatInPool(pid: number): Promise<string> {
  const fd = openSync(`/proc/${pid}/stat`, 'r');
  try {
    const { bytesRead, buffer } = await read(fd, Buffer.alloc(STAT_BYTES), 0, STAT_BYTES, 0);
    return buffer.toString('latin1', 0, bytesRead);
  } finally {
    closeSync(fd);
  }
}

/** Field 22 of a /proc/pid/stat line. Field 2, the command's name, may itself hold spaces and parentheses. */
export function parseStartTime(stat: string): number | undefined {
  const ticks = Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19]);
  return Number.isSafeInteger(ticks) ? ticks : undefined;
}

/** Field 6 of a /proc/pid/stat line. */
function sessionOf(stat: string): number {
  return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[3]);
}

/** True while that very process exists, as a zombie too. */
export function isSameProcess(pid: number, startTime: number): boolean {
  return readProcessStartTime(pid) === startTime;
}

/** Opens a pidfd of that very process; undefined when it is gone or its pid belongs to another one now. */
export function openProcess(pid: number, startTime: number): number | undefined {
  const pidfd = pidfdOpen(pid);
  if (pidfd === undefined) return undefined;
  // The descriptor holds on to one process: if that is the right one now, it stays the right one.
  if (isSameProcess(pid, startTime)) return pidfd;
  closeFd(pidfd);
  return undefined;
}

/** Sends a signal to that very process; false when it is gone. */
export function killProcess(pid: number, startTime: number, signal: SignalName | number): boolean {
  const pidfd = openProcess(pid, startTime);
  if (pidfd === undefined) return false;
  try {
    return pidfdSendSignal(pidfd, signal);
  } finally {
    closeFd(pidfd);
  }
}

/**
 * Kills that very process and all that is in the process group that it leads, if it leads one: what it started, and
 * what that has left. False when the process is gone; its group is not looked for then.
 */
export function killProcessGroup(pid: number, startTime: number): boolean {
  const pidfd = openProcess(pid, startTime);
  if (pidfd === undefined) return false;
  try {
    // It shall not end by itself in between: its number would be anybody's.
    pidfdSendSignal(pidfd, 'SIGSTOP');
    try {
      if (isSameProcess(pid, startTime)) killGroup(pid);
    } catch (err) {
      // It must not stay stopped.
      pidfdSendSignal(pidfd, 'SIGKILL');
      throw err;
    }
    return pidfdSendSignal(pidfd, 'SIGKILL');
  } finally {
    closeFd(pidfd);
  }
}

function killGroup(group: number): void {
  try {
    process.kill(-group, 'SIGKILL');
  } catch (err) {
    // It leads none.
    if (!isErrno(err, 'ESRCH')) throw err;
  }
}
