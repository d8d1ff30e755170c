/** One pull: resolve the image, bring its missing layers into the layer store. The facade makes it appear. */

import { BerthError, wrap } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import { type CredentialSource, credentialFor, type RegistryAuth } from './auth.ts';
import type { BlobIngest } from './blob-download.ts';
import type { Digest } from './digest.ts';
import type { Endpoint } from './endpoints.ts';
import type { LayerFolders, LayerHolds } from './layer-holds.ts';
import type { LayerDescriptor } from './manifest.ts';
import { allOrAbort, Slots } from './parallel.ts';
import type { Platform } from './platform.ts';
import { PullSource } from './pull-source.ts';
import { formatReference, type ImageReference } from './reference.ts';
import type { Registries } from './registries.ts';
import type { Access, RegistryClient } from './registry-client.ts';
import { isRegistryUnavailable } from './registry-error.ts';
import { type ResolvedImage, resolveImage } from './resolve-image.ts';

/** What a pull needs. */
export interface PullDeps {
  readonly client: RegistryClient;
  readonly ingest: BlobIngest;
  readonly layers: LayerFolders;
  readonly registries: Registries;
  readonly platform: Platform;
  readonly maxParallelDownloads: number;
  readonly log: Logger;
}

/** How far a pull has come; changed in place while it runs. */
export interface PullProgress {
  readonly reference: string;
  readonly startedAtUs: number;
  phase: 'resolving' | 'downloading' | 'committing';
  /** Layers that were not here already, and how many of them are unpacked. */
  layersMissing: number;
  layersDone: number;
  /** Compressed bytes to come in all, and those that have. */
  bytesTotal: number;
  bytesDone: number;
}

/**
 * Resolves `reference` and unpacks the layers that are missing, then calls `commit` while the layers are still held
 * and returns what it returns. Throws errors that name the reference; those that mean that the registry cannot serve
 * now begin with "RegistryUnavailable", which the kubelet looks for (k8s.io/cri-api/pkg/errors).
 */
export async function pullImage<T>(
  deps: PullDeps,
  request: {
    readonly reference: ImageReference;
    readonly auth: RegistryAuth | undefined;
    /** Asked in order for what the request does not bring. */
    readonly credentials: readonly CredentialSource[];
    readonly holds: LayerHolds;
    readonly progress: PullProgress;
  },
  signal: AbortSignal,
  commit: (image: ResolvedImage) => Promise<T>,
): Promise<T> {
  const name = formatReference(request.reference);
  try {
    const endpoints = await deps.registries.endpoints(request.reference);
    const source = new PullSource(await accessesFor(endpoints, request, signal), deps.log);
    const image = await resolveImage({ ...deps, source }, request.reference, signal);
    return await request.holds.during(image.document.diffIds, signal, async () => {
      request.progress.phase = 'downloading';
      await fetchLayers(deps, source, image, request.progress, signal);
      request.progress.phase = 'committing';
      return await commit(image);
    });
  } catch (err) {
    const word = isRegistryUnavailable(err) ? 'RegistryUnavailable: ' : '';
    throw wrap(`${word}pull ${name}`, err);
  }
}

async function accessesFor(
  endpoints: readonly Endpoint[],
  { auth, credentials }: { readonly auth: RegistryAuth | undefined; readonly credentials: readonly CredentialSource[] },
  signal: AbortSignal,
): Promise<Access[]> {
  const primary = endpoints.find((endpoint) => !endpoint.mirror);
  if (!primary) throw new BerthError('internal', 'no endpoint to pull from');
  return await Promise.all(
    endpoints.map(async (endpoint) => ({
      endpoint,
      credential: await credentialFor(endpoint, { auth, primary }, credentials, signal),
    })),
  );
}

interface MissingLayer {
  readonly blob: LayerDescriptor;
  readonly diffId: Digest;
}

/** Each missing layer is unpacked as soon as its blob is there, while others still come. */
async function fetchLayers(
  deps: PullDeps,
  source: PullSource,
  image: ResolvedImage,
  progress: PullProgress,
  signal: AbortSignal,
): Promise<void> {
  const missing = missingLayers(image, deps.layers);
  progress.layersMissing = missing.length;
  progress.bytesTotal = missing.reduce((sum, { blob }) => sum + blob.size, 0);
  const downloads = new Slots(deps.maxParallelDownloads);
  await deps.ingest.sweep(Date.now());
  const claims = missing.map((layer) => ({ ...layer, claim: deps.ingest.claim(layer.blob.digest) }));
  let complete = false;
  try {
    await allOrAbort(claims, signal, async ({ blob, diffId, claim }, both) => {
      await downloads.run(both, () => fetchBlob(deps, source, blob, progress, both));
      await deps.layers
        .unpack({ path: claim.file, compression: blob.compression }, diffId, both)
        .catch((err: unknown) => {
          throw wrap(`unpack layer ${blob.digest}`, err);
        });
      progress.layersDone += 1;
    });
    complete = true;
  } finally {
    // After a failure the whole ones stay for the next try.
    await Promise.all(claims.map(({ claim }) => claim.release(complete)));
  }
}

async function fetchBlob(
  deps: PullDeps,
  source: PullSource,
  blob: LayerDescriptor,
  progress: PullProgress,
  signal: AbortSignal,
): Promise<void> {
  const onBytes = (more: number): void => {
    progress.bytesDone += more;
  };
  const open = (shared: AbortSignal) => (consume: (body: AsyncIterable<Uint8Array>) => Promise<void>) =>
    source.first(shared, (access) => deps.client.blob(access, blob.digest, shared, consume));
  await deps.ingest.fetch(blob, open, onBytes, signal);
  deps.log.debug({ layer: blob.digest, bytes: blob.size }, 'layer downloaded');
}

/** The layers that are not in the store; an image may have the same one several times. */
function missingLayers(image: ResolvedImage, layers: LayerFolders): MissingLayer[] {
  const missing = new Map<Digest, MissingLayer>();
  for (const [position, diffId] of image.document.diffIds.entries()) {
    const blob = image.layers[position];
    if (blob && !layers.has(diffId) && !missing.has(diffId)) missing.set(diffId, { blob, diffId });
  }
  return [...missing.values()];
}
