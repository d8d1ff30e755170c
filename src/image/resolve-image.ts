/** From a reference to the one manifest and config that this machine shall run. */

import { BerthError } from '../base/errors.ts';
import { artifactFileId } from './artifact-files.ts';
import { type Digest, verifyDigest } from './digest.ts';
import { formatEndpoint } from './endpoints.ts';
import {
  type ArtifactManifest,
  type ConfigDocument,
  type Descriptor,
  type ImageIndex,
  type ImageManifest,
  type IndexEntry,
  type LayerDescriptor,
  MAX_DOCUMENT_BYTES,
  NO_CONFIG,
  parseDocument,
  parseImageConfig,
} from './manifest.ts';
import { documentKind } from './media-types.ts';
import { choosePlatform, formatPlatform, type Platform } from './platform.ts';
import type { PullSource } from './pull-source.ts';
import { formatReference, type ImageReference } from './reference.ts';
import type { Access, RegistryClient } from './registry-client.ts';

/** One blob of an image. */
export interface ResolvedLayer extends LayerDescriptor {
  /** What it becomes in an artifact; undefined for the layer of an image. */
  readonly file?: { readonly name: string; readonly isFolder: boolean };
}

/** An image or an artifact that is known, and not yet there. */
export interface ResolvedImage {
  /** Digest of what the reference led to: the index, if there is one. */
  readonly digest: Digest;
  /** Of the manifest itself. */
  readonly manifestDigest: Digest;
  /** The document whose digest is the image's id: its config, or for an artifact its manifest. */
  readonly configBytes: Buffer;
  readonly document: ConfigDocument;
  /** As many as the document has diff ids, in the same order. */
  readonly layers: readonly ResolvedLayer[];
  /** What kind of artifact it is; undefined for an image. */
  readonly artifactType: string | undefined;
  readonly annotations: Readonly<Record<string, string>>;
}

// An index of indexes is legal; more than that is a game.
const MAX_DEPTH = 4;

/** What a reference leads to: an index, or a manifest. */
export interface RootDocument {
  readonly digest: Digest;
  /** Undefined when the registry only said that it is one of those that are known. */
  readonly found: { readonly bytes: Buffer; readonly document: ReturnType<typeof parseDocument> } | undefined;
}

interface ResolveDeps {
  readonly client: RegistryClient;
  readonly source: PullSource;
}

/**
 * Asks where a reference leads; for a tag, only for the digest as long as that is one of those that are `known`. Throws
 * RegistryError for the exchange, `precondition` for what is neither an image nor an artifact.
 */
export async function findRoot(
  { client, source }: ResolveDeps,
  reference: ImageReference,
  known: ReadonlySet<Digest>,
  signal: AbortSignal,
): Promise<RootDocument> {
  const what = reference.digest ?? reference.tag ?? 'latest';
  return await source.first(
    signal,
    async (access) => {
      const found = await client.manifestUnless(access, what, known, signal);
      if (found.bytes === undefined) return { digest: found.digest, found: undefined };
      const document = parseDocument(found.bytes, found.mediaType, describe(what, access));
      return { digest: found.digest, found: { bytes: found.bytes, document } };
    },
    reference.digest === undefined ? 'resolves' : 'pulls',
  );
}

/**
 * Resolves a reference from its root on. Throws RegistryError for the exchange, `precondition` for what is neither an
 * image that can be run nor an artifact, `notFound` when it has nothing for this platform.
 */
export async function resolveImage(
  deps: ResolveDeps & { readonly platform: Platform },
  reference: ImageReference,
  root: RootDocument,
  signal: AbortSignal,
): Promise<ResolvedImage> {
  const { client, source, platform } = deps;
  const name = formatReference(reference);
  let manifestDigest = root.digest;
  let { bytes, document } =
    root.found ??
    (await source.first(signal, async (access) => {
      const found = await client.manifest(access, root.digest, signal);
      return { ...found, document: parseDocument(found.bytes, found.mediaType, describe(root.digest, access)) };
    }));
  for (let depth = 0; document.kind === 'index'; depth += 1) {
    if (depth === MAX_DEPTH)
      throw new BerthError('precondition', `${name}: more than ${MAX_DEPTH} indexes in each other`);
    const entry = chooseEntry(document, platform, name);
    manifestDigest = entry.digest;
    ({ bytes, document } = await source.first(signal, async (access) => {
      const found = await client.manifest(access, entry.digest, signal);
      checkSize(found.bytes, entry, describe(entry.digest, access));
      const parsed = parseDocument(found.bytes, entry.mediaType, describe(entry.digest, access));
      return { bytes: found.bytes, document: parsed };
    }));
  }
  if (document.kind === 'artifact') {
    return { digest: root.digest, manifestDigest, configBytes: bytes, ...artifactParts(document, platform) };
  }
  const { manifest, config } = await fetchConfig(client, source, document, name, signal);
  const parsed = parseImageConfig(config, `config ${manifest.config.digest} of ${name}`);
  checkImage(manifest, parsed, platform, name);
  return {
    digest: root.digest,
    manifestDigest,
    configBytes: config,
    document: parsed,
    layers: manifest.layers,
    annotations: manifest.annotations,
    artifactType: undefined,
  };
}

