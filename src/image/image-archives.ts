/** Images that come from archives, and archives that are made of images. */

import { BerthError, wrap } from '../base/errors.ts';
import { type NamesInArchive, nameImages, recordedNames } from './archive-names.ts';
import { isDigest } from './digest.ts';
import type { ImageConfigs } from './image-configs.ts';
import type { ImageRecord } from './image-record.ts';
import type { LayerFolders, LayerHolds } from './layer-holds.ts';
import { type ConfigDocument, parseImageConfig } from './manifest.ts';
import type { NamedImages } from './named-images.ts';
import { allOrAbort } from './parallel.ts';
import { formatPlatform, type Platform, runsOn } from './platform.ts';
import { formatReference, type ImageReference, recordedName, repositoryOf } from './reference.ts';
import { archiveOf, joinSaved } from './save-images.ts';
import type { SettledImages } from './settled-images.ts';
import type { ArchiveEntry } from './write-archive.ts';

/** One image of an archive: what archive.ts gives. */
export interface ArchiveImage extends NamesInArchive {
  readonly configBytes: Buffer;
  readonly layers: readonly {
    readonly path: string;
    readonly compression: 'none' | 'gzip' | 'zstd' | 'detect';
    readonly diffId: string;
  }[];
  readonly manifestDigest?: string | undefined;
  dispose(): Promise<void>;
}

/** An image that came from an archive. */
export interface LoadedImage {
  readonly id: string;
  /** Normalised; none when the archive names none. */
  readonly names: readonly string[];
}

/** What archives are read and written with. */
interface ArchivesParts {
  readonly readArchive: (path: string, signal: AbortSignal) => Promise<readonly ArchiveImage[]>;
  readonly writeArchive: (entries: readonly ArchiveEntry[], signal: AbortSignal) => AsyncIterable<Buffer>;
  readonly layers: LayerFolders;
  readonly holds: LayerHolds;
  readonly configs: ImageConfigs;
  readonly named: NamedImages;
  readonly settled: SettledImages;
  readonly platform: Platform;
}

/** Loads and saves images. */
export class ImageArchives {
  readonly #parts: ArchivesParts;

  constructor(parts: ArchivesParts) {
    this.#parts = parts;
  }

  /** As Images.load(). */
  async load(path: string, name: string, signal: AbortSignal): Promise<LoadedImage[]> {
    const archive = await this.#parts.readArchive(path, signal);
    try {
      const loaded: LoadedImage[] = [];
      const references = nameImages(path, archive, name);
      for (const [index, image] of archive.entries()) {
        const own = references[index] ?? [];
        const { id } = await this.#loadOne(path, image, own, signal);
        loaded.push({ id, names: recordedNames(own) });
      }
      return loaded;
    } finally {
      await Promise.all(archive.map((image) => image.dispose()));
    }
  }

  /** As Images.save(). */
  async *save(texts: readonly string[], signal: AbortSignal): AsyncGenerator<Buffer, void, undefined> {
    const { layers, configs, holds, named, writeArchive } = this.#parts;
    const images = joinSaved(
      texts.map((text) => {
        const image = named.get(text);
        return { image, tags: named.tagsMeant(image, text) };
      }),
    );
    const all = images.flatMap(({ image }) => image.layers);
    // A generator cannot be awaited in a callback: the layers are held for as long as it runs.
    const over = Promise.withResolvers<void>();
    const ready = Promise.withResolvers<void>();
    const held = holds.during(all, signal, async () => {
      ready.resolve();
      await over.promise;
    });
    held.catch(ready.reject);
    try {
      await ready.promise;
      yield* writeArchive(await archiveOf(images, { configs, layers }), signal);
    } finally {
      over.resolve();
      await held.catch(() => {});
    }
  }

  async #loadOne(
    path: string,
    image: ArchiveImage,
    references: readonly ImageReference[],
    signal: AbortSignal,
  ): Promise<ImageRecord> {
    const { layers, holds, settled } = this.#parts;
    const what = references[0] ? formatReference(references[0]) : path;
    const document = parseImageConfig(image.configBytes, `config of ${what} in ${path}`);
    this.#checkLoadable(what, image, document);
    const names = references.flatMap((reference) => {
      const digest = image.manifestDigest ?? '';
      return [recordedName(reference), ...(isDigest(digest) ? [`${repositoryOf(reference)}@${digest}`] : [])];
    });
    return await holds.during(document.diffIds, signal, async () => {
      const missing = new Map(image.layers.map((layer) => [layer.diffId, layer]));
      for (const diffId of missing.keys()) if (layers.has(diffId)) missing.delete(diffId);
      await allOrAbort([...missing.values()], signal, async (layer, both) => {
        await layers.unpack(layer, layer.diffId, both).catch((err: unknown) => {
          throw wrap(`load ${what} from ${path}: layer ${layer.diffId}`, err);
        });
      });
      const origin = { annotations: {}, openDigests: names.filter((own) => own.includes('@')) };
      const { configBytes } = image;
      return await settled.add({ configBytes, document, origin, names: [...new Set(names)] }, signal);
    });
  }

  #checkLoadable(what: string, image: ArchiveImage, { platform, diffIds }: ConfigDocument): void {
    const own = this.#parts.platform;
    if (platform.architecture !== '' && !runsOn(own, { ...platform, variant: '' })) {
      throw new BerthError(
        'precondition',
        `${what} is an image for ${formatPlatform(platform)}, this machine is ${formatPlatform(own)}`,
      );
    }
    const offered = image.layers.map((layer) => layer.diffId);
    if (diffIds.length === 0 || JSON.stringify(offered) !== JSON.stringify(diffIds)) {
      throw new BerthError('precondition', `${what}: the archive's layers are not those of the image's config`);
    }
  }
}
