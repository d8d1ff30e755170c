import type { Clock } from '../base/clock.ts';
import type { ProgramPages } from '../sys/program-pages.ts';
import type { SpareHeap } from '../sys/spare-heap.ts';

/** So long after work berthd is taken to rest. */
const REST_MS = 3000;
/** How long a collection may take: it goes on between events. */
const COLLECT_MS = 1000;
/** A collection takes some 50 ms of processor time: at rest at most so often, and after little work seldom. */
const EVERY_MS = 15_000;
const SELDOM_MS = 300_000;
/** In times of `noteWork`: beginnings and ends of programs. Some ten pods come and go with them. */
const MUCH_WORK = 100;
/** Where there is always work, what needs no collection is given back so often. */
const AT_WORK_MS = 60_000;

/** What can be given back, and the time. */
export interface SpareMemoryParts {
  readonly heap: Pick<SpareHeap, 'collect' | 'release'>;
  readonly pages: Pick<ProgramPages, 'release'>;
  readonly clock: Pick<Clock, 'monotonicMs'>;
}

/**
 * Gives memory back that berthd has no use for when it has come to rest: garbage, what malloc keeps for later, pages of its
 * program that it does not run. It takes the main thread some milliseconds, so not while there is work, unless that never
 * ends; and after it nothing happens until there was work again.
 */
export class SpareMemory {
  readonly #parts: SpareMemoryParts;
  #timer: NodeJS.Timeout | undefined;
  #workedMs = 0;
  /** How often there was work since memory was given back. */
  #works = 0;
  /** Since when there has been no rest. */
  #busySinceMs = 0;
  #gaveBackMs = Number.NEGATIVE_INFINITY;
  #isOpen = false;

  constructor(parts: SpareMemoryParts) {
    this.#parts = parts;
  }

  /** From now on, and what a start leaves behind first. */
  start(): void {
    this.#isOpen = true;
    this.noteWork();
  }

  close(): void {
    this.#isOpen = false;
    clearTimeout(this.#timer);
  }

  /** There was work, for a pod or an image, and most likely there is more to come. */
  noteWork(): void {
    this.#workedMs = this.#parts.clock.monotonicMs();
    this.#works += 1;
    if (!this.#isOpen || this.#timer !== undefined) return;
    this.#busySinceMs = this.#workedMs;
    this.#wait(REST_MS, () => this.#look());
  }

  #look(): void {
    const nowMs = this.#parts.clock.monotonicMs();
    const restInMs = this.#workedMs + REST_MS - nowMs;
    const sinceMs = nowMs - this.#gaveBackMs;
    const everyMs = this.#works < MUCH_WORK ? SELDOM_MS : EVERY_MS;
    if (restInMs > 0) {
      if (Math.min(sinceMs, nowMs - this.#busySinceMs) >= AT_WORK_MS) this.#giveBack();
      this.#wait(restInMs, () => this.#look());
    } else if (sinceMs < everyMs) {
      this.#busySinceMs = nowMs;
      this.#wait(Math.min(everyMs - sinceMs, EVERY_MS), () => this.#look());
    } else {
      this.#works = 0;
      this.#parts.heap.collect();
      this.#wait(COLLECT_MS, () => this.#endCollection(nowMs));
    }
  }

  #endCollection(begunMs: number): void {
    this.#giveBack();
    if (this.#workedMs >= begunMs) this.#wait(REST_MS, () => this.#look());
  }

  #giveBack(): void {
    this.#parts.heap.release();
    this.#parts.pages.release();
    this.#gaveBackMs = this.#parts.clock.monotonicMs();
  }

  #wait(ms: number, then: () => void): void {
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      then();
    }, ms).unref();
  }
}
