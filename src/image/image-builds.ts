import { BerthError, describe } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import type { ImageConfigs } from './image-configs.ts';
import { type HistoryEntry, type ImageBuild, imageBuild, imageHistory } from './image-history.ts';
import type { ImageRecord } from './image-record.ts';
import type { LayerFolders } from './layer-holds.ts';

/** How images were built, as far as their configurations say and are kept. */
export class ImageBuilds {
  readonly #parts: {
    readonly configs: ImageConfigs;
    readonly layers: Pick<LayerFolders, 'all'>;
    readonly log: Logger;
  };

  constructor(parts: {
    readonly configs: ImageConfigs;
    readonly layers: Pick<LayerFolders, 'all'>;
    readonly log: Logger;
  }) {
    this.#parts = parts;
  }

  /** As Images.history(), of the image that a client calls `text`. */
  async history(image: ImageRecord, text: string): Promise<readonly HistoryEntry[]> {
    if (image.artifactType !== undefined) {
      throw new BerthError('precondition', `${text} is an artifact (${image.artifactType}), which has no history`);
    }
    const config = await this.#parts.configs.find(image.id);
    if (!config) {
      throw new BerthError(
        'precondition',
        `the history of image ${text} is not known: an older berthd pulled it; remove it and pull it again`,
      );
    }
    return imageHistory(config, this.#layerSizes());
  }

  /** As Images.findBuild(). */
  async find({ id, artifactType }: ImageRecord): Promise<ImageBuild | undefined> {
    if (artifactType !== undefined) return undefined;
    try {
      const config = await this.#parts.configs.find(id);
      return config && imageBuild(config, this.#layerSizes());
    } catch (err) {
      this.#parts.log.debug({ image: id, err: describe(err) }, 'build of an image not known');
      return undefined;
    }
  }

  #layerSizes(): (diffId: string) => number {
    const sizes = new Map(this.#parts.layers.all().map(({ diffId, sizeBytes }) => [diffId, sizeBytes]));
    return (diffId) => sizes.get(diffId) ?? 0;
  }
}
