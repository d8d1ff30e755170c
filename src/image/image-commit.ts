import type { ImageCatalog } from './image-catalog.ts';
import { type ImageRecord, namesOf, type StoredImage, withName, withoutNames } from './image-record.ts';
import { mergeEvidence } from './trust.ts';

/** An image whose layers are all there, to be made visible. */
export interface NewImage {
  readonly image: StoredImage;
  /** Names that point to it from now on; other images lose them. */
  readonly names: readonly string[];
}

/** Where images are kept: what this room needs of src/store. `transaction` runs all or nothing. */
export interface ImageStore {
  transaction<T>(fn: () => T): T;
  readonly images: {
    put(image: StoredImage): void;
    delete(id: string): void;
    all(): StoredImage[];
  };
}

/**
 * Makes an image appear under its names in one transaction, and then in memory. An image that is there already keeps
 * what it has, and gains the names and what is newly known of its origin.
 */
export function commitImage(catalog: ImageCatalog, store: ImageStore, { image, names }: NewImage): ImageRecord {
  const taken = new Set(names);
  const losers = catalog
    .list()
    .filter((other) => other.id !== image.id && namesOf(other).some((name) => taken.has(name)))
    .map((other) => withoutNames(stored(other), taken));
  const existing = catalog.byId(image.id);
  const trust = mergeEvidence(existing?.trust, image.trust);
  const openDigests = [...new Set([...(existing?.openDigests ?? []), ...(image.openDigests ?? [])])];
  const kept = { ...(existing ? stored(existing) : image), ...(trust ? { trust } : {}), openDigests };
  const named = names.reduce(withName, kept);
  store.transaction(() => {
    for (const loser of losers) store.images.put(loser);
    store.images.put(named);
  });
  for (const loser of losers) catalog.put(loser);
  return catalog.put(named);
}

/** What is kept of an image. */
export function stored({ pinned: _pinned, ...image }: ImageRecord): StoredImage {
  return image;
}
