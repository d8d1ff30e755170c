/** The layers of one pull: downloaded side by side, each unpacked while it comes where a thread is free for that. */

import type { Clock } from '../base/clock.ts';
import { findCause, isKind, wrap } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import type { Meter } from '../base/meter.ts';
import { hasFailed, type SharedArrival } from './blob-arrival.ts';
import type { BlobIngest } from './blob-download.ts';
import type { Digest } from './digest.ts';
import type { LayerFolders } from './layer-holds.ts';
import { allOrAbort, Slots } from './parallel.ts';
import { LayerProgress, type PullProgress } from './pull-progress.ts';
import type { PullSource } from './pull-source.ts';
import type { RegistryClient } from './registry-client.ts';
import { RegistryError } from './registry-error.ts';
import type { ResolvedImage, ResolvedLayer } from './resolve-image.ts';

/** What fetching layers needs. */
export interface FetchDeps {
  readonly client: RegistryClient;
  readonly ingest: BlobIngest;
  readonly layers: LayerFolders;
  readonly maxParallelDownloads: number;
  readonly log: Logger;
  readonly meter: Meter;
  readonly clock: Clock;
}

/**
 * Brings the missing layers of an image into the layer store. After a failure their blobs stay for the next try, unless
 * the disk was full; one whose verified content was refused goes, since it would be refused again.
 */
export async function fetchLayers(
  deps: FetchDeps,
  source: PullSource,
  image: ResolvedImage,
  progress: PullProgress,
  signal: AbortSignal,
): Promise<void> {
  const missing = missingLayers(image, deps.layers).map((layer) => ({
    ...layer,
    progress: new LayerProgress(layer.diffId, layer.blob, progress.traffic),
  }));
  progress.layers = missing.map((layer) => layer.progress);
  progress.layersPresent = new Set(image.document.diffIds).size - missing.length;
  deps.meter.layersPresent(progress.layersPresent, presentBytes(image, deps.layers));
  const downloads = new Slots(deps.maxParallelDownloads);
  await deps.ingest.sweep(Date.now());
  const claims = missing.map((layer) => ({ ...layer, claim: deps.ingest.claim(layer.blob.digest) }));
  const refused = new Set<Digest>();
  let isOver = false;
  try {
    await allOrAbort(claims, signal, async ({ claim, ...layer }, both) => {
      const refuse = (): void => void refused.add(layer.blob.digest);
      await fetchLayer(deps, source, { ...layer, file: claim.file, downloads, refuse }, both);
      layer.progress.phase = 'done';
    });
    isOver = true;
  } catch (err) {
    // A full disk needs the room more than the next try needs the bytes; a registry's rate limit is another matter.
    isOver = isKind(err, 'exhausted') && !findCause(err, RegistryError);
    throw err;
  } finally {
    await Promise.all(claims.map(({ claim, blob }) => claim.release(isOver || refused.has(blob.digest))));
  }
}

interface MissingLayer {
  readonly blob: ResolvedLayer;
  readonly diffId: Digest;
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

/** Compressed bytes of the layers that are in the store, each counted once. */
function presentBytes(image: ResolvedImage, layers: LayerFolders): number {
  const sizes = new Map(image.document.diffIds.map((diffId, position) => [diffId, image.layers[position]?.size ?? 0]));
  return [...sizes].reduce((sum, [diffId, size]) => (layers.has(diffId) ? sum + size : sum), 0);
}

interface LayerInFlight extends MissingLayer {
  readonly progress: LayerProgress;
  readonly file: string;
  readonly downloads: Slots;
  /** Called when its bytes are what the manifest says, and cannot become a layer. */
  refuse(): void;
}

async function fetchLayer(
  deps: FetchDeps,
  source: PullSource,
  layer: LayerInFlight,
  signal: AbortSignal,
): Promise<void> {
  const { blob, diffId, progress, file, downloads } = layer;
  const { meter, clock } = deps;
  let unpackedBytes = 0;
  let startedMs = 0;
  const unpack = async ({ path, arrival }: { path: string; arrival?: SharedArrival }): Promise<void> => {
    const unpacking =
      blob.file === undefined
        ? deps.layers.unpack({ path, arrival, compression: blob.compression }, diffId, signal)
        : deps.layers.placeFile({ path, ...blob.file }, diffId, signal);
    const { sizeBytes } = await unpacking.catch((err: unknown) => {
      throw wrap(`unpack layer ${blob.digest}`, err);
    });
    unpackedBytes = sizeBytes;
  };
  const early = new EarlyUnpack(async (path, arrival) => await unpack({ path, arrival }));
  try {
    await downloads.run(signal, async () => {
      startedMs = clock.monotonicMs();
      const observer = progress.observer((path, arrival) => {
        // What has no digest of its unpacked content must be verified first.
        if (blob.file === undefined) early.begin(path, arrival);
      });
      await deps.ingest.fetch(
        blob,
        {
          registry: source.registry,
          open: (shared) => (consume, have) =>
            source.first(shared, (access) => deps.client.blob(access, blob.digest, shared, consume, have)),
        },
        observer,
        signal,
      );
    });
    deps.log.debug({ layer: blob.digest, bytes: blob.size }, 'layer downloaded');
    progress.phase = 'unpacking';
    const downloadedMs = clock.monotonicMs();
    try {
      if (!(await early.succeeded())) await unpack({ path: file });
    } catch (err) {
      if (isKind(err, 'invalid', 'precondition')) layer.refuse();
      throw err;
    }
    meter.layerPulled({
      compression: blob.compression,
      compressedBytes: blob.size,
      unpackedBytes,
      downloadSeconds: (downloadedMs - startedMs) / 1000,
      unpackSeconds: (clock.monotonicMs() - downloadedMs) / 1000,
    });
  } finally {
    await early.ended();
  }
}

/** An unpack that begins before the blob is there, and that may come to nothing. */
class EarlyUnpack {
  readonly #unpack: (file: string, arrival: SharedArrival) => Promise<void>;
  #work: Promise<{ readonly err?: unknown }> | undefined;
  #arrival: SharedArrival | undefined;

  constructor(unpack: (file: string, arrival: SharedArrival) => Promise<void>) {
    this.#unpack = unpack;
  }

  /** Begins; only the first file counts, unless what came into it has failed. */
  begin(file: string, arrival: SharedArrival): void {
    if (this.#arrival && !hasFailed(this.#arrival)) return;
    this.#arrival = arrival;
    this.#work = this.#after(this.#work, file, arrival);
  }

  async #after(
    earlier: Promise<unknown> | undefined,
    file: string,
    arrival: SharedArrival,
  ): Promise<{ err?: unknown }> {
    await earlier;
    try {
      await this.#unpack(file, arrival);
      return {};
    } catch (err) {
      return { err };
    }
  }

  /** For a blob that is whole by now: true when it is unpacked, false when that must be tried again. Throws its failure. */
  async succeeded(): Promise<boolean> {
    const result = await this.#work;
    if (!result || (this.#arrival && hasFailed(this.#arrival))) return false;
    if (!('err' in result)) return true;
    // No thread was free, or it began too late, when the file had its final name.
    if (isKind(result.err, 'cancelled') || isKind(result.err, 'notFound')) return false;
    throw result.err;
  }

  /** Resolves when nothing of it is at work any more. */
  async ended(): Promise<void> {
    await this.#work;
  }
}
