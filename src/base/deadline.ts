import { setTimeout as delay } from 'node:timers/promises';

import { BerthError } from './errors.ts';

/** The longest that a timer of Node can carry: 24 days. It would take more for a millisecond. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** A signal that aborts with the parent, or with a `deadline` error that names `what` after `timeoutMs`. */
export function withDeadline(what: string, timeoutMs: number, parent?: AbortSignal): AbortSignal & Disposable {
  const own = new AbortController();
  const timer = setTimeout(
    () => own.abort(new BerthError('deadline', `${what}: no answer within ${timeoutMs} ms`)),
    Math.min(timeoutMs, LONGEST_TIMER_MS),
  );
  timer.unref();
  const signal = parent ? AbortSignal.any([own.signal, parent]) : own.signal;
  return Object.assign(signal, { [Symbol.dispose]: () => clearTimeout(timer) });
}

/** Waits for `work`, or throws the signal's reason: then the work goes on, and nobody hears if it fails. */
export async function raceSignal<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  const { promise: aborted, reject } = Promise.withResolvers<never>();
  const onAbort = (): void => reject(signal.reason);
  signal.addEventListener('abort', onAbort, { once: true });
  if (signal.aborted) onAbort();
  try {
    // The abort first: of two that are settled it wins, and the failure of the other is taken note of.
    return await Promise.race([aborted, work]);
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}

/** Waits `ms` milliseconds, or throws the signal's reason. */
export async function sleep(ms: number, signal: AbortSignal): Promise<void> {
  try {
    await delay(ms, undefined, { signal, ref: false });
  } catch {
    signal.throwIfAborted();
  }
}
