import type { StoredImage } from './image-record.ts';

/** An image that cannot be used until its missing layers are pulled again. */
export interface DamagedImage {
  readonly image: StoredImage;
  /** The layers that are missing or damaged. */
  readonly missing: readonly string[];
}

/**
 * Images of which something is damaged. They are not listed and not found, so that the next pull mends them; what is
 * good of them stays on disk for that pull.
 */
export class DamagedImages {
  readonly #images = new Map<string, DamagedImage>();

  /** Takes one in. */
  put(damaged: DamagedImage): void {
    this.#images.set(damaged.image.id, damaged);
  }

  /** All of them. */
  list(): readonly DamagedImage[] {
    return [...this.#images.values()];
  }

  /** True when one has this layer, damaged or not. */
  ownsLayer(diffId: string): boolean {
    return this.list().some(({ image }) => image.layers.includes(diffId));
  }

  /** Takes those out that have all their layers again. */
  takeWhole(has: (diffId: string) => boolean): readonly StoredImage[] {
    const whole = this.list().flatMap(({ image }) => (image.layers.every(has) ? [image] : []));
    for (const { id } of whole) this.#images.delete(id);
    return whole;
  }

  /** Takes one out; an unknown one is none already. */
  delete(id: string): void {
    this.#images.delete(id);
  }
}
