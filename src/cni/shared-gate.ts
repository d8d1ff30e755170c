import { until } from './until.ts';

/**
 * Many may pass together, or one alone. The CNI specification (1.1, section 3) wants GC to run only while no ADD or
 * DEL does. Who waits to be alone goes before those who come after it.
 */
export class SharedGate {
  #passing = 0;
  #alone: Promise<void> | undefined;
  #emptied: (() => void) | undefined;

  /** Runs `fn` beside others. Throws the signal's reason if it aborts before. */
  async shared<T>(signal: AbortSignal, fn: () => Promise<T>): Promise<T> {
    while (this.#alone !== undefined) await until(this.#alone, signal);
    this.#passing += 1;
    try {
      return await fn();
    } finally {
      this.#passing -= 1;
      if (this.#passing === 0) this.#emptied?.();
    }
  }

  /** Runs `fn` when nothing else runs. Throws the signal's reason if it aborts before. */
  async alone<T>(signal: AbortSignal, fn: () => Promise<T>): Promise<T> {
    while (this.#alone !== undefined) await until(this.#alone, signal);
    const { promise: done, resolve: release } = Promise.withResolvers<void>();
    this.#alone = done;
    try {
      if (this.#passing > 0) {
        const { promise: emptied, resolve } = Promise.withResolvers<void>();
        this.#emptied = resolve;
        await until(emptied, signal);
      }
      return await fn();
    } finally {
      this.#alone = undefined;
      this.#emptied = undefined;
      release();
    }
  }
}
