import * as v from 'valibot';

import { BerthError, because, invalid, wrap } from '../base/errors.ts';
import { type ArchiveFiles, openArchive } from './archive-files.ts';
import { type NamesInArchive, nameFromAnnotation } from './archive-names.ts';
import { isDigest, verifyDigest } from './digest.ts';
import type { DiskWorkers } from './disk-workers.ts';
import type { ArchiveImage } from './image-archives.ts';
import { type ImageManifest, MAX_DOCUMENT_BYTES, parseDocument, parseImageConfig } from './manifest.ts';
import { choosePlatform, formatPlatform, type Platform, runsOn } from './platform.ts';

/** An index in an index in an index is nobody's image. */
const MAX_DEPTH = 4;
/** Images in one archive. */
const MAX_IMAGES = 1000;

const descriptor = v.object({
  mediaType: v.nullish(v.string(), ''),
  digest: v.string(),
  annotations: v.nullish(v.record(v.string(), v.string()), {}),
  platform: v.nullish(v.object({ os: v.string(), architecture: v.string(), variant: v.nullish(v.string(), '') })),
});
/** index.json of the OCI image layout spec. */
const layoutSchema = v.object({ manifests: v.pipe(v.array(descriptor), v.maxLength(MAX_IMAGES)) });
/** manifest.json of `docker save`. */
const savedSchema = v.pipe(
  v.array(
    v.object({
      Config: v.string(),
      RepoTags: v.nullish(v.array(v.string()), []),
      Layers: v.array(v.string()),
    }),
  ),
  v.maxLength(MAX_IMAGES),
);

/** Where an image's name is in a layout: the whole one of containerd, docker and podman, and that of the specification. */
const WHOLE_NAME = 'io.containerd.image.name';
const REF_NAME = 'org.opencontainers.image.ref.name';

/**
 * The images of an OCI layout (a folder, or its tar) or of a `docker save` archive, each digest verified. Of an image
 * for several platforms the one for this machine. Throws `invalid` for what is none of these, or damaged.
 */
export async function readArchive(
  path: string,
  deps: { readonly scratch: string; readonly workers: DiskWorkers; readonly platform: Platform },
  signal: AbortSignal,
): Promise<ArchiveImage[]> {
  const files = await openArchive(path, deps.scratch, deps.workers, signal);
  try {
    const images = await readImages(path, files, deps.platform, signal);
    if (images.length === 0) throw invalid('path', `${path} has no image in it`);
    // The files are shared; the last image that is disposed of takes them along.
    let left = images.length;
    const dispose = async (): Promise<void> => {
      left -= 1;
      if (left === 0) await files.dispose();
    };
    return images.map((image) => ({ ...image, dispose }));
  } catch (err) {
    await files.dispose();
    throw err;
  }
}

type FoundImage = Omit<ArchiveImage, 'dispose'>;

async function readImages(
  path: string,
  files: ArchiveFiles,
  platform: Platform,
  signal: AbortSignal,
): Promise<FoundImage[]> {
  // Newer `docker save` archives are both; the layout says more.
  if (files.has('index.json')) return await readLayout(files, platform, signal);
  if (files.has('manifest.json')) return await readSaved(files, signal);
  throw invalid(
    'path',
    `${path} is neither an OCI layout (no index.json) nor a docker save archive (no manifest.json)`,
  );
}

async function readLayout(files: ArchiveFiles, platform: Platform, signal: AbortSignal): Promise<FoundImage[]> {
  const { manifests } = checked(layoutSchema, await files.read('index.json', MAX_DOCUMENT_BYTES), 'index.json');
  const images = new Map<string, FoundImage>();
  // Some tools list the images of all platforms side by side here, instead of in an index of their own.
  const fitting = manifests.filter((entry) => !entry.platform || runsOn(platform, entry.platform));
  if (fitting.length === 0 && manifests.length > 0) {
    throw new BerthError('precondition', `index.json has no image for ${formatPlatform(platform)}`);
  }
  for (const { mediaType, digest, annotations } of fitting) {
    const names = namesIn(annotations ?? {});
    const known = images.get(digest);
    const image = known ?? (await readLayoutImage(files, { mediaType, digest }, platform, signal));
    const references = [...image.references, ...names.references];
    images.set(digest, { ...image, references, tags: [...image.tags, ...names.tags] });
  }
  return [...images.values()];
}

function namesIn(annotations: Readonly<Record<string, string>>): NamesInArchive {
  const whole = annotations[WHOLE_NAME] ?? '';
  if (whole !== '') return { references: [whole], tags: [] };
  const name = annotations[REF_NAME] ?? '';
  return name === '' ? { references: [], tags: [] } : nameFromAnnotation(name);
}

