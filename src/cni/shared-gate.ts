import { raceSignal } from '../base/deadline.ts';

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
    while (this.#alone !== undefined) await raceSignal(this.#alone, signal);
    this.#passing += 1;
    try {
      return await fn();
    } finally {
      this.#passing -= 1;
      if (this.#passing === 0) this.#emptied?.();
    }
  }

  /**
   * Runs `fn` when nothing else runs. Undefined, and `fn` was not run, when that does not come within `patienceMs`: who
   * comes later has to wait meanwhile. Throws the signal's reason if it aborts before.
   */
  async alone<T>(patienceMs: number, signal: AbortSignal, fn: () => Promise<T>): Promise<T | undefined> {
    while (this.#alone !== undefined) await raceSignal(this.#alone, signal);
    const { promise: done, resolve: release } = Promise.withResolvers<void>();
    this.#alone = done;
    try {
      const isEmpty = this.#passing === 0 || (await this.#empties(patienceMs, signal));
      return isEmpty ? await fn() : undefined;
    } finally {
      this.#alone = undefined;
      this.#emptied = undefined;
      release();
    }
  }

  async #empties(patienceMs: number, signal: AbortSignal): Promise<boolean> {
    const { promise, resolve } = Promise.withResolvers<boolean>();
    this.#emptied = () => resolve(true);
    const timer = setTimeout(() => resolve(false), patienceMs);
    try {
      return await raceSignal(promise, signal);
    } finally {
      clearTimeout(timer);
    }
  }
}
