import { readFileSync } from 'node:fs';

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
const setschedulerCall: (pid: number, policy: number, parameter: Uint8Array) => number = libc.func(
  'sched_setscheduler',
  'int',
  ['int', 'int', 'void *'],
);
const PRIO_PROCESS = 0;
const SCHED_OTHER = 0;
const SCHED_RESET_ON_FORK = 0x40000000;

/**
 * Has the calling thread, and no other of the process, give way to those of a lower `nice` value (setpriority(2), "C
 * library/kernel differences").
 */
export function setThreadNice(nice: number): void {
  check('setpriority', String(nice), setpriorityCall(PRIO_PROCESS, 0, nice));
}

/**
 * Has the calling thread come before others, by a negative `nice` value, and neither its children nor threads that it
 * starts (sched(7), "The SCHED_RESET_ON_FORK scheduling policy"). Where the nice value is not 0, somebody has chosen it,
 * and nothing changes. Throws a `SyscallError` without CAP_SYS_NICE.
 */
export function preferThisThread(nice: number): void {
  if (getpriorityCall(PRIO_PROCESS, 0) !== 0) return;
  const parameter = Buffer.alloc(4);
  const policy = SCHED_OTHER | SCHED_RESET_ON_FORK;
  check('sched_setscheduler', 'SCHED_RESET_ON_FORK', setschedulerCall(0, policy, parameter));
  setThreadNice(nice);
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

/** Field 22 of a /proc/pid/stat line. Field 2, the command's name, may itself hold spaces and parentheses. */
export function parseStartTime(stat: string): number | undefined {
  const ticks = Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19]);
  return Number.isSafeInteger(ticks) ? ticks : undefined;
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
