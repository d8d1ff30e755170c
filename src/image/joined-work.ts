import { raceSignal } from '../base/deadline.ts';

/**
 * Joins calls that ask for the same thing, and ends the work when nobody waits for it any more. (InFlight of base
 * never ends it: there the result is worth having even without a waiter.)
 */
export class JoinedWork<T> {
  readonly #running = new Map<string, Shared<T>>();
  /** Everything that has not ended, with what was abandoned and still winds up. */
  readonly #unsettled = new Set<Shared<T>>();

  /**
   * Returns the running work for `key`, or starts it with a signal of its own. A caller whose signal aborts stops
   * waiting; the last one to leave aborts the work and stays until it has wound up, so that nothing is still at work
   * on what it cleans up then. Who asks meanwhile starts anew.
   */
  async join(key: string, signal: AbortSignal, start: (signal: AbortSignal) => Promise<T>): Promise<T> {
    signal.throwIfAborted();
    const shared = this.#running.get(key) ?? this.#start(key, start);
    shared.waiters += 1;
    try {
      return await raceSignal(shared.work, signal);
    } finally {
      shared.waiters -= 1;
      if (shared.waiters === 0) await this.#abandon(key, shared, signal.reason);
    }
  }

  /** Aborts everything that runs, and resolves when it has ended. */
  async close(reason: unknown): Promise<void> {
    const all = [...this.#unsettled];
    for (const shared of all) shared.controller.abort(reason);
    await Promise.allSettled(all.map((shared) => shared.work));
  }

  #start(key: string, start: (signal: AbortSignal) => Promise<T>): Shared<T> {
    const controller = new AbortController();
    const shared: Shared<T> = { work: start(controller.signal), controller, waiters: 0 };
    this.#running.set(key, shared);
    this.#unsettled.add(shared);
    const forget = (): void => {
      this.#unsettled.delete(shared);
      if (this.#running.get(key) === shared) this.#running.delete(key);
    };
    // Who still waits gets the failure; one that nobody waits for must not be an unhandled rejection.
    shared.work.then(forget, forget);
    return shared;
  }

  async #abandon(key: string, shared: Shared<T>, reason: unknown): Promise<void> {
    if (this.#running.get(key) !== shared) return;
    this.#running.delete(key);
    shared.controller.abort(reason);
    await Promise.allSettled([shared.work]);
  }
}

interface Shared<T> {
  readonly work: Promise<T>;
  readonly controller: AbortController;
  waiters: number;
}
