/** From a reference to the one manifest and config that this machine shall run. */

import { BerthError } from '../base/errors.ts';
import { type Digest, verifyDigest } from './digest.ts';
import { formatEndpoint } from './endpoints.ts';
import {
  type ConfigDocument,
  type Descriptor,
  type ImageIndex,
  type ImageManifest,
  type IndexEntry,
  type LayerDescriptor,
  MAX_DOCUMENT_BYTES,
  parseDocument,
  parseImageConfig,
} from './manifest.ts';
import { documentKind } from './media-types.ts';
import { choosePlatform, formatPlatform, type Platform } from './platform.ts';
import type { PullSource } from './pull-source.ts';
import { formatReference, type ImageReference } from './reference.ts';
import type { Access, RegistryClient } from './registry-client.ts';

/** An image that is known, and not yet there. */
export interface ResolvedImage {
  /** Digest of what the reference led to: the index, if there is one. */
  readonly digest: Digest;
  /** Of the manifest itself. */
  readonly manifestDigest: Digest;
  readonly configBytes: Buffer;
  readonly document: ConfigDocument;
  /** As many as the config has diff ids, in the same order. */
  readonly layers: readonly LayerDescriptor[];
  readonly annotations: Readonly<Record<string, string>>;
}

// An index of indexes is legal; more than that is a game.
const MAX_DEPTH = 4;

/**
 * Resolves a reference. Throws RegistryError for the exchange, `precondition` for an image that cannot be run,
 * `notFound` when it has nothing for this platform.
 */
export async function resolveImage(
  deps: { readonly client: RegistryClient; readonly source: PullSource; readonly platform: Platform },
  reference: ImageReference,
  signal: AbortSignal,
): Promise<ResolvedImage> {
  const { client, source, platform } = deps;
  const name = formatReference(reference);
  const what = reference.digest ?? reference.tag ?? 'latest';
  const root = await source.first(
    signal,
    async (access) => {
      const { bytes, digest, mediaType } = await client.manifest(access, what, signal);
      return { digest, document: parseDocument(bytes, mediaType, describe(what, access)) };
    },
    reference.digest === undefined ? 'resolves' : 'pulls',
  );
  let { document, digest: manifestDigest } = root;
  for (let depth = 0; document.kind === 'index'; depth += 1) {
    if (depth === MAX_DEPTH)
      throw new BerthError('precondition', `${name}: more than ${MAX_DEPTH} indexes in each other`);
    const entry = chooseEntry(document, platform, name);
    manifestDigest = entry.digest;
    document = await source.first(signal, async (access) => {
      const { bytes } = await client.manifest(access, entry.digest, signal);
      checkSize(bytes, entry, describe(entry.digest, access));
      return parseDocument(bytes, entry.mediaType, describe(entry.digest, access));
    });
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
  const odd = document.diffIds.find((diffId) => !diffId.startsWith('sha256:'));
  if (odd) throw new BerthError('precondition', `${name}: diff id ${odd.slice(0, 20)}... is not a sha256 digest`);
}
