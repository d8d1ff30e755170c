import { BerthError, invalid } from '../base/errors.ts';
import { type ImageRecord, namesOf, type StoredImage } from './image-record.ts';
import { isPinned } from './pinned.ts';

// Shorter prefixes are more likely a name than an id.
const MIN_PREFIX = 4;

/** The images in memory: answers without asking the disk. */
export class ImageCatalog {
  readonly #images = new Map<string, ImageRecord>();
  readonly #idByName = new Map<string, string>();
  /** How many images have each layer. */
  readonly #layerOwners = new Map<string, number>();
  #pinnedPatterns: readonly string[];

  constructor(pinnedPatterns: readonly string[]) {
    this.#pinnedPatterns = pinnedPatterns;
  }

  /** All images. */
  list(): readonly ImageRecord[] {
    return [...this.#images.values()];
  }

  /** The image with this full id. */
  byId(id: string): ImageRecord | undefined {
    return this.#images.get(id);
  }

  /** The image with this full id. Throws `notFound`. */
  get(id: string): ImageRecord {
    const image = this.#images.get(id);
    if (image) return image;
    throw new BerthError('notFound', `no image ${id}`);
  }

  /** The image with this normalised tag or repo digest. */
  byName(name: string): ImageRecord | undefined {
    return this.byId(this.#idByName.get(name) ?? '');
  }

  /**
   * The image whose id is `text`, or begins with it (with or without "sha256:", at least four digits). Throws `invalid`
   * when several do.
   */
  byIdPrefix(text: string, field: string): ImageRecord | undefined {
    const digits = text.startsWith('sha256:') ? text.slice('sha256:'.length) : text;
    const exact = this.byId(`sha256:${digits}`);
    if (exact || digits.length < MIN_PREFIX || !/^[0-9a-f]+$/.test(digits)) return exact;
    const found = [...this.#images.values()].filter((image) => image.id.startsWith(`sha256:${digits}`));
    if (found.length > 1) throw invalid(field, `id prefix "${text}" is ambiguous: ${found.length} images have it`);
    return found[0];
  }

  /** True when an image has this layer. */
  ownsLayer(diffId: string): boolean {
    return this.#layerOwners.has(diffId);
  }

  /** Adds an image, or replaces the one with its id. */
  put(image: StoredImage): ImageRecord {
    this.delete(image.id);
    const record = { ...image, pinned: this.#pinned(image) };
    this.#images.set(image.id, record);
    for (const name of namesOf(image)) this.#idByName.set(name, image.id);
    for (const layer of new Set(image.layers)) this.#layerOwners.set(layer, (this.#layerOwners.get(layer) ?? 0) + 1);
    return record;
  }

  /** Takes an image out; an unknown one is none already. */
  delete(id: string): void {
    const image = this.#images.get(id);
    if (!image) return;
    this.#images.delete(id);
    for (const name of namesOf(image)) {
      if (this.#idByName.get(name) === id) this.#idByName.delete(name);
    }
    for (const layer of new Set(image.layers)) {
      const left = (this.#layerOwners.get(layer) ?? 1) - 1;
      if (left === 0) this.#layerOwners.delete(layer);
      else this.#layerOwners.set(layer, left);
    }
  }

  /** Other patterns hold from now on, for the images that are here too. */
  setPinned(patterns: readonly string[]): void {
    this.#pinnedPatterns = patterns;
    for (const image of this.#images.values()) this.#images.set(image.id, { ...image, pinned: this.#pinned(image) });
  }

  #pinned(image: StoredImage): boolean {
    return isPinned([...namesOf(image), image.id], this.#pinnedPatterns);
  }
}
