import { constants, openSync, readFileSync, unlinkSync } from 'node:fs';
import { join } from 'node:path';

import { sleep } from '../base/deadline.ts';
import { wrap } from '../base/errors.ts';
import { closeFd } from '../sys/at.ts';
import { isErrno } from '../sys/errno.ts';
import { fdReadable } from '../sys/fd-ready.ts';
import { parseStartTime } from '../sys/process.ts';
import type { Handler } from './handler.ts';
import type { OciSpec } from './oci-spec.ts';
import type { ProcessIdentity } from './process-identity.ts';

/**
 * What runc itself, and neither a wrapper nor a relative of it, keeps of a container: all versions from 1.0 on have the
 * first process wait at a fifo until somebody opens it (libcontainer's container_linux.go and standard_init_linux.go),
 * and a folder with that fifo and a state.json, which is all that is left when processes and cgroup are gone. So Berth
 * starts and forgets a plain container without a program: two of five for each container's life, and 0.1 s at the end
 * where runc is 1.5.
 */
const RUNC = /^runc version 1\./;
/** How the first process calls itself while it waits (libcontainer/nsenter/nsexec.c), and that it is no zombie. */
const WAITING = /\(runc:\[2:INIT\]\) [^ZX] /;
/** Milliseconds, one each. */
const MOST_LOOKS = 100;

/** Whether a program is runc itself, by the first line of its `--version`; a script may do more than the runc below it. */
export function isRunc(version: string, isScript: boolean): boolean {
  return RUNC.test(version) && !isScript;
}

/**
 * True when runc has nothing to do for a container at its start and its end but what letGo() does, and what is done by
 * ending its processes, its cgroup and its folder: hooks are the runtime's to run, and resctrl groups its to remove.
 */
export function isPlain(handler: Pick<Handler, 'isRunc'>, { hooks, linux }: Pick<OciSpec, 'hooks' | 'linux'>): boolean {
  return handler.isRunc && hooks === undefined && linux.intelRdt === undefined;
}

/**
 * Has the first process of a plain container go on to its program, as `runc start` does, and returns when it has. False
 * when it does not wait for that: what is wrong is for runc to say. Throws the signal's reason, with the program let go
 * or not.
 */
export async function letGo(
  { root }: Pick<Handler, 'root'>,
  containerId: string,
  init: ProcessIdentity,
  signal: AbortSignal,
): Promise<boolean> {
  if (!isWaiting(init)) return false;
  const fifo = join(root, containerId, 'exec.fifo');
  let fd: number;
  try {
    // This wakes it: it waits to open the other end.
    fd = openSync(fifo, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOFOLLOW);
  } catch (err) {
    if (isErrno(err, 'ENOENT')) return false;
    throw wrap(`open ${fifo}`, err);
  }
  try {
    // runc takes a container for running that has none.
    unlinkSync(fifo);
    await fdReadable(fd, signal);
    await untilExecuted(init, signal);
    return true;
  } catch (err) {
    signal.throwIfAborted();
    throw wrap(`let container ${containerId} go at ${fifo}`, err);
  } finally {
    closeFd(fd);
  }
}

/**
 * A signal that comes before the program is executed meets runc's own process, which ends of it with 2. The kernel tells
 * nobody of an execution, which comes some tenths of a millisecond after the byte in the fifo; from a disk that hangs it
 * is not waited for, as runc does not.
 */
async function untilExecuted(init: ProcessIdentity, signal: AbortSignal): Promise<void> {
  for (let waits = 0; waits < MOST_LOOKS && isWaiting(init); waits++) await sleep(1, signal);
}

/** True while a created container's first process waits to be let go, and until it has executed its program. */
export function isWaiting({ pid, startTime }: ProcessIdentity): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    return WAITING.test(stat) && parseStartTime(stat) === startTime;
  } catch (err) {
    if (isErrno(err, 'ENOENT', 'ESRCH')) return false;
    throw err;
  }
}
