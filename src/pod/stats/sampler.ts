import { setImmediate as nextTurn } from 'node:timers/promises';

import type { Clock } from '../../base/clock.ts';
import { describe } from '../../base/errors.ts';
import type { Logger } from '../../base/log.ts';

/** How long samples are kept after somebody has asked. */
const IDLE_MS = 60_000;
/** The first round after a pause: a rate needs two. */
const FIRST_MS = 1_000;
/** So long before somebody is expected to ask, a round is taken; where they ask often, a quarter of their time. */
const LEAD_MS = 1_000;
/** A kubelet's, as long as nobody has asked twice. */
const USUAL_INTERVAL_MS = 10_000;
/** Who asks more often, or more seldom, is not waited for. */
const SHORTEST_INTERVAL_MS = 2_000;
const LONGEST_INTERVAL_MS = 30_000;
/** Who asks again and again in no time is told the same. */
const MIN_AGE_MS = 200;
const MAX_AGE_MS = 5_000;
/** How long the event loop may be kept for a round at a stretch. */
const SLICE_MS = 3;

/** What is sampled, and how. */
export interface SampleSource<S> {
  /** Those that there are now. */
  ids(): Iterable<string>;
  /** Takes a sample; undefined for one that is gone. What it throws costs this one its sample, and no other. */
  read(id: string, breathe: () => Promise<void>): S | undefined | Promise<S | undefined>;
  /** Drops what reading has kept: the one is gone, or nobody has asked for a while. */
  forget(id: string): void;
  /** False: samples are taken only when they are asked for. */
  readonly inBackground: boolean;
}

/**
 * Samples in memory, for lists that are asked for often. Who asks again and again, as a kubelet does, has them taken in
 * the background a moment before, so that one round is enough for an answer. They are taken anew when somebody asks who
 * would not be told anything new: an answer is at most half as old as the time since the last one, and five seconds.
 * When nobody has asked for a minute, it keeps nothing.
 */
export class Sampler<S> {
  readonly #source: SampleSource<S>;
  readonly #clock: Pick<Clock, 'monotonicMs'>;
  readonly #log: Logger;
  readonly #samples = new Map<string, S>();
  #round: Promise<void> | undefined;
  #roundMs = Number.NEGATIVE_INFINITY;
  #listedMs = Number.NEGATIVE_INFINITY;
  #touchedMs = Number.NEGATIVE_INFINITY;
  /** How long it is from one who asks to the next. */
  #intervalMs = USUAL_INTERVAL_MS;
  #maxAgeMs = MAX_AGE_MS;
  #timer: NodeJS.Timeout | undefined;
  #isClosed = false;

  constructor(source: SampleSource<S>, clock: Pick<Clock, 'monotonicMs'>, log: Logger) {
    this.#source = source;
    this.#clock = clock;
    this.#log = log;
  }

