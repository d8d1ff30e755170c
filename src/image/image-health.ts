import type { Logger } from '../base/log.ts';
import type { Notices } from '../base/notices.ts';
import type { DamagedImages } from './damaged-images.ts';
import type { ImageCatalog } from './image-catalog.ts';
import { type ImageStore, stored } from './image-commit.ts';
import { type ImageRecord, namesOf, type StoredImage, withoutNames } from './image-record.ts';
import type { LayerFolders, LayerHolds } from './layer-holds.ts';

/** How an image on this node is. */
export interface CheckedImage {
  readonly id: string;
  readonly names: readonly string[];
  /** What is wrong with it; none when it is whole, as far as that can be told. */
  readonly problems: readonly string[];
  /** Layers that there is nothing to compare with: only their folders were looked at. */
  readonly unchecked: number;
}

/** What the health of images is judged by. */
export interface HealthParts {
  readonly catalog: ImageCatalog;
  readonly damaged: DamagedImages;
  readonly store: ImageStore;
  readonly layers: LayerFolders;
  readonly holds: LayerHolds;
  readonly notices?: Notices | undefined;
  readonly log: Logger;
}

/** Keeps images apart that can be used and that cannot, and has them change sides. */
export class ImageHealth {
  readonly #parts: HealthParts;

  constructor(parts: HealthParts) {
    this.#parts = parts;
  }

  /** Takes images with missing layers out of the catalog. What is good of them is kept for the next pull. */
  sortOut(): void {
    const { catalog, damaged, layers, log, notices } = this.#parts;
    let isOne = false;
    for (const image of catalog.list()) {
      const missing = image.layers.filter((diffId) => !layers.has(diffId));
      if (missing.length === 0) continue;
      log.error(
        { image: image.id, tags: image.tags, missing },
        'image is damaged, and not here until it is pulled again',
      );
      notices?.tell({
        reason: 'StorageDamaged',
        message: `image ${image.tags[0] ?? image.id} is damaged and not here until it is pulled again: ${missing.length} layers are missing`,
      });
      catalog.delete(image.id);
      damaged.put({ image: stored(image), missing });
      isOne = true;
    }
    // A damaged one may have had a name that another image got since.
    if (isOne) for (const image of catalog.list()) catalog.put(stored(image));
  }

  /** Brings back the images that have all their layers again, but for names that mean another image by now. */
  heal(): void {
    const { catalog, damaged, store, layers, log, notices } = this.#parts;
    for (const image of damaged.takeWhole((diffId) => layers.has(diffId))) {
      const taken = namesOf(image).filter((name) => catalog.byName(name) !== undefined);
      const healed = withoutNames(image, new Set(taken));
      store.transaction(() => store.images.put(healed));
      catalog.put(healed);
      log.info({ image: image.id, tags: healed.tags }, 'image is whole again');
      notices?.tell({ reason: 'StorageRepaired', message: `image ${healed.tags[0] ?? image.id} is whole again` });
    }
  }

  /** Reads all layers of these images. Those that are damaged are here no more when it returns. */
  async check(images: readonly ImageRecord[], signal: AbortSignal): Promise<CheckedImage[]> {
    const { layers, holds } = this.#parts;
    const results = new Map<string, readonly string[] | undefined>();
    const all = [...new Set(images.flatMap((image) => image.layers))];
    await holds.during(all, signal, async () => {
      for (const diffId of all) if (layers.has(diffId)) results.set(diffId, await layers.check(diffId, signal));
      this.sortOut();
    });
    return images.map((image) => ({
      id: image.id,
      names: namesOf(image),
      problems: [...new Set(image.layers)].flatMap((diffId) => problemsOf(diffId, results)),
      unchecked: image.layers.filter((diffId) => results.has(diffId) && results.get(diffId) === undefined).length,
    }));
  }

  /** Those that were found damaged before. */
  damaged(): CheckedImage[] {
    return this.#parts.damaged.list().map(({ image, missing }) => ({
      id: image.id,
      names: namesOf(image),
      problems: missing.map((diffId) => `layer ${diffId} is missing or damaged`),
      unchecked: 0,
    }));
  }

  /** The damaged image of this id or name. */
  findDamaged(text: string): StoredImage | undefined {
    const found = this.#parts.damaged.list().find(({ image }) => image.id === text || namesOf(image).includes(text));
    return found?.image;
  }
}

function problemsOf(diffId: string, results: ReadonlyMap<string, readonly string[] | undefined>): readonly string[] {
  if (!results.has(diffId)) return [`layer ${diffId} is missing`];
  return (results.get(diffId) ?? []).map((problem) => `layer ${diffId}: ${problem}`);
}
