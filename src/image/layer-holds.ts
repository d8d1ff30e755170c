import type { Logger } from '../base/log.ts';
import type { KeptLayer } from './assemble-layer.ts';
import type { SharedArrival } from './blob-arrival.ts';
import type { LayerCompression } from './media-types.ts';

/** What the registry half needs of the layer store. */
export interface LayerFolders {
  has(diffId: string): boolean;
  /** Says that layers will be unpacked soon. */
  prepare(): void;
  unpack(
    source: {
      readonly path: string;
      readonly compression: LayerCompression | 'detect';
      /** Set for a blob that still comes. */
      readonly arrival?: SharedArrival | undefined;
    },
    diffId: string,
    signal: AbortSignal,
  ): Promise<{ readonly sizeBytes: number; readonly inodes: number }>;
  /** Makes a layer of one file, or one folder, of an artifact. The blob must be verified. */
  placeFile(
    file: { readonly path: string; readonly name: string; readonly isFolder: boolean },
    layerId: string,
    signal: AbortSignal,
  ): Promise<{ readonly sizeBytes: number; readonly inodes: number }>;
  /** It is gone when this returns, its space is free when the promise resolves. */
  remove(diffId: string): Promise<void>;
  /** Resolves when all layers unpacked so far are on stable storage. */
  flush(signal: AbortSignal): Promise<void>;
  all(): readonly { readonly diffId: string; readonly sizeBytes: number }[];
  /** The layer as its archive can be made of again; undefined for one that is kept without what that takes. */
  archived(diffId: string): { readonly layer: KeptLayer; readonly sizeBytes: number } | undefined;
  /** What is wrong with a layer, which is not here any more then; undefined where nobody can tell. */
  check(diffId: string, signal: AbortSignal): Promise<readonly string[] | undefined>;
  /** Those that something is mounted of. */
  inUse(): ReadonlySet<string>;
  /** Folders beside the layers that belong to none, and their removal. */
  strays(): readonly string[];
  removeStray(name: string): Promise<void>;
}

/** Keeps removals from pulling the rug out from under pulls: a layer that a pull counts on is not removed. */
export class LayerHolds {
  readonly #layers: Pick<LayerFolders, 'remove'>;
  readonly #holds = new Map<string, number>();
  /** True for layers of images that are in the store. */
  readonly #isOwned: (diffId: string) => boolean;
  readonly #log: Logger;

  constructor(layers: Pick<LayerFolders, 'remove'>, isOwned: (diffId: string) => boolean, log: Logger) {
    this.#layers = layers;
    this.#isOwned = isOwned;
    this.#log = log;
  }

  /** Runs `fn` while the layers are held; those of them that no image owns afterwards are removed. */
  async during<T>(diffIds: readonly string[], signal: AbortSignal, fn: () => Promise<T>): Promise<T> {
    const unique = [...new Set(diffIds)];
    for (const diffId of unique) this.#holds.set(diffId, (this.#holds.get(diffId) ?? 0) + 1);
    try {
      signal.throwIfAborted();
      return await fn();
    } finally {
      for (const diffId of unique) this.#release(diffId);
      // They are gone at once. Space that is not free yet, or that only the next start frees, does not keep a pull.
      this.removeUnused(unique).catch((err: unknown) => this.#log.warn({ err }, 'unused layers not removed'));
    }
  }

  /**
   * Removes those of the layers that no image owns and no pull holds: they are gone when this returns, their space is free
   * when the promise resolves. Throws what the layer store throws.
   */
  async removeUnused(diffIds: readonly string[]): Promise<void> {
    await Promise.all(this.unused(diffIds).map((diffId) => this.#layers.remove(diffId)));
  }

  /** Those of the layers that no image owns and no pull holds. */
  unused(diffIds: readonly string[]): readonly string[] {
    return diffIds.filter((diffId) => !this.#isOwned(diffId) && !this.#holds.has(diffId));
  }

  #release(diffId: string): void {
    const left = (this.#holds.get(diffId) ?? 1) - 1;
    if (left === 0) this.#holds.delete(diffId);
    else this.#holds.set(diffId, left);
  }
}
