import { closeSync, constants, openSync, writeSync } from 'node:fs';

import { sleep } from '../base/deadline.ts';
import { BerthError, wrap } from '../base/errors.ts';
import { readableBytes } from '../sys/fd-calls.ts';
import type { WindowSize } from './client-streams.ts';

/** What a monitor can be told: conmon's src/ctrl.c; the numbers that follow only mean something for window sizes. */
export type MonitorOrder = 'reopen' | WindowSize;

const ASK_AGAIN_MS = 5;

/**
 * Tells a monitor something by its control fifo. Waits until it has taken what it was told before: of several orders
 * that it reads at once it carries out the first one, several times. Throws `precondition` when it is gone, or the
 * signal's reason.
 */
export async function tellMonitor(
  { containerId, control }: { readonly containerId: string; readonly control: string },
  order: MonitorOrder,
  signal: AbortSignal,
): Promise<void> {
  try {
    // Without O_NONBLOCK a fifo that nobody reads would hold the whole daemon.
    const fd = openSync(control, constants.O_WRONLY | constants.O_NONBLOCK);
    try {
      while (readableBytes(fd) > 0) await sleep(ASK_AGAIN_MS, signal);
      writeSync(fd, order === 'reopen' ? '2 0 0\n' : `1 ${order.height} ${order.width}\n`);
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
