import type { Logger } from '../base/log.ts';
import type { KeptLayer } from './assemble-layer.ts';
import type { SharedArrival } from './blob-arrival.ts';
import type { LayerCompression } from './media-types.ts';

/** What the registry half needs of the layer store. */
export interface LayerFolders {
  has(diffId: string): boolean;
  unpack(
    source: {
      readonly path: string;
      readonly compression: LayerCompression | 'detect';
      /** Set for a blob that still comes. */
      readonly arrival?: SharedArrival | undefined;
      /** Of the blob, by whatever path it is reached; what comes from an archive has none. */
      readonly digest?: string | undefined;
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
  remove(diffId: string): Promise<void>;
  /** Resolves when all layers unpacked so far are on stable storage. */
  flush(): Promise<void>;
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

/**
 * Keeps pulls and removals from pulling the rug out from under each other: a layer that a pull counts on is not
 * removed, and a pull that wants a layer which is being removed waits until it is gone.
 */
export class LayerHolds {
  readonly #layers: Pick<LayerFolders, 'remove' | 'has'>;
  readonly #holds = new Map<string, number>();
  readonly #removing = new Map<string, Promise<void>>();
  /** True for layers of images that are in the store. */
  readonly #isOwned: (diffId: string) => boolean;
  readonly #log: Logger;

  constructor(layers: Pick<LayerFolders, 'remove' | 'has'>, isOwned: (diffId: string) => boolean, log: Logger) {
    this.#layers = layers;
    this.#isOwned = isOwned;
    this.#log = log;
  }

  /** Runs `fn` while the layers are held; those of them that no image owns afterwards are removed. */
  async during<T>(diffIds: readonly string[], signal: AbortSignal, fn: () => Promise<T>): Promise<T> {
    const unique = [...new Set(diffIds)];
    for (const diffId of unique) this.#holds.set(diffId, (this.#holds.get(diffId) ?? 0) + 1);
    try {
      // Held first, so that no new removal begins while the old ones are waited for.
      await Promise.all(unique.map((diffId) => this.#removing.get(diffId)));
      signal.throwIfAborted();
      return await fn();
    } finally {
      for (const diffId of unique) this.#release(diffId);
      // What fails here is only space that the next start frees; it must not hide how the pull ended.
      await this.removeUnused(unique).catch((err: unknown) => this.#log.warn({ err }, 'unused layers not removed'));
    }
  }

  /** Removes those of the layers that no image owns and no pull holds. Throws what the layer store throws. */
  async removeUnused(diffIds: readonly string[]): Promise<void> {
    await Promise.all(this.unused(diffIds).map((diffId) => this.#remove(diffId)));
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

  async #remove(diffId: string): Promise<void> {
    const running = this.#removing.get(diffId);
    if (running !== undefined) return await running;
    if (!this.#layers.has(diffId)) return;
    const removal = this.#layers.remove(diffId).finally(() => this.#removing.delete(diffId));
    this.#removing.set(diffId, removal);
    await removal;
  }
}
