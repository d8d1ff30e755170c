import { closeFd } from '../sys/at.ts';
import { waitPidfd } from '../sys/pidfd.ts';

const REAP_AFTER_MS = 50;

/**
 * Reaps children a moment after they have ended. The last thread of a program with many announces the end before it has
 * left /proc, and who reaps meanwhile spins in the kernel until it has (d_walk of fs/dcache.c, below release_task): for
 * milliseconds where that thread waits for a processor, as a rule for the very one on which this one spins.
 */
export class Reaper {
  readonly #timers = new Map<number, NodeJS.Timeout>();

  /** Takes over the descriptor of a child that has ended; its exit code has been read. */
  take(pidfd: number): void {
    this.#timers.set(pidfd, setTimeout(() => this.#reap(pidfd), REAP_AFTER_MS).unref());
  }

  /** Reaps those that are left, at once. */
  close(): void {
    for (const pidfd of this.#timers.keys()) this.#reap(pidfd);
  }

  #reap(pidfd: number): void {
    clearTimeout(this.#timers.get(pidfd));
    this.#timers.delete(pidfd);
    try {
      waitPidfd(pidfd);
      closeFd(pidfd);
    } catch {
      // Its exit code is known: a zombie that stays is the least harm, and a timer has nobody to tell.
    }
  }
}
