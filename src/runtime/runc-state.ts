import { constants, openSync, readFileSync, readSync, realpathSync, rmSync } from 'node:fs';
import { basename, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

import { raceSignal, withDeadline } from '../base/deadline.ts';
import { wrap } from '../base/errors.ts';
import { closeFd } from '../sys/at.ts';
import { isErrno } from '../sys/errno.ts';
import { fdReadable } from '../sys/fd-ready.ts';
import { pidfdExited } from '../sys/pidfd.ts';
import { openProcess, parseStartTime, readStatInPool } from '../sys/process.ts';
import type { Handler } from './handler.ts';
import type { ProcessIdentity } from './process-identity.ts';
import { isBinary } from './sealed-programs.ts';

/**
 * What runc keeps of a container, from version 1.0 on: a folder with a state.json, and until the program is started a fifo,
 * which the container's first process waits to open (libcontainer's state_linux.go and standard_init_linux.go). So what
 * `runc start` does is to read from the fifo and to remove it, and what `runc delete` does, once processes and cgroup are
 * gone, to remove the folder. Berth does both itself: two programs of five for each container's life, and 0.1 s at the end
 * where runc is 1.5. What is more than that (hooks, resctrl groups) is left to runc.
 */
const VERSION = /^runc version 1\./;
/** A wrapper may say the version of the runc below it, and do things of its own at a container's start and end. */
const NAME = /^runc(-v?\d.*)?$/;
/** How the first process calls itself until it executes the program (libcontainer/nsenter/nsexec.c). */
const INIT = '(runc:[2:INIT])';
/** Who is throttled, frozen or swapped out takes its time. */
const LET_GO_MS = 60_000;
/** How long its program is waited for after that: so many looks, a millisecond apart, of which one may take its time. */
const MOST_LOOKS = 100;
const EXECUTED_MS = 5_000;

/** How far the first process of a container is that was created. */
export type InitStage = 'waiting' | 'executed' | 'ended';

/** Whether a program is runc itself, by the first line of its `--version`, its name, and that it is no script. */
export function isRunc(version: string, path: string): boolean {
  return VERSION.test(version) && NAME.test(basename(realpathSync(path))) && isBinary(path);
}

/**
 * The folder that runc keeps of a container, where that is all there is to its start and its end; undefined where it has
 * to be asked: when it is not runc itself, or runs hooks, whoever has put them into the bundle, or made a resctrl group.
 */
export function plainState(
  { isRunc, root }: Pick<Handler, 'isRunc' | 'root'>,
  containerId: string,
): string | undefined {
  if (!isRunc) return undefined;
  const folder = join(root, containerId);
  try {
    const state = JSON.parse(readFileSync(join(folder, 'state.json'), 'utf8')) as {
      readonly config?: { readonly Hooks?: object | null };
      readonly intel_rdt_path?: string;
    };
    const hooks = Object.values(state.config?.Hooks ?? {});
    const isPlain = state.config !== undefined && !state.intel_rdt_path && hooks.every(isNothing);
    return isPlain ? folder : undefined;
  } catch {
    // Not as it is known.
    return undefined;
  }
}

/**
 * Has the first process of a plain container go on to its program, as `runc start` does, and returns when it has. False
 * when it does not wait for that, or ended meanwhile: what is wrong is for runc to say. The signal counts until the process
 * is let go; from then on it may take a minute, because the process would end if nobody read from the fifo; then it throws
 * `deadline`. A berthd that is killed in between, some microseconds as a rule, leaves a container that has ended with 1.
 */
export async function letGo(folder: string, init: ProcessIdentity, signal: AbortSignal): Promise<boolean> {
  signal.throwIfAborted();
  // Before it is let go: a short program may have ended, and be reaped, by the time that this goes on.
  const pidfd = openProcess(init.pid, init.startTime);
  if (pidfd === undefined) return false;
  try {
    if (stageOf(init) !== 'waiting' || !(await passFifo(join(folder, 'exec.fifo'), init.pid, pidfd))) return false;
  } finally {
    closeFd(pidfd);
  }
  await untilExecuted(init);
  return true;
}

/** Lets a process go that waits at this fifo; false when there is none, or it has ended before. */
async function passFifo(fifo: string, pid: number, pidfd: number): Promise<boolean> {
  let fd: number;
  try {
    // This wakes it: it waits to open the other end.
    fd = openSync(fifo, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOFOLLOW);
  } catch (err) {
    if (isErrno(err, 'ENOENT')) return false;
    throw wrap(`open ${fifo}`, err);
  }
  try {
    const hasPassed = await hasGone(fd, pid, pidfd);
    if (hasPassed) rmSync(fifo, { force: true });
    return hasPassed;
  } catch (err) {
    throw wrap('let the first process go', err);
  } finally {
    closeFd(fd);
  }
}

/** True when the first process has written its byte, false when it has ended before. Throws `deadline`. */
async function hasGone(fifo: number, pid: number, pidfd: number): Promise<boolean> {
  using limited = withDeadline(`first process ${pid}, which was let go`, LET_GO_MS);
  const over = new AbortController();
  const signal = AbortSignal.any([limited, over.signal]);
  // One that was killed before it came to its end of the fifo is not to be seen there.
  const waits = [fdReadable(fifo, signal), pidfdExited(pidfd, signal)];
  try {
    await Promise.race(waits);
    return hasByte(fifo);
  } finally {
    over.abort();
    await Promise.allSettled(waits);
  }
}

function hasByte(fifo: number): boolean {
  try {
    return readSync(fifo, Buffer.alloc(1)) === 1;
  } catch (err) {
    if (isErrno(err, 'EAGAIN')) return false;
    throw err;
  }
}

/** How far the first process is: for a berthd that did not come to note it. Removes what letGo() then did not. */
export function settleStart(folder: string, init: ProcessIdentity): InitStage {
  const stage = stageOf(init);
  // runc takes a container for running that has no fifo.
  if (stage === 'executed') rmSync(join(folder, 'exec.fifo'), { force: true });
  return stage;
}

/**
 * A signal that comes before the program is executed meets runc's own process, which ends of it with 2. The kernel tells
 * nobody of an execution, which comes some tenths of a millisecond after the byte in the fifo, and on a busy machine much
 * later; from a disk that hangs it is not waited for, as runc does not.
 */
async function untilExecuted({ pid, startTime }: ProcessIdentity): Promise<void> {
  using limited = withDeadline(`first process ${pid}, which executes its program`, EXECUTED_MS);
  try {
    for (let looks = 0; looks < MOST_LOOKS; looks++) {
      const stat = await raceSignal(readStatInPool(pid), limited);
      if (stageIn(stat, startTime) !== 'waiting') return;
      await delay(1);
    }
  } catch {
    // It was let go, and what there is to say of it is not for here: it has ended, or its program comes.
  }
}

/** How far the first process of a created container is. */
export function stageOf({ pid, startTime }: ProcessIdentity): InitStage {
  try {
    return stageIn(readFileSync(`/proc/${pid}/stat`, 'latin1'), startTime);
  } catch (err) {
    if (isErrno(err, 'ENOENT', 'ESRCH')) return 'ended';
    throw err;
  }
}

function stageIn(stat: string, startTime: number): InitStage {
  const state = stat.charAt(stat.lastIndexOf(')') + 2);
  if (parseStartTime(stat) !== startTime || 'ZX'.includes(state)) return 'ended';
  return stat.includes(INIT) ? 'waiting' : 'executed';
}

function isNothing(hooks: unknown): boolean {
  return hooks === null || (Array.isArray(hooks) && hooks.length === 0);
}