async function readLayoutImage(
  files: ArchiveFiles,
  entry: { readonly mediaType: string; readonly digest: string },
  platform: Platform,
  signal: AbortSignal,
): Promise<FoundImage> {
  const manifest = await findManifest(files, entry, platform);
  const configBytes = await readBlob(files, manifest.config.digest);
  const { diffIds } = parseImageConfig(configBytes, `config ${manifest.config.digest}`);
  if (diffIds.length !== manifest.layers.length) {
    throw new BerthError(
      'invalid',
      `manifest ${entry.digest} has ${manifest.layers.length} layers, its config ${diffIds.length}`,
    );
  }
  const layers: { path: string; compression: 'none' | 'gzip' | 'zstd' | 'detect'; diffId: string }[] = [];
  for (const [index, layer] of manifest.layers.entries()) {
    const { path, digest } = await files.locate(blobName(layer.digest), signal);
    // Of another algorithm: unpacking verifies what is in it.
    if (digest !== layer.digest && layer.digest.startsWith('sha256:'))
      throw new BerthError('invalid', `layer ${layer.digest} is damaged: its digest is ${digest}`);
    layers.push({ path, compression: layer.compression, diffId: diffIds[index] ?? '' });
  }
  return { references: [], tags: [], configBytes, layers, manifestDigest: entry.digest };
}

async function findManifest(
  files: ArchiveFiles,
  entry: { readonly mediaType: string; readonly digest: string },
  platform: Platform,
): Promise<ImageManifest> {
  let { mediaType, digest } = entry;
  for (let depth = 0; depth < MAX_DEPTH; depth++) {
    const document = parseDocument(await readBlob(files, digest), mediaType, `manifest ${digest}`);
    if (document.kind === 'manifest') return document;
    if (document.kind === 'artifact') {
      throw new BerthError(
        'precondition',
        `manifest ${digest} is an artifact (${document.type}), not an image to load`,
      );
    }
    const chosen = choosePlatform(platform, document.entries);
    if (!chosen) throw new BerthError('precondition', `index ${digest} has no image for ${formatPlatform(platform)}`);
    ({ mediaType, digest } = chosen);
  }
  throw new BerthError('invalid', `index ${entry.digest} has indexes in it, ${MAX_DEPTH} deep and more`);
}

async function readBlob(files: ArchiveFiles, digest: string): Promise<Buffer> {
  const bytes = await files.read(blobName(digest), MAX_DOCUMENT_BYTES);
  if (!isDigest(digest)) throw new BerthError('invalid', `${JSON.stringify(digest)} is not a digest`);
  try {
    verifyDigest(bytes, digest, `blob ${digest}`);
  } catch (err) {
    throw because('invalid', 'the archive is damaged', err);
  }
  return bytes;
}

/** Where the image layout spec puts a blob. Throws `invalid` for a digest that would lead elsewhere. */
function blobName(digest: string): string {
  if (!isDigest(digest)) throw new BerthError('invalid', `${JSON.stringify(digest)} is not a digest`);
  return `blobs/${digest.replace(':', '/')}`;
}

async function readSaved(files: ArchiveFiles, signal: AbortSignal): Promise<FoundImage[]> {
  const saved = checked(savedSchema, await files.read('manifest.json', MAX_DOCUMENT_BYTES), 'manifest.json');
  const images: FoundImage[] = [];
  for (const { Config, RepoTags, Layers } of saved) {
    const configBytes = await files.read(Config, MAX_DOCUMENT_BYTES);
    const { diffIds } = parseImageConfig(configBytes, Config);
    if (diffIds.length !== Layers.length) {
      throw new BerthError(
        'invalid',
        `manifest.json names ${Layers.length} layers for ${Config}, which has ${diffIds.length}`,
      );
    }
    const layers: { path: string; compression: 'detect'; diffId: string }[] = [];
    for (const [index, name] of Layers.entries()) {
      // No digest to compare with: the layer must unpack to its diff id.
      layers.push({
        path: (await files.locate(name, signal)).path,
        compression: 'detect',
        diffId: diffIds[index] ?? '',
      });
    }
    images.push({ references: RepoTags, tags: [], configBytes, layers });
  }
  return images;
}

function checked<T>(schema: v.GenericSchema<unknown, T>, bytes: Buffer, what: string): T {
  let json: unknown;
  try {
    json = JSON.parse(bytes.toString('utf8'));
  } catch (err) {
    throw because('invalid', `${what} is not JSON`, err);
  }
  const result = v.safeParse(schema, json);
  if (result.success) return result.output;
  const [issue] = result.issues;
  throw wrap(what, invalid(v.getDotPath(issue) ?? 'it', issue.message));
}
