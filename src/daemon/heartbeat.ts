import { sleep, withDeadline } from '../base/deadline.ts';
import { describe } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import type { ServiceManager } from './service-manager.ts';

/** Where systemd does not watch, it learns of the status as often as if it did with this time. */
const UNWATCHED_MS = 90_000;

export interface HeartbeatParts {
  readonly service: Pick<ServiceManager, 'watchdogMs' | 'alive'>;
  /** Throws, or does not end before its signal aborts, when berthd does not do its work. */
  readonly check: (signal: AbortSignal) => Promise<void>;
  /** What berthd is at, in one line. */
  readonly status: () => string;
  readonly log: Logger;
}

/** When a check is made, how long it has, and when one that failed is made again. */
interface HeartbeatTimes {
  readonly everyMs: number;
  readonly deadlineMs: number;
  readonly againMs: number;
}

/**
 * Shares out the watchdog's time (sd_watchdog_enabled(3) advises a sign of life in each half of it at least): after one
 * that came, there is time for two checks, even if both hang. So one that fails is not yet the end.
 */
export function heartbeatTimes(watchdogMs: number): HeartbeatTimes {
  return { everyMs: watchdogMs / 3, deadlineMs: watchdogMs / 4, againMs: watchdogMs / 12 };
}

/**
 * Tells systemd that berthd lives, but only after berthd has answered itself: a timer that fires would only show that
 * timers do.
 */
export class Heartbeat {
  readonly #parts: HeartbeatParts;
  readonly #times: HeartbeatTimes;
  readonly #stop = new AbortController();
  #running: Promise<void> | undefined;

  constructor(parts: HeartbeatParts) {
    this.#parts = parts;
    this.#times = heartbeatTimes(parts.service.watchdogMs ?? UNWATCHED_MS);
  }

  /** The first beat comes at once. */
  start(): void {
    this.#running ??= this.#beat();
  }

  /** Resolves when the check that is under way has been given up. */
  async close(): Promise<void> {
    this.#stop.abort();
    await this.#running;
  }

  async #beat(): Promise<void> {
    const stop = this.#stop.signal;
    while (!stop.aborted) {
      const isAlive = await this.#once(stop);
      // Ends early, and throws, only for the stop.
      await sleep(isAlive ? this.#times.everyMs : this.#times.againMs, stop).catch(() => {});
    }
  }

  async #once(stop: AbortSignal): Promise<boolean> {
    const { service, check, status, log } = this.#parts;
    using signal = withDeadline('berthd asks itself', this.#times.deadlineMs, stop);
    try {
      await check(signal);
      service.alive(status());
      return true;
    } catch (err) {
      if (!stop.aborted)
        log.error({ err: describe(err) }, 'berthd does not answer itself; without an answer systemd restarts it');
      return false;
    }
  }
}
