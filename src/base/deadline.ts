import { setTimeout as delay } from 'node:timers/promises';

import { BerthError } from './errors.ts';

/** A signal that aborts with the parent, or with a `deadline` error that names `what` after `timeoutMs`. */
export function withDeadline(what: string, timeoutMs: number, parent?: AbortSignal): AbortSignal & Disposable {
  const own = new AbortController();
  const timer = setTimeout(
    () => own.abort(new BerthError('deadline', `${what}: no answer within ${timeoutMs} ms`)),
    timeoutMs,
  );
  timer.unref();
  const signal = parent ? AbortSignal.any([own.signal, parent]) : own.signal;
  return Object.assign(signal, { [Symbol.dispose]: () => clearTimeout(timer) });
}

/** Waits `ms` milliseconds, or throws the signal's reason. */
export async function sleep(ms: number, signal: AbortSignal): Promise<void> {
  try {
    await delay(ms, undefined, { signal, ref: false });
  } catch {
    signal.throwIfAborted();
  }
}
