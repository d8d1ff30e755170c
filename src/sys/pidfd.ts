import { check, isErrno } from './errno.ts';
import { fdReadable } from './fd-ready.ts';
import { libc } from './libc.ts';
import { type SignalName, signalName, signalNumber } from './signals.ts';

const syscall: (nr: number, a: number, b: number, c: number, d: number) => number = libc.func('syscall', 'long', [
  'long',
  'long',
  'long',
  'long',
  'long',
]);
const waitid: (type: number, id: number, info: Uint8Array, options: number) => number = libc.func('waitid', 'int', [
  'int',
  'uint',
  'void *',
  'int',
]);

const SYS_PIDFD_SEND_SIGNAL = 424;
const SYS_PIDFD_OPEN = 434;
const P_PID = 1;
const P_PIDFD = 3;
const WNOHANG = 1;
const WEXITED = 4;
const WNOWAIT = 0x01000000;
/** siginfo's si_code of a process that ended by itself; any other code is a signal's. */
const CLD_EXITED = 1;

/** How a process ended. */
export interface ExitStatus {
  /** 0 to 255; 128 + n for signal n, as shells count. */
  readonly exitCode: number;
  /** `SIGKILL` where a signal ended it. */
  readonly signal: string | undefined;
}

/** A descriptor that stands for a process (pidfd_open(2), Linux 5.3), close-on-exec. Undefined when it is gone. */
export function pidfdOpen(pid: number): number | undefined {
  try {
    return check('pidfd_open', `process ${pid}`, syscall(SYS_PIDFD_OPEN, pid, 0, 0, 0));
  } catch (err) {
    if (isErrno(err, 'ESRCH')) return undefined;
    throw err;
  }
}

/** Sends a signal, by name or (real-time signals) number (pidfd_send_signal(2)); false when the process has been reaped. */
export function pidfdSendSignal(pidfd: number, signal: SignalName | number): boolean {
  const number = typeof signal === 'number' ? signal : signalNumber(signal);
  try {
    check('pidfd_send_signal', String(signal), syscall(SYS_PIDFD_SEND_SIGNAL, pidfd, number, 0, 0));
    return true;
  } catch (err) {
    if (isErrno(err, 'ESRCH')) return false;
    throw err;
  }
}

/**
 * Reaps a child that has ended (waitid(2) with P_PIDFD, Linux 5.4); never waits. `running` while it lives, `notOurs`
 * when it is no child of this process or has been reaped before.
 */
export function waitPidfd(pidfd: number): ExitStatus | 'running' | 'notOurs' {
  return waitFor(P_PIDFD, pidfd, WEXITED | WNOHANG);
}

/** As waitPidfd(), but a child that has ended stays a zombie: waitPidfd() still has to reap it. */
export function peekPidfd(pidfd: number): ExitStatus | 'running' | 'notOurs' {
  return waitFor(P_PIDFD, pidfd, WEXITED | WNOHANG | WNOWAIT);
}

/** Waits for a child's end and reaps it. Blocks the thread: only for a child that has just been sent SIGKILL. */
export function reapKilled(pid: number): void {
  // By pid: a pidfd that the event loop has watched is non-blocking, and so is a wait for it.
  waitFor(P_PID, pid, WEXITED);
}

function waitFor(type: number, id: number, options: number): ExitStatus | 'running' | 'notOurs' {
  const info = Buffer.alloc(128);
  try {
    check('waitid', `${type === P_PID ? 'process' : 'pidfd'} ${id}`, waitid(type, id, info, options));
  } catch (err) {
    if (isErrno(err, 'ECHILD')) return 'notOurs';
    throw err;
  }
  // siginfo_t on 64-bit Linux: si_code at 8, si_pid at 16, si_status at 24.
  if (info.readInt32LE(16) === 0) return 'running';
  const status = info.readInt32LE(24);
  if (info.readInt32LE(8) === CLD_EXITED) return { exitCode: status, signal: undefined };
  return { exitCode: 128 + status, signal: signalName(status) };
}

/**
 * Resolves when the process has ended (it may still have to be reaped), also for one that is not our child; throws
 * the signal's reason. The descriptor must stay open meanwhile.
 */
export async function pidfdExited(pidfd: number, signal?: AbortSignal): Promise<void> {
  await fdReadable(pidfd, signal);
}
