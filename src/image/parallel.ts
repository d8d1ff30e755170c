/** Doing several things at once, in bounds, without leaving anything running. */

/** At most `limit` holders at a time; the rest wait in the order of asking. */
export class Slots {
  readonly #waiting: (() => void)[] = [];
  #free: number;

  constructor(limit: number) {
    this.#free = Math.max(1, limit);
  }

  /** How many more could run at once. */
  get free(): number {
    return this.#free;
  }

  /** How many wait for one. */
  get waiting(): number {
    return this.#waiting.length;
  }

  /** Runs `fn` when a slot is free. Throws the signal's reason if it aborts before that. */
  async run<T>(signal: AbortSignal, fn: () => Promise<T>): Promise<T> {
    signal.throwIfAborted();
    if (this.#free > 0) this.#free -= 1;
    else await this.#turn(signal);
    try {
      return await fn();
    } finally {
      const next = this.#waiting.shift();
      if (next) next();
      else this.#free += 1;
    }
  }

  async #turn(signal: AbortSignal): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const onAbort = (): void => {
      const at = this.#waiting.indexOf(resolve);
      // Not in the list: the slot is ours already, and its holder gives it back.
      if (at < 0) return;
      this.#waiting.splice(at, 1);
      reject(signal.reason);
    };
    this.#waiting.push(resolve);
    signal.addEventListener('abort', onAbort, { once: true });
    try {
      await promise;
    } finally {
      signal.removeEventListener('abort', onAbort);
    }
  }
}

/**
 * Runs `fn` for all items side by side. The first failure aborts the others; it is thrown when all have ended, so that
 * nothing is still at work on what the caller then cleans up.
 */
export async function allOrAbort<T>(
  items: readonly T[],
  signal: AbortSignal,
  fn: (item: T, signal: AbortSignal) => Promise<void>,
): Promise<void> {
  const own = new AbortController();
  const both = AbortSignal.any([signal, own.signal]);
  const failures: unknown[] = [];
  await Promise.all(
    items.map(async (item) => {
      try {
        await fn(item, both);
      } catch (err) {
        failures.push(err);
        own.abort(err);
      }
    }),
  );
  if (failures.length > 0) throw failures[0];
}
