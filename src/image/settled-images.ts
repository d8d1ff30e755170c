import type { Clock } from '../base/clock.ts';
import { digestOf } from './digest.ts';
import type { ImageCatalog } from './image-catalog.ts';
import { commitImage, type ImageStore } from './image-commit.ts';
import type { ImageConfigs } from './image-configs.ts';
import type { ImageHealth } from './image-health.ts';
import type { ImageRecord, StoredImage } from './image-record.ts';
import type { LayerFolders } from './layer-holds.ts';
import type { ConfigDocument } from './manifest.ts';

/** What it takes to write an image down. */
interface SettledParts {
  readonly catalog: ImageCatalog;
  readonly store: ImageStore;
  readonly configs: ImageConfigs;
  readonly layers: LayerFolders;
  readonly health: ImageHealth;
  readonly clock: Clock;
}

/** An image whose layers are all unpacked. */
export interface UnpackedImage {
  readonly configBytes: Buffer;
  readonly document: ConfigDocument;
  readonly origin: Pick<StoredImage, 'annotations' | 'trust' | 'artifactType' | 'openDigests'>;
  /** Names that point to it from now on. */
  readonly names: readonly string[];
}

/** Makes images appear that pulls and archives have brought. */
export class SettledImages {
  readonly #parts: SettledParts;

  constructor(parts: SettledParts) {
    this.#parts = parts;
  }

  /**
   * Brings what it is made of to stable storage; then it appears in one transaction. Its layers must be held. Throws the
   * signal's reason.
   */
  async add({ configBytes, document, origin, names }: UnpackedImage, signal: AbortSignal): Promise<ImageRecord> {
    const { catalog, store, configs, layers, health, clock } = this.#parts;
    const { config, diffIds } = document;
    await configs.put(configBytes);
    // A power cut must never leave the row without the layers that it speaks of.
    await layers.flush(signal);
    health.heal();
    const sizes = new Map(layers.all().map((layer) => [layer.diffId, layer.sizeBytes]));
    const layerBytes = [...new Set<string>(diffIds)].reduce((sum, diffId) => sum + (sizes.get(diffId) ?? 0), 0);
    const image = {
      id: digestOf(configBytes),
      tags: [],
      repoDigests: [],
      sizeBytes: layerBytes + configBytes.length,
      config,
      layers: diffIds,
      createdAtUs: clock.nowUs(),
      ...origin,
    };
    // Its removal may have taken it away meanwhile.
    configs.putBack(configBytes);
    return commitImage(catalog, store, { image, names });
  }
}
