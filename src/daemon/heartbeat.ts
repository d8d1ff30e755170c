import { sleep, withDeadline } from '../base/deadline.ts';
import { describe } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import type { ServiceManager } from './service-manager.ts';

/** How often systemd learns of the status where it does not watch. */
const UNWATCHED_EVERY_MS = 30_000;

export interface HeartbeatParts {
  readonly service: Pick<ServiceManager, 'watchdogMs' | 'alive'>;
  /** Throws, or does not end before its signal aborts, when berthd does not do its work. */
  readonly check: (signal: AbortSignal) => Promise<void>;
  /** What berthd is at, in one line. */
  readonly status: () => string;
  readonly log: Logger;
}

/**
 * Tells systemd that berthd lives, but only after berthd has answered itself: a timer that fires would only show that
 * timers do. A check has a third of the watchdog's time and comes every third (sd_watchdog_enabled(3) advises at least
 * twice), so one that fails is not yet the end.
 */
export class Heartbeat {
  readonly #parts: HeartbeatParts;
  readonly #everyMs: number;
  readonly #stop = new AbortController();
  #running: Promise<void> | undefined;

  constructor(parts: HeartbeatParts) {
    this.#parts = parts;
    const { watchdogMs } = parts.service;
    this.#everyMs = watchdogMs === undefined ? UNWATCHED_EVERY_MS : watchdogMs / 3;
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
      await this.#once(stop);
      // Ends early, and throws, only for the stop.
      await sleep(this.#everyMs, stop).catch(() => {});
    }
  }

  async #once(stop: AbortSignal): Promise<void> {
    const { service, check, status, log } = this.#parts;
    using signal = withDeadline('berthd asks itself', this.#everyMs, stop);
    try {
      await check(signal);
      service.alive(status());
    } catch (err) {
      if (stop.aborted) return;
      log.error({ err: describe(err) }, 'berthd does not answer itself; without an answer systemd restarts it');
    }
  }
}
