import { raceSignal } from './deadline.ts';

/**
 * One lock per key, granted in the order of asking. The order between rooms' locks is sandbox, then container, then
 * image: whoever holds a later one never asks for an earlier one. Lists, status and stats take none.
 */
export class KeyedLock {
  /** The end of each key's queue; resolves when the last holder in it is done. */
  readonly #tails = new Map<string, Promise<void>>();
  #waiting = 0;

  /** Runs `fn` while holding `key`. Throws the signal's reason if it aborts before the lock is granted. */
  async withKey<T>(key: string, signal: AbortSignal, fn: () => Promise<T>): Promise<T> {
    signal.throwIfAborted();
    const previous = this.#tails.get(key) ?? Promise.resolve();
    const { promise: done, resolve: release } = Promise.withResolvers<void>();
    const tail = previous.then(() => done);
    this.#tails.set(key, tail);
    try {
      this.#waiting += 1;
      await raceSignal(previous, signal).finally(() => {
        this.#waiting -= 1;
      });
      return await fn();
    } finally {
      release();
      void tail.then(() => {
        if (this.#tails.get(key) === tail) this.#tails.delete(key);
      });
    }
  }

  /** True while somebody holds `key` or waits for it. */
  isHeld(key: string): boolean {
    return this.#tails.has(key);
  }

  /** How many wait for a key; for one turn of the loop, also who gets it at once. */
  get waiting(): number {
    return this.#waiting;
  }

  /** How many keys are held or waited for. */
  get size(): number {
    return this.#tails.size;
  }
}
