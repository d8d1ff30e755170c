import { describe } from '../base/errors.ts';
import type { BlobIngest } from './blob-download.ts';
import type { DamagedImage } from './damaged-images.ts';
import type { ImageRecord, StoredImage } from './image-record.ts';
import type { LayerFolders, LayerHolds } from './layer-holds.ts';

/** Something below the image folder that belongs to nothing. */
export interface Garbage {
  readonly kind: 'image' | 'layer' | 'folder' | 'blob' | 'mount';
  readonly name: string;
  /** Why it is garbage. */
  readonly reason: string;
  /** Space that it takes; 0 where only its removal tells. */
  readonly bytes: number;
  /** Why it could not be removed; empty otherwise. */
  readonly problem: string;
}

/** Where garbage is looked for. */
export interface PruneParts {
  readonly images: readonly ImageRecord[];
  readonly damaged: readonly DamagedImage[];
  readonly layers: LayerFolders;
  readonly holds: LayerHolds;
  readonly ingest: BlobIngest;
  readonly mounts: { stale(): readonly string[]; removeStale(id: string): void };
  /** Containers and mounts. */
  usersOf(imageId: string): readonly string[];
  removeImage(imageId: string): Promise<void>;
  removeDamaged(image: StoredImage): Promise<void>;
}

/** What to take for garbage, and whether to remove it. */
export interface PruneOptions {
  readonly dryRun: boolean;
  /** Also images that no container uses and that are not pinned. */
  readonly unusedImages: boolean;
  /** Also what is good of damaged images, which the next pull of each would need. */
  readonly damagedImages?: boolean;
}

/** Finds garbage and removes it, unless it is a dry run. What pulls and removals are at work on is none. */
export async function prune(
  parts: PruneParts,
  { dryRun, unusedImages, damagedImages = false }: PruneOptions,
): Promise<Garbage[]> {
  const found = [
    ...(unusedImages ? unusedOf(parts) : []),
    ...(damagedImages ? damagedOf(parts) : []),
    ...layersOf(parts),
    ...foldersOf(parts),
  ];
  found.push(...mountsOf(parts));
  found.push(...(await blobsOf(parts)));
  if (dryRun) return found.map(({ garbage }) => garbage);
  const removed: Garbage[] = [];
  for (const { garbage, remove } of found) {
    const problem = await remove().then(() => '', describe);
    removed.push({ ...garbage, problem });
  }
  return removed;
}

interface Found {
  readonly garbage: Garbage;
  readonly remove: () => Promise<void>;
}

function unusedOf({ images, layers, usersOf, removeImage }: PruneParts): Found[] {
  const unused = images.filter((image) => !image.pinned && usersOf(image.id).length === 0);
  const sizes = new Map(layers.all().map(({ diffId, sizeBytes }) => [diffId, sizeBytes]));
  const gone = new Set(unused.map(({ id }) => id));
  const counted = new Set(images.filter(({ id }) => !gone.has(id)).flatMap((image) => image.layers));
  return unused.map((image) => {
    let bytes = 0;
    for (const diffId of image.layers) {
      if (!counted.has(diffId)) bytes += sizes.get(diffId) ?? 0;
      counted.add(diffId);
    }
    const garbage = {
      kind: 'image',
      name: namesIn(image),
      reason: 'no container uses it',
      bytes,
      problem: '',
    } as const;
    return { garbage, remove: () => removeImage(image.id) };
  });
}

/** All names that go with an image. */
function namesIn({ tags, repoDigests, id }: StoredImage): string {
  if (tags.length > 0) return tags.join(', ');
  return repoDigests[0] ?? id;
}

/** What a damaged image still has is kept for its next pull, until somebody says that there will be none. */
function damagedOf({ damaged, usersOf, removeDamaged }: PruneParts): Found[] {
  return damaged.flatMap(({ image, missing }) => {
    if (usersOf(image.id).length > 0) return [];
    const name = namesIn(image);
    const reason = `it is damaged: ${missing.length} of its ${image.layers.length} layers are missing; a pull mends it`;
    return [{ garbage: { kind: 'image', name, reason, bytes: 0, problem: '' }, remove: () => removeDamaged(image) }];
  });
}

function mountsOf({ mounts }: PruneParts): Found[] {
  return mounts.stale().map((name) => ({
    garbage: { kind: 'mount', name, reason: 'the image is not mounted there any more', bytes: 0, problem: '' },
    remove: async () => mounts.removeStale(name),
  }));
}

function layersOf({ layers, holds }: PruneParts): Found[] {
  const sizes = new Map(layers.all().map(({ diffId, sizeBytes }) => [diffId, sizeBytes]));
  const unused = holds.unused([...sizes.keys()]);
  const inUse = unused.length > 0 ? layers.inUse() : new Set();
  return unused
    .filter((diffId) => !inUse.has(diffId))
    .map((diffId) => {
      const [bytes, reason] = [sizes.get(diffId) ?? 0, 'no image has it'];
      return {
        garbage: { kind: 'layer', name: diffId, reason, bytes, problem: '' },
        remove: () => holds.removeUnused([diffId]),
      };
    });
}

function foldersOf({ layers }: PruneParts): Found[] {
  const unfinished = 'an unpack or a removal left it unfinished';
  const damaged = 'a layer that is damaged, or that no record speaks of';
  return layers.strays().map((name) => ({
    garbage: { kind: 'folder', name, reason: name.startsWith('.tmp-') ? unfinished : damaged, bytes: 0, problem: '' },
    remove: () => layers.removeStray(name),
  }));
}

async function blobsOf({ ingest }: PruneParts): Promise<Found[]> {
  const reason = 'a pull failed; it is kept for an hour for the next try';
  return (await ingest.unclaimed()).map(({ name, sizeBytes }) => ({
    garbage: { kind: 'blob', name, reason, bytes: sizeBytes, problem: '' },
    remove: () => ingest.discard(name),
  }));
}
