import type { UnixMicros } from '../base/clock.ts';
import type { ImageConfig } from './manifest.ts';
import type { TrustEvidence } from './trust.ts';

/** One image, or one artifact, that is here, whole. */
export interface ImageRecord {
  /** `sha256:<hex>` of the config; of an artifact, whose config says nothing, of the manifest. */
  readonly id: string;
  /** `repo:tag`, normalised. */
  readonly tags: readonly string[];
  /** `repo@digest` of the manifests or indexes that it was pulled by. */
  readonly repoDigests: readonly string[];
  /**
   * Those of them that came without credentials of a client's own, or from an archive: whoever is on this node may have
   * them without asking the registry again. Undefined for an image that an older berthd pulled, and kept less of.
   */
  readonly openDigests?: readonly string[] | undefined;
  /**
   * Bytes on disk of its unpacked layers, and of its config. The kubelet's garbage collection adds these up until it
   * has freed enough, so it is what the disk has, not what the registry sent; layers shared with other images count in
   * each.
   */
  readonly sizeBytes: number;
  readonly config: ImageConfig;
  /** Diff ids, lowest layer first; of an artifact, what artifactFileId() makes of its files. */
  readonly layers: readonly string[];
  readonly pinned: boolean;
  /** When it came here (not when it was built). */
  readonly createdAtUs: UnixMicros;
  readonly annotations: Readonly<Record<string, string>>;
  /** What kind of artifact it is, as its manifest says; undefined for an image that containers can be made of. */
  readonly artifactType?: string | undefined;
  /** What a policy may be asked about again without the network; undefined for what came from an archive. */
  readonly trust?: TrustEvidence | undefined;
}

/** What is kept of an image; `pinned` follows the configuration instead. */
export type StoredImage = Omit<ImageRecord, 'pinned'>;

/** The names that an image is found by, beside its id. */
export function namesOf(image: Pick<ImageRecord, 'tags' | 'repoDigests'>): string[] {
  return [...image.tags, ...image.repoDigests];
}

/** The image with one more name, in the list that fits it. */
export function withName<T extends StoredImage>(image: T, name: string): T {
  if (namesOf(image).includes(name)) return image;
  return name.includes('@')
    ? { ...image, repoDigests: [...image.repoDigests, name] }
    : { ...image, tags: [...image.tags, name] };
}

/** The image without these names. */
export function withoutNames<T extends StoredImage>(image: T, names: ReadonlySet<string>): T {
  return {
    ...image,
    tags: image.tags.filter((name) => !names.has(name)),
    repoDigests: image.repoDigests.filter((name) => !names.has(name)),
    openDigests: image.openDigests?.filter((name) => !names.has(name)),
  };
}
