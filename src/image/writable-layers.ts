import type { Clock, UnixMicros } from '../base/clock.ts';
import { raceSignal } from '../base/deadline.ts';
import { describe } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import type { Snapshots } from './snapshots.ts';
import type { TreeUsage, TreeWalk } from './tree-usage.ts';

/** What one container has written, and when it was looked at. */
export interface WrittenUsage extends TreeUsage {
  readonly takenUs: UnixMicros;
}

/** A container that has run since its layer was walked has it walked again after this. */
const WALK_AGAIN_MS = 5_000;
/** A walk that takes long is followed by a pause so many times as long. */
const PAUSE_FACTOR = 20;
/** How old the sum of all may be. */
const TOTAL_KEEP_MS = 10_000;
/** Layers that one message to a thread asks for. */
const BATCH = 16;

interface Layer {
  walked: { readonly usage: WrittenUsage; readonly startedMs: number; readonly walkMs: number } | undefined;
  /** What the container's activity was when the walk began. */
  activity: number | undefined;
  /** Settles when the walk that is asked for has ended. */
  walk: PromiseWithResolvers<void> | undefined;
}

/**
 * What containers have written to their root filesystems. It is found by walks in a thread, one at a time, which nobody
 * waits for; a container that had no processor time since its last walk cannot have written anything, and is not walked.
 */
export class WritableLayers {
  readonly #deps: {
    readonly snapshots: Pick<Snapshots, 'all' | 'usage'>;
    readonly log: Logger;
    readonly clock: Clock;
  };
  readonly #layers = new Map<string, Layer>();
  #isWalking = false;

  constructor(deps: {
    readonly snapshots: Pick<Snapshots, 'all' | 'usage'>;
    readonly log: Logger;
    readonly clock: Clock;
  }) {
    this.#deps = deps;
  }

  /**
   * What the container has written, as far as it is known, and undefined before the first walk. Has it walked when that
   * is due. `activity` is a number that grows whenever the container does anything: its processor time.
   */
  look(containerId: string, activity: number | undefined): WrittenUsage | undefined {
    const layer = this.#layer(containerId);
    const { walked } = layer;
    if (walked && activity !== undefined && activity === layer.activity) {
      // Still true, so as good as walked now.
      layer.walked = { ...walked, usage: { ...walked.usage, takenUs: this.#deps.clock.nowUs() } };
      return layer.walked.usage;
    }
    const pauseMs = walked ? Math.max(WALK_AGAIN_MS, walked.walkMs * PAUSE_FACTOR) : 0;
    if (!walked || this.#deps.clock.monotonicMs() - walked.startedMs >= pauseMs) {
      if (!layer.walk) layer.activity = activity;
      void this.#ask(layer);
    }
    return walked?.usage;
  }

  /** As look, but waits for the end of the first walk, or until the signal aborts. */
  async wait(containerId: string, signal: AbortSignal): Promise<WrittenUsage | undefined> {
    const layer = this.#layer(containerId);
    if (!layer.walked && !signal.aborted) {
      await raceSignal(this.#ask(layer), signal).catch(() => {});
    }
    return layer.walked?.usage;
  }

  /** What the container had written when it was looked at last. */
  known(containerId: string): WrittenUsage | undefined {
    return this.#layers.get(containerId)?.walked?.usage;
  }

  /** Drops what is known of a container. */
  forget(containerId: string): void {
    this.#layers.get(containerId)?.walk?.resolve();
    this.#layers.delete(containerId);
  }

  /** What all containers have written together, at most ten seconds old. Throws when a walk fails. */
  async total(): Promise<TreeUsage> {
    const ids = this.#deps.snapshots.all();
    const present = new Set(ids);
    for (const id of this.#layers.keys()) if (!present.has(id)) this.forget(id);
    const oldestUs = this.#deps.clock.nowUs() - TOTAL_KEEP_MS * 1000;
    const layers = ids.map((id) => this.#layer(id));
    await Promise.all(
      layers.map(async (layer) => {
        if (!layer.walked || layer.walked.usage.takenUs < oldestUs) await this.#ask(layer);
      }),
    );
    return {
      usedBytes: layers.reduce((sum, { walked }) => sum + (walked?.usage.usedBytes ?? 0), 0),
      inodesUsed: layers.reduce((sum, { walked }) => sum + (walked?.usage.inodesUsed ?? 0), 0),
    };
  }

  #layer(containerId: string): Layer {
    const known = this.#layers.get(containerId);
    if (known) return known;
    const layer = { walked: undefined, activity: undefined, walk: undefined };
    this.#layers.set(containerId, layer);
    return layer;
  }

  #ask(layer: Layer): Promise<void> {
    layer.walk ??= Promise.withResolvers<void>();
    // Who only looks does not learn of a failure.
    layer.walk.promise.catch(() => {});
    if (!this.#isWalking) {
      this.#isWalking = true;
      // Later in this turn others may ask too, and go along.
      queueMicrotask(() => void this.#walkAll());
    }
    return layer.walk.promise;
  }

  async #walkAll(): Promise<void> {
    for (;;) {
      const batch = [...this.#layers].filter(([, { walk }]) => walk !== undefined).slice(0, BATCH);
      if (batch.length === 0) break;
      await this.#walk(batch);
    }
    this.#isWalking = false;
  }

  async #walk(batch: readonly (readonly [string, Layer])[]): Promise<void> {
    const { snapshots, clock, log } = this.#deps;
    const [takenUs, startedMs] = [clock.nowUs(), clock.monotonicMs()];
    let walks: readonly TreeWalk[] = [];
    let failure: unknown;
    try {
      walks = await snapshots.usage(batch.map(([id]) => id));
    } catch (err) {
      failure = err;
      log.warn({ err: describe(err) }, 'what containers have written could not be measured');
    }
    batch.forEach(([, layer], at) => {
      const found = walks[at];
      const { walk } = layer;
      layer.walk = undefined;
      if (found) {
        const { usedBytes, inodesUsed, walkMs } = found;
        layer.walked = { usage: { usedBytes, inodesUsed, takenUs }, startedMs, walkMs };
        walk?.resolve();
      } else {
        layer.activity = undefined;
        walk?.reject(failure);
      }
    });
  }
}