/** An artifact has no config; each of its files is a layer of its own. */
function artifactParts(
  { type, files, annotations }: ArtifactManifest,
  platform: Platform,
): Pick<ResolvedImage, 'document' | 'layers' | 'annotations' | 'artifactType'> {
  return {
    document: { config: NO_CONFIG, platform, diffIds: files.map(artifactFileId) },
    layers: files.map(({ name, isFolder, ...blob }) => ({ ...blob, compression: 'none', file: { name, isFolder } })),
    annotations,
    artifactType: type,
  };
}

function describe(what: string, access: Access): string {
  return `manifest ${what} of ${formatEndpoint(access.endpoint)}`;
}

function chooseEntry(index: ImageIndex, platform: Platform, name: string): IndexEntry {
  const chosen = choosePlatform(platform, index.entries);
  if (chosen) return chosen;
  // Tools that copy single images make indexes without platforms; then only the config tells.
  const unnamed = index.entries.filter((entry) => !entry.platform && documentKind(entry.mediaType) !== undefined);
  if (unnamed.length === 1 && unnamed[0]) return unnamed[0];
  const offered = index.entries.flatMap((entry) => (entry.platform ? [formatPlatform(entry.platform)] : []));
  const list = [...new Set(offered)].slice(0, 20).join(', ') || 'nothing';
  throw new BerthError('notFound', `${name} has no image for ${formatPlatform(platform)}; it offers ${list}`);
}

async function fetchConfig(
  client: RegistryClient,
  source: PullSource,
  manifest: ImageManifest,
  name: string,
  signal: AbortSignal,
): Promise<{ manifest: ImageManifest; config: Buffer }> {
  const { digest, size } = manifest.config;
  if (size > MAX_DOCUMENT_BYTES) {
    throw new BerthError('precondition', `config ${digest} of ${name} is larger than ${MAX_DOCUMENT_BYTES} bytes`);
  }
  const config = await source.first(signal, (access) =>
    client.blob(access, digest, signal, async ({ bytes: body }) => {
      const what = `config ${digest} of ${formatEndpoint(access.endpoint)}`;
      const bytes = await readSized(body, manifest.config, what);
      verifyDigest(bytes, digest, what);
      return bytes;
    }),
  );
  return { manifest, config };
}

async function readSized(body: AsyncIterable<Uint8Array>, descriptor: Descriptor, what: string): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of body) {
    chunks.push(chunk);
    length += chunk.length;
    if (length > descriptor.size) break;
  }
  const bytes = Buffer.concat(chunks);
  checkSize(bytes, descriptor, what);
  return bytes;
}

function checkSize(bytes: Uint8Array, descriptor: Descriptor, what: string): void {
  if (bytes.length === descriptor.size) return;
  throw new BerthError('unavailable', `${what}: has not the ${descriptor.size} bytes that its descriptor says`);
}

function checkImage(manifest: ImageManifest, document: ConfigDocument, platform: Platform, name: string): void {
  const { os, architecture } = document.platform;
  // An index may call a variant what its config does not, so only what decides about running is compared.
  if (os !== platform.os || (architecture !== '' && architecture !== platform.architecture)) {
    const theirs = formatPlatform(document.platform);
    throw new BerthError(
      'precondition',
      `${name} is an image for ${theirs}, and this machine is ${formatPlatform(platform)}`,
    );
  }
  if (manifest.layers.length !== document.diffIds.length) {
    throw new BerthError(
      'precondition',
      `${name}: the manifest has ${manifest.layers.length} layers, and the config ${document.diffIds.length}`,
    );
  }
  if (manifest.layers.length === 0) throw new BerthError('precondition', `${name} has no layers, so it cannot be run`);
}
