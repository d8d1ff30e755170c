import { setImmediate as nextTurn } from 'node:timers/promises';

import { raceSignal } from './deadline.ts';

/**
 * Joins calls that ask for the same thing: the second caller waits for the first one's work instead of starting its
 * own. The work belongs to nobody's request, so no single caller's cancellation ends it.
 */
export class InFlight<T> {
  readonly #running = new Map<string, Promise<T>>();

  /** Returns the running work for `key`, or starts it. A caller whose signal aborts stops waiting; the work goes on. */
  async join(key: string, signal: AbortSignal, start: () => Promise<T>): Promise<T> {
    signal.throwIfAborted();
    let work = this.#running.get(key);
    if (!work) {
      work = start().finally(() => this.#running.delete(key));
      // A caller that left must not turn the failure into an unhandled rejection; who still waits gets it.
      work.catch(() => {});
      this.#running.set(key, work);
    }
    return await raceSignal(work, signal);
  }

  /** The keys of what is running now. */
  keys(): string[] {
    return [...this.#running.keys()];
  }

  /** Resolves when nothing runs any more, however it ended: also what was begun by who waited for something here. */
  async idle(): Promise<void> {
    while (this.#running.size > 0) {
      await Promise.allSettled(this.#running.values());
      // Let those who have waited go on first.
      await nextTurn();
    }
  }
}
