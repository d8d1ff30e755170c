import { raceSignal } from '../base/deadline.ts';
import { BerthError, describe, wrap } from '../base/errors.ts';
import { atPlace, type FaultPoints } from '../base/fault-points.ts';
import type { Logger } from '../base/log.ts';
import type { DamagedImages } from './damaged-images.ts';
import type { ImageCatalog } from './image-catalog.ts';
import type { ImageStore } from './image-commit.ts';
import type { ImageConfigs } from './image-configs.ts';
import type { StoredImage } from './image-record.ts';
import type { LayerHolds } from './layer-holds.ts';

/** Where tests disturb the removal of an image. */
export const REMOVE_PLACES = ['RemoveImage/forget image', 'RemoveImage/remove layers'] as const;

/** What images are removed from, and who may be using them. */
interface RemovalParts {
  readonly catalog: ImageCatalog;
  readonly damaged: DamagedImages;
  readonly store: ImageStore;
  readonly configs: ImageConfigs;
  readonly holds: LayerHolds;
  /** The containers that were made from an image. */
  readonly usersOf: (imageId: string) => readonly string[];
  /** The folders that it is mounted at. */
  readonly mountsOf: (imageId: string) => readonly string[];
  readonly log: Logger;
  /** In tests alone. */
  readonly faults?: FaultPoints | undefined;
}

/** Removes images, and with them the layers that no other one has. */
export class ImageRemoval {
  readonly #parts: RemovalParts;
  /** Layers of images that are being removed, or were, and whose own removal has not succeeded. */
  readonly #leftLayers = new Set<string>();

  constructor(parts: RemovalParts) {
    this.#parts = parts;
  }

  /** As Images.remove(), of one that is here. */
  async remove(image: StoredImage, patience?: AbortSignal): Promise<void> {
    const users = this.#parts.usersOf(image.id);
    const what = image.tags[0] === undefined ? `image ${image.id}` : `image ${image.tags[0]} (${image.id})`;
    if (users.length > 0) {
      throw new BerthError('precondition', `${what} is in use by container ${users.slice(0, 5).join(', ')}`);
    }
    const [mounted] = this.#parts.mountsOf(image.id);
    if (mounted !== undefined) {
      throw new BerthError(
        'precondition',
        `${what} is mounted at ${mounted}; berth image unmount ${mounted} takes that away`,
      );
    }
    await this.forget(image, patience);
  }

  /** Makes an image go that nothing uses, or one that is damaged. */
  async forget(image: StoredImage, patience: AbortSignal = new AbortController().signal): Promise<void> {
    const { catalog, damaged, store, configs, holds, log, faults } = this.#parts;
    const [forget, clear] = REMOVE_PLACES;
    for (const diffId of image.layers) this.#leftLayers.add(diffId);
    await atPlace(faults, forget, async () => {
      store.transaction(() => store.images.delete(image.id));
      catalog.delete(image.id);
      damaged.delete(image.id);
      configs.delete(image.id);
    });
    log.info({ image: image.id, tags: image.tags }, 'image removed');
    // From here on the image is gone for everybody; what stays on disk after a failure goes when the client asks again, or
    // at the next start.
    const explained = (err: unknown): never => {
      throw wrap(`image ${image.id} is removed, and not all of its layers are`, err);
    };
    const { freed } = await atPlace(faults, clear, async () => {
      // In an object: not waited for.
      return { freed: holds.removeUnused(image.layers) };
    }).catch(explained);
    const done = freed.then(() => {
      for (const diffId of image.layers) this.#leftLayers.delete(diffId);
    }, explained);
    await raceSignal(done, patience).catch((err: unknown) => {
      if (!patience.aborted) throw err;
      void done.catch((late: unknown) => log.warn({ err: describe(late) }, 'space of a removed image not freed'));
    });
  }

  /** Goes on with removals that failed halfway, when somebody asks for them again. Never throws. */
  async removeLeftLayers(): Promise<void> {
    const left = [...this.#leftLayers];
    if (left.length === 0) return;
    try {
      await this.#parts.holds.removeUnused(left);
      for (const diffId of left) this.#leftLayers.delete(diffId);
    } catch (err) {
      this.#parts.log.warn({ layers: left, err: describe(err) }, 'layers of images that are gone are still there');
    }
  }
}
