import type { SharedArrival } from './blob-arrival.ts';
import type { BlobObserver } from './blob-download.ts';
import type { Digest } from './digest.ts';

/** How far a layer has come. One that is unpacked while it comes counts as downloading. */
export type LayerPhase = 'waiting' | 'downloading' | 'unpacking' | 'done';

/** How far a pull has come; changed in place while it runs. */
export interface PullProgress {
  readonly reference: string;
  readonly startedAtUs: number;
  phase: 'resolving' | 'downloading' | 'committing';
  /** The place that answered last; empty where none was asked. */
  servedBy: string;
  /** Layers that were here already. */
  layersPresent: number;
  /** Those that were not, base first. */
  layers: readonly LayerProgress[];
  /** What came over the network for this pull. */
  readonly traffic: Traffic;
}

/** What is known of a pull that has just begun. */
export function newPullProgress(reference: string, startedAtUs: number, monotonicMs: () => number): PullProgress {
  const traffic = new Traffic(monotonicMs);
  return { reference, startedAtUs, phase: 'resolving', servedBy: '', layersPresent: 0, layers: [], traffic };
}

/** One layer on its way. */
export class LayerProgress {
  readonly diffId: string;
  /** Of the compressed layer in the registry. */
  readonly digest: Digest;
  /** Compressed bytes, in all and here. */
  readonly bytesTotal: number;
  bytesDone = 0;
  phase: LayerPhase = 'waiting';
  readonly #traffic: Traffic;

  constructor(diffId: string, blob: { readonly digest: Digest; readonly size: number }, traffic: Traffic) {
    this.diffId = diffId;
    this.digest = blob.digest;
    this.bytesTotal = blob.size;
    this.#traffic = traffic;
  }

  /** Hears how the blob comes, and hands on what it does not need to know itself. */
  observer(opened: (file: string, arrival: SharedArrival) => void): BlobObserver {
    return {
      reached: (bytes) => {
        this.bytesDone = bytes;
        if (this.phase === 'waiting') this.phase = 'downloading';
      },
      transferred: (more) => this.#traffic.add(more),
      opened,
    };
  }
}

const SECONDS = 5;

/** Counts bytes, and tells how fast they came of late. */
export class Traffic {
  readonly #monotonicMs: () => number;
  readonly #startedMs: number;
  /** Bytes by second, of the last ones. */
  readonly #recent = new Map<number, number>();
  bytes = 0;

  constructor(monotonicMs: () => number) {
    this.#monotonicMs = monotonicMs;
    this.#startedMs = monotonicMs();
  }

  /** Counts more bytes. */
  add(bytes: number): void {
    this.bytes += bytes;
    const second = Math.floor(this.#monotonicMs() / 1000);
    this.#recent.set(second, (this.#recent.get(second) ?? 0) + bytes);
    for (const old of this.#recent.keys()) if (old <= second - SECONDS) this.#recent.delete(old);
  }

  /** Bytes per second over the last five seconds, or since the beginning where that is less long ago. */
  rate(): number {
    const nowMs = this.#monotonicMs();
    const oldest = Math.floor(nowMs / 1000) - SECONDS + 1;
    let bytes = 0;
    for (const [second, count] of this.#recent) if (second >= oldest) bytes += count;
    const sinceMs = Math.max(oldest * 1000, this.#startedMs);
    return nowMs > sinceMs ? (bytes * 1000) / (nowMs - sinceMs) : 0;
  }
}