  /** Samples of all that are there, fresh enough for somebody who looks at them now. It changes as time goes on. */
  async all(): Promise<ReadonlyMap<string, S>> {
    const askedMs = this.#clock.monotonicMs();
    while (this.#round !== undefined) await this.#round;
    const sinceMs = askedMs - this.#listedMs;
    this.#touchedMs = askedMs;
    // A client that asks for two lists at once asks once.
    if (sinceMs >= MIN_AGE_MS) {
      this.#listedMs = askedMs;
      this.#maxAgeMs = Math.min(Math.max(sinceMs / 2, MIN_AGE_MS), MAX_AGE_MS);
      const isFirst = sinceMs > IDLE_MS;
      this.#intervalMs = isFirst || sinceMs < SHORTEST_INTERVAL_MS ? USUAL_INTERVAL_MS : sinceMs;
      this.#schedule(isFirst ? FIRST_MS : this.#nextMs(askedMs));
    }
    await this.#sample(this.#clock.monotonicMs() - this.#roundMs > this.#maxAgeMs ? 'all' : 'missing');
    return this.#samples;
  }

  /** A sample of one, taken now; undefined when it is gone. */
  async one(id: string): Promise<S | undefined> {
    this.#touchedMs = this.#clock.monotonicMs();
    if (!this.#timer) this.#schedule(this.#nextMs(this.#touchedMs));
    await this.#take(id, new Slice(this.#clock));
    return this.#samples.get(id);
  }

  /** Drops the sample of one that is gone. */
  forget(id: string): void {
    this.#samples.delete(id);
    this.#source.forget(id);
  }

  /** Stops, and drops all. */
  close(): void {
    this.#isClosed = true;
    clearTimeout(this.#timer);
    this.#forgetAll();
  }

  #schedule(ms: number): void {
    clearTimeout(this.#timer);
    if (this.#isClosed) return;
    this.#timer = setTimeout(() => void this.#tick(), ms);
    this.#timer.unref();
  }

  /** How long it is until a round is due, or until all is forgotten. */
  #nextMs(nowMs: number): number {
    const forgottenMs = this.#touchedMs + IDLE_MS + 1;
    if (!this.#isExpected(nowMs)) return forgottenMs - nowMs;
    const leadMs = Math.min(LEAD_MS, this.#intervalMs / 4);
    let dueMs = this.#listedMs + this.#intervalMs - leadMs;
    // Whoever did not come is expected ever later. A timer may come a moment early, and is not set for the same time again.
    for (let againMs = this.#intervalMs; dueMs <= nowMs + leadMs; againMs *= 2) dueMs += againMs;
    return Math.min(dueMs, forgottenMs) - nowMs;
  }

  #isExpected(nowMs: number): boolean {
    const isRegular = this.#intervalMs <= LONGEST_INTERVAL_MS && nowMs - this.#listedMs <= IDLE_MS;
    return this.#source.inBackground && isRegular;
  }

  async #tick(): Promise<void> {
    const nowMs = this.#clock.monotonicMs();
    this.#timer = undefined;
    if (nowMs - this.#touchedMs > IDLE_MS) return this.#forgetAll();
    if (this.#isExpected(nowMs)) await this.#sample('all');
    // Somebody may have asked meanwhile.
    if (!this.#timer) this.#schedule(this.#nextMs(this.#clock.monotonicMs()));
  }

  async #sample(which: 'all' | 'missing'): Promise<void> {
    if (this.#round !== undefined) return await this.#round;
    if (which === 'all') this.#roundMs = this.#clock.monotonicMs();
    const ids = [...this.#source.ids()];
    const due = which === 'all' ? ids : ids.filter((id) => !this.#samples.has(id));
    if (which === 'all') this.#prune(new Set(ids));
    if (due.length === 0) return;
    this.#round = this.#takeAll(due);
    try {
      await this.#round;
    } finally {
      this.#round = undefined;
    }
  }

  async #takeAll(ids: readonly string[]): Promise<void> {
    const slice = new Slice(this.#clock);
    for (const id of ids) {
      await this.#take(id, slice);
      if (slice.isUsed) await slice.breathe();
    }
  }

  async #take(id: string, slice: Slice): Promise<void> {
    let sample: S | undefined;
    try {
      const read = this.#source.read(id, () => slice.breathe());
      sample = read instanceof Promise ? await read : read;
    } catch (err) {
      this.#log.debug({ id, err: describe(err) }, 'no statistics of one that may be ending');
    }
    // It may have been closed, or the one have ended, while it was read.
    if (sample === undefined || this.#isClosed) this.forget(id);
    else this.#samples.set(id, sample);
  }

  #prune(present: ReadonlySet<string>): void {
    for (const id of [...this.#samples.keys()]) if (!present.has(id)) this.forget(id);
  }

  #forgetAll(): void {
    this.#roundMs = Number.NEGATIVE_INFINITY;
    for (const id of [...this.#samples.keys()]) this.forget(id);
  }
}

/** A stretch of work on the event loop. */
class Slice {
  readonly #clock: Pick<Clock, 'monotonicMs'>;
  #startedMs: number;

  constructor(clock: Pick<Clock, 'monotonicMs'>) {
    this.#clock = clock;
    this.#startedMs = clock.monotonicMs();
  }

  get isUsed(): boolean {
    return this.#clock.monotonicMs() - this.#startedMs > SLICE_MS;
  }

  /** Lets others have their turn, when this one was long enough. */
  async breathe(): Promise<void> {
    if (!this.isUsed) return;
    await nextTurn();
    this.#startedMs = this.#clock.monotonicMs();
  }
}
