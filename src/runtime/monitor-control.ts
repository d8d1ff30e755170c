import { closeSync, constants, openSync, readSync, writeSync } from 'node:fs';

import { sleep } from '../base/deadline.ts';
import { BerthError, wrap } from '../base/errors.ts';
import { readableBytes } from '../sys/fd-calls.ts';
import type { WindowSize } from './client-streams.ts';

const ASK_AGAIN_MS = 5;
/** More than is ever written to a fifo that nobody reads. */
const MOST_BYTES = 4096;

/** A container whose monitor is told something by one of its fifos. */
interface Listener {
  readonly containerId: string;
  readonly fifo: string;
}

/** A container with its monitor's control fifo. */
interface Controlled {
  readonly containerId: string;
  readonly control: string;
}

/**
 * Has a monitor open its log anew (conmon's src/ctrl.c): waits until it has taken what it was told before, and does not
 * tell it when it `hasDone` by then what this is for. Throws `precondition` when it is gone, or the signal's reason.
 */
export async function tellToReopen(
  { containerId, control }: Controlled,
  hasDone: () => boolean,
  signal: AbortSignal,
): Promise<void> {
  await tell({ containerId, fifo: control }, '2 0 0\n', signal, hasDone);
}

/** Takes back what a monitor was told and has not read. Never throws: where there is no monitor, there is nothing. */
export function takeBack({ control }: Pick<Controlled, 'control'>): void {
  try {
    // As conmon has it open: where one of the two has read a line, the other one finds none and goes on.
    const fd = openSync(control, constants.O_RDONLY | constants.O_NONBLOCK);
    try {
      readSync(fd, Buffer.alloc(MOST_BYTES));
    } finally {
      closeSync(fd);
    }
  } catch {
    // It has gone, or has taken all.
  }
}

/**
 * Has a monitor resize a container's terminal, as `tellToReopen`. By the fifo of window sizes: those of the control fifo
 * it puts there itself, where one that it has not yet read would have it lose the next.
 */
export async function tellWindowSize(
  { containerId, window }: { readonly containerId: string; readonly window: string },
  { height, width }: WindowSize,
  signal: AbortSignal,
): Promise<void> {
  await tell({ containerId, fifo: window }, `${height} ${width}\n`, signal);
}

/** Of several lines that conmon 2.1.6 reads at once it carries out the first one, several times. */
async function tell(
  { containerId, fifo }: Listener,
  line: string,
  signal: AbortSignal,
  isNeedless = (): boolean => false,
): Promise<void> {
  try {
    // Without O_NONBLOCK a fifo that nobody reads would hold the whole daemon.
    const fd = openSync(fifo, constants.O_WRONLY | constants.O_NONBLOCK);
    try {
      while (readableBytes(fd) > 0) await sleep(ASK_AGAIN_MS, signal);
      if (!isNeedless()) writeSync(fd, line);
    } finally {
      closeSync(fd);
    }
  } catch (err) {
    throw controlError(`monitor of container ${containerId}`, err);
  }
}

function controlError(what: string, cause: unknown): BerthError {
  const isAlone = cause instanceof Error && 'code' in cause && (cause.code === 'ENXIO' || cause.code === 'ENOENT');
  return isAlone ? new BerthError('precondition', `${what} is gone`, { cause }) : wrap(what, cause);
}
