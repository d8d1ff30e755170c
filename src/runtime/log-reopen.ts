import { chmodSync, readdirSync, statSync, watch } from 'node:fs';
import { dirname, join } from 'node:path';

import { raceSignal, withDeadline } from '../base/deadline.ts';
import { invalid } from '../base/errors.ts';
import { LOG_FILE_MODE } from './log-path.ts';
import { takeBack, tellToReopen } from './monitor-control.ts';

/** What a container's log is reopened with. */
export interface ReopenRequest {
  readonly containerId: string;
  /** The control fifo in the bundle. */
  readonly control: string;
  readonly logFile: string;
  readonly monitorPid: number;
}

const REOPEN_TIMEOUT_MS = 10_000;

/**
 * Has the monitor go on in a new log file after the old one was renamed, and returns when it does: the caller
 * compresses the old file next. A file that the monitor writes to already is left alone, because conmon would replace
 * it by an empty one. Throws `precondition` when the container has no log or no monitor, `deadline` when the monitor does
 * not come to it within ten seconds: then an order that it has not read is taken back.
 */
export async function reopenLog(request: ReopenRequest, signal: AbortSignal): Promise<void> {
  const { containerId, logFile } = request;
  if (logFile === '') throw invalid('container_id', `container ${containerId} has no log file`);
  if (isWritten(request)) return;
  using deadline = withDeadline(`new log file of container ${containerId}`, REOPEN_TIMEOUT_MS, signal);
  const { promise: written, resolve, reject } = Promise.withResolvers<void>();
  // Nobody waits for it yet while the monitor is told.
  written.catch(() => {});
  const check = (): void => {
    if (isWritten(request)) resolve();
  };
  const watcher = watch(dirname(logFile), { persistent: false }, check).on('error', reject);
  try {
    await tellToReopen(request, () => isWritten(request), deadline);
    check();
    await raceSignal(written, deadline);
    chmodSync(logFile, LOG_FILE_MODE);
  } catch (err) {
    // The kubelet gives the old file its name back, and a monitor that hung on a disk would come to replace it. One that
    // hangs in the midst of it does so still.
    takeBack(request);
    throw err;
  } finally {
    watcher.close();
  }
}

/** Whether the file at the log's path is one that the monitor has open. */
function isWritten({ logFile, monitorPid }: ReopenRequest): boolean {
  const log = statSync(logFile, { bigint: true, throwIfNoEntry: false });
  if (!log) return false;
  const folder = `/proc/${monitorPid}/fd`;
  try {
    return readdirSync(folder).some((fd) => {
      const open = statSync(join(folder, fd), { bigint: true, throwIfNoEntry: false });
      return open?.ino === log.ino && open.dev === log.dev;
    });
  } catch {
    // The monitor is gone; sending to it tells so.
    return false;
  }
}
