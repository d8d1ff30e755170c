/**
 * Runs inside a berthd of a bench, before anything else of it (`node --import`): writes down whenever the event loop came
 * late to a timer, and what its thread did meanwhile. The metrics of berthd cannot tell a loop that is blocked from one
 * that waits for a processor on a machine that is busy.
 *
 * $BENCH_LOOP_PROBE names a file that it adds lines to: milliseconds since the epoch, how late, for how long the thread
 * waited for a processor in that time, and for how long it ran.
 */

import { appendFileSync, openSync, readSync } from 'node:fs';
import { isMainThread } from 'node:worker_threads';

const SAMPLE_MS = 10;
/** Less than this is no matter to anybody. */
const WORTH_TELLING_MS = 5;

const file = process.env['BENCH_LOOP_PROBE'];
if (isMainThread && file !== undefined) watch(file);

function watch(file: string): void {
  const bytes = Buffer.alloc(128);
  const schedstat = openSync(`/proc/self/task/${process.pid}/schedstat`, 'r');
  // What the kernel has counted, in nanoseconds: proc_pid_schedstat() of fs/proc/base.c.
  const read = (): { readonly ran: number; readonly waited: number } => {
    const [ran = 0, waited = 0] = bytes
      .toString('latin1', 0, readSync(schedstat, bytes, 0, 128, 0))
      .split(' ')
      .map(Number);
    return { ran: ran / 1e6, waited: waited / 1e6 };
  };
  let lines = '';
  let [atMs, thread] = [performance.now(), read()];
  const look = (): void => {
    const [before, nowMs, now] = [thread, performance.now(), read()];
    const lateMs = nowMs - atMs - SAMPLE_MS;
    [atMs, thread] = [nowMs, now];
    if (lateMs > WORTH_TELLING_MS) {
      const numbers = [lateMs, now.waited - before.waited, now.ran - before.ran];
      lines += `${Math.round(performance.timeOrigin + nowMs)} ${numbers.map((ms) => ms.toFixed(1)).join(' ')}\n`;
    } else if (lines !== '') {
      // Not at once: the write would make the loop late.
      appendFileSync(file, lines);
      lines = '';
      [atMs, thread] = [performance.now(), read()];
    }
  };
  setInterval(look, SAMPLE_MS).unref();
}
