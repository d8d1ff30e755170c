import { BerthError, invalid } from '../base/errors.ts';
import { digestOf } from './digest.ts';
import type { ImageConfigs } from './image-configs.ts';
import type { ImageRecord } from './image-record.ts';
import type { LayerFolders } from './layer-holds.ts';
import type { ArchiveEntry } from './write-archive.ts';

/** An image to be saved, and the name that it was asked for by, if that was one. */
export interface SavedImage {
  readonly image: ImageRecord;
  /** Normalised `repo:tag`s; none for an image that was asked for by its id. */
  readonly tags: readonly string[];
}

const CONFIG_TYPE = 'application/vnd.oci.image.config.v1+json';
const MANIFEST_TYPE = 'application/vnd.oci.image.manifest.v1+json';
const INDEX_TYPE = 'application/vnd.oci.image.index.v1+json';
const LAYER_TYPE = 'application/vnd.oci.image.layer.v1.tar';

interface Document {
  readonly mediaType: string;
  readonly digest: string;
  readonly size: number;
}

/**
 * The files of an archive that is both an OCI layout and what `docker save` writes. Configurations and layers are byte
 * by byte those that were pulled, so images keep their ids; layers are uncompressed, so manifests get digests of their
 * own. Throws `precondition` for an image of which not enough is kept.
 */
export async function archiveOf(
  images: readonly SavedImage[],
  { configs, layers }: { readonly configs: ImageConfigs; readonly layers: Pick<LayerFolders, 'archived'> },
): Promise<ArchiveEntry[]> {
  const blobs = new Map<string, ArchiveEntry>();
  const manifests: object[] = [];
  const saved: object[] = [];
  for (const { image, tags } of images) {
    if (image.artifactType !== undefined) {
      const name = image.tags[0] ?? image.repoDigests[0] ?? image.id;
      throw new BerthError('precondition', `${name} is an artifact (${image.artifactType}), and only images are saved`);
    }
    const config = await configs.find(image.id);
    if (!config) throw notKept(image, 'its configuration');
    const layerDocuments = image.layers.map((diffId) => addLayer(blobs, image, diffId, layers));
    const manifest = {
      schemaVersion: 2,
      mediaType: MANIFEST_TYPE,
      config: addDocument(blobs, config, CONFIG_TYPE),
      layers: layerDocuments,
    };
    const document = addDocument(blobs, Buffer.from(JSON.stringify(manifest)), MANIFEST_TYPE);
    manifests.push(...(tags.length > 0 ? tags.map((tag) => ({ ...document, annotations: nameOf(tag) })) : [document]));
    saved.push({
      Config: blobName(image.id),
      RepoTags: [...tags],
      Layers: image.layers.map(blobName),
    });
  }
  const index = { schemaVersion: 2, mediaType: INDEX_TYPE, manifests };
  return [
    { name: 'oci-layout', bytes: Buffer.from('{"imageLayoutVersion":"1.0.0"}') },
    { name: 'index.json', bytes: Buffer.from(JSON.stringify(index)) },
    { name: 'manifest.json', bytes: Buffer.from(JSON.stringify(saved)) },
    ...blobs.values(),
  ];
}

function addDocument(blobs: Map<string, ArchiveEntry>, bytes: Buffer, mediaType: string): Document {
  const digest = digestOf(bytes);
  blobs.set(digest, { name: blobName(digest), bytes });
  return { mediaType, digest, size: bytes.length };
}

function addLayer(
  blobs: Map<string, ArchiveEntry>,
  image: ImageRecord,
  diffId: string,
  layers: Pick<LayerFolders, 'archived'>,
): Document {
  const archived = layers.archived(diffId);
  if (!archived) throw notKept(image, `what puts layer ${diffId} together as it was`);
  blobs.set(diffId, { name: blobName(diffId), ...archived });
  return { mediaType: LAYER_TYPE, digest: diffId, size: archived.sizeBytes };
}

function notKept(image: ImageRecord, what: string): BerthError {
  const name = image.tags[0] ?? image.repoDigests[0] ?? image.id;
  return new BerthError(
    'precondition',
    `image ${name}: ${what} is not kept: an older berthd unpacked it, or it has a file twice; ` +
      'remove the image and pull it again, or take it from its registry',
  );
}

/** Both spellings: whole names are read by containerd, docker and podman, tags by what follows the specification. */
function nameOf(tag: string): Record<string, string> {
  return {
    'io.containerd.image.name': tag,
    'org.opencontainers.image.ref.name': tag.slice(tag.lastIndexOf(':') + 1),
  };
}

function blobName(digest: string): string {
  return `blobs/${digest.replace(':', '/')}`;
}

/** Joins what was asked for twice. Throws `invalid` when nothing was asked for. */
export function joinSaved(asked: readonly SavedImage[]): SavedImage[] {
  if (asked.length === 0) throw invalid('images', 'are none');
  const byId = new Map<string, SavedImage>();
  for (const { image, tags } of asked) {
    byId.set(image.id, { image, tags: [...new Set([...(byId.get(image.id)?.tags ?? []), ...tags])] });
  }
  return [...byId.values()];
}
