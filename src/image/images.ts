/**
 * The image room's facade. Images are listed and found in memory; a pull or a load brings layers into the layer store,
 * and then one transaction makes the image appear.
 */

import { join } from 'node:path';

import type { Clock } from '../base/clock.ts';
import { raceSignal, withDeadline } from '../base/deadline.ts';
import { BerthError, describe, findCause, isKind, kindOf, wrap } from '../base/errors.ts';
import { atPlace, type FaultPoints } from '../base/fault-points.ts';
import type { Logger } from '../base/log.ts';
import type { Meter, Outcome } from '../base/meter.ts';
import type { Notices } from '../base/notices.ts';
import type { Tracing } from '../base/tracing.ts';
import { type NamesInArchive, nameImages, recordedNames } from './archive-names.ts';
import { type CredentialSource, credentialFromRequest, credentialKey, type RegistryAuth } from './auth.ts';
import { AuthFile } from './auth-file.ts';
import { BlobIngest } from './blob-download.ts';
import { CredentialHelpers, type ProgramRunner } from './credential-helpers.ts';
import { DamagedImages } from './damaged-images.ts';
import { digestOf, isDigest } from './digest.ts';
import { candidateReferences, resolveReference } from './endpoints.ts';
import { GpgSignatures } from './gpg-signatures.ts';
import { ImageCatalog } from './image-catalog.ts';
import { commitImage, type ImageStore } from './image-commit.ts';
import { ImageConfigs } from './image-configs.ts';
import { type CheckedImage, ImageHealth } from './image-health.ts';
import { type HistoryEntry, type ImageBuild, imageBuild, imageHistory } from './image-history.ts';
import type { ImageMount } from './image-mounts.ts';
import type { ImageRecord, StoredImage } from './image-record.ts';
import { JoinedWork } from './joined-work.ts';
import { type LayerFolders, LayerHolds } from './layer-holds.ts';
import { type ConfigDocument, parseImageConfig } from './manifest.ts';
import { takeNamespacedAuth } from './namespaced-auth.ts';
import { allOrAbort } from './parallel.ts';
import { type PullPlan, planPull } from './plan-pull.ts';
import { formatPlatform, hostPlatform, type Platform, runsOn } from './platform.ts';
import { PolicyFiles } from './policy-files.ts';
import { type Claim, PresentImages } from './present-images.ts';
import { type Garbage, type PruneOptions, prune } from './prune.ts';
import { pullFailure, pullImage } from './pull.ts';
import { newPullProgress, type PullProgress } from './pull-progress.ts';
import { formatReference, type ImageReference, recordedName, repositoryOf } from './reference.ts';
import { Registries, registriesPlaces } from './registries.ts';
import { LookasideFolder } from './registries-d.ts';
import type { RegistryClient } from './registry-client.ts';
import type { ResolvedImage } from './resolve-image.ts';
import { archiveOf, joinSaved, type SavedImage } from './save-images.ts';
import { ruleFor, Trust, type TrustEvidence, UntrustedImageError } from './trust.ts';
import { TrustOfUsedImages } from './used-images.ts';
import type { ArchiveEntry } from './write-archive.ts';

/** The keys of `[image]` that this room follows. */
export interface ImageSettings {
  readonly registriesConf: string;
  readonly registriesConfDir: string;
  readonly shortNameAliases: string;
  readonly hostsDirs: readonly string[];
  readonly certsDirs: readonly string[];
  readonly authFile: string;
  readonly namespacedAuthDir: string;
  readonly signaturePolicy: string;
  /** Whether it is where it is by default, and may be missing. */
  readonly signaturePolicyMayBeMissing: boolean;
  readonly signaturePolicyDir: string;
  readonly lookasideDir: string;
  /** Whether signatures count that name no image: Trust. */
  readonly acceptUnnamedSignatures?: boolean;
  readonly pinnedImages: readonly string[];
  readonly maxParallelDownloads: number;
  /** Bound on one whole pull, in milliseconds. */
  readonly pullTimeoutMs: number;
}

/** Those that may change while berthd runs. */
export type LiveImageSettings = Pick<
  ImageSettings,
  'pinnedImages' | 'maxParallelDownloads' | 'pullTimeoutMs' | 'namespacedAuthDir'
>;

/** What the facade is built from. */
export interface ImagesDeps {
  /** Berth's root folder; blobs in flight are in `<root>/image/ingest`. */
  readonly root: string;
  readonly settings: ImageSettings;
  readonly store: ImageStore;
  readonly layers: LayerFolders;
  readonly client: RegistryClient;
  /** Runs credential helpers and gpgv. */
  readonly programs: ProgramRunner;
  readonly readArchive: (path: string, signal: AbortSignal) => Promise<readonly ArchiveImage[]>;
  /** Writes an archive of these entries: streamArchive() of stream-archive.ts. */
  readonly writeArchive: (entries: readonly ArchiveEntry[], signal: AbortSignal) => AsyncIterable<Buffer>;
  /** The containers that were made from an image: it stays while there are any. */
  readonly usersOf: (imageId: string) => readonly string[];
  readonly mounts: ImageMountTable;
  readonly log: Logger;
  readonly meter: Meter;
  readonly notices?: Notices;
  readonly clock: Clock;
  readonly tracing?: Tracing | undefined;
  /** In tests alone. */
  readonly faults?: FaultPoints | undefined;
  /** The machine's own unless a test says otherwise. */
  readonly platform?: Platform;
}

/** Where images are mounted: what this file needs of image-mounts.ts. */
export interface ImageMountTable {
  start(): void;
  list(): readonly ImageMount[];
  of(imageId: string): readonly string[];
  stale(): readonly string[];
  removeStale(id: string): void;
  mount(image: ImageRecord, folder: string): string;
  unmount(target: { readonly folder: string } | { readonly imageId: string }): readonly string[];
}

/** One image of an archive: what src/image/archive-reader.ts gives. */
export interface ArchiveImage extends NamesInArchive {
  readonly configBytes: Buffer;
  readonly layers: readonly {
    readonly path: string;
    readonly compression: 'none' | 'gzip' | 'zstd' | 'detect';
    readonly diffId: string;
  }[];
  readonly manifestDigest?: string | undefined;
  dispose(): Promise<void>;
}

/** An image that came from an archive. */
export interface LoadedImage {
  readonly id: string;
  /** Normalised; none when the archive names none. */
  readonly names: readonly string[];
}

/** Where tests disturb the removal of an image. */
export const REMOVE_PLACES = ['RemoveImage/forget image', 'RemoveImage/remove layers'] as const;

/** One pull, as it was asked for. */
interface AskedPull extends Claim {
  readonly auth: RegistryAuth | undefined;
  readonly credentials: readonly CredentialSource[];
}

/** All images of this node. */
export class Images {
  readonly #deps: ImagesDeps;
  #settings: LiveImageSettings;
  readonly #platform: Platform;
  readonly #catalog: ImageCatalog;
  readonly #damaged = new DamagedImages();
  readonly #health: ImageHealth;
  readonly #configs: ImageConfigs;
  readonly #holds: LayerHolds;
  readonly #present: PresentImages;
  readonly #ingest: BlobIngest;
  readonly #helpers: CredentialHelpers;
  readonly #authFile: AuthFile;
  readonly #trust: Trust;
  readonly #usedImages: TrustOfUsedImages;
  readonly #registries: Registries;
  readonly #pulls = new JoinedWork<ImageRecord>();
  readonly #progress = new Set<PullProgress>();
  /** Layers of images that are being removed, or were, and whose own removal has not succeeded. */
  readonly #leftLayers = new Set<string>();

  /** Loads the images that the store has. Call `start` before the first pull. */
  constructor(deps: ImagesDeps) {
    const { settings, log } = deps;
    this.#deps = deps;
    this.#settings = settings;
    this.#platform = deps.platform ?? hostPlatform();
    this.#catalog = new ImageCatalog(settings.pinnedImages);
    for (const image of deps.store.images.all()) this.#catalog.put(image);
    const isOwned = (diffId: string): boolean => this.#catalog.ownsLayer(diffId) || this.#damaged.ownsLayer(diffId);
    this.#holds = new LayerHolds(deps.layers, isOwned, log);
    this.#health = new ImageHealth({ ...deps, catalog: this.#catalog, damaged: this.#damaged, holds: this.#holds });
    this.#configs = new ImageConfigs(deps.root);
    this.#ingest = new BlobIngest(join(deps.root, 'image/ingest'));
    this.#helpers = new CredentialHelpers(deps.programs);
    this.#authFile = new AuthFile(settings.authFile, this.#helpers);
    this.#trust = openTrust(deps);
    this.#registries = new Registries(registriesPlaces(settings), log);
    const asking = { registries: this.#registries, credentials: [this.#authFile] };
    const kept = { catalog: this.#catalog, store: deps.store };
    this.#present = new PresentImages({ ...kept, layers: deps.layers, trust: this.#trust });
    this.#usedImages = new TrustOfUsedImages({ ...asking, ...kept, trust: this.#trust, log });
  }

  /** Makes memory and disk agree: hides images whose layers are gone, removes layers and blobs of unfinished pulls. */
  async start(): Promise<void> {
    const { layers, store, mounts, log } = this.#deps;
    this.#health.sortOut();
    mounts.start();
    await this.#ingest.start();
    await this.#trust.start();
    await this.#configs.start(new Set(store.images.all().map(({ id }) => id)));
    await this.#holds
      .removeUnused(unusedLayers(layers, this.#holds))
      .catch((err: unknown) => log.warn({ err }, 'layers without an image not removed'));
    // One that cannot be understood has been told of by then.
    await this.#registries.loadRules().catch((err: unknown) => {
      if (!isKind(err, 'invalid', 'precondition', 'permission')) throw err;
    });
  }

  /** Ends running pulls, which leave nothing visible. */
  async close(): Promise<void> {
    await this.#pulls.close(new BerthError('cancelled', 'berth is stopping'));
    await this.#ingest.close();
    await this.#deps.client.close();
  }

  /**
   * Pulls an image, or joins a pull of the same reference with the same credentials. One that is here is not asked for
   * again by digest, unless only credentials that this client does not bring have led to it. Throws `invalid` for a bad
   * reference, and errors that say which step failed where; those of an unavailable registry begin with
   * "RegistryUnavailable". A caller that leaves does not stop the pull as long as another one waits for it. `namespace`
   * is that of the pod that the pull is for, empty when there is none.
   */
  async pull(text: string, auth: RegistryAuth | undefined, signal: AbortSignal, namespace = ''): Promise<ImageRecord> {
    const { namespacedAuthDir } = this.#settings;
    const references = resolveReference(text, await this.#registries.loadRules());
    const own = await takeNamespacedAuth(namespacedAuthDir, { namespace, image: text }, this.#helpers);
    const policy = await this.#trust.policyOf(namespace).catch((err: unknown) => {
      throw wrap(`SignatureValidationFailed: pull ${text}`, err);
    });
    const brought = credentialFromRequest(auth);
    const proof = JSON.stringify([credentialKey(brought), auth?.serverAddress ?? '', own?.key]);
    const credentials = own ? [own, this.#authFile] : [this.#authFile];
    const common = { auth, credentials, proof: brought || own ? proof : undefined };
    return await firstThatPulls(references, signal, async (reference) => {
      const key = JSON.stringify([formatReference(reference), proof, policy.file]);
      const rule = ruleFor(policy, reference);
      return await this.#pulls.join(key, signal, (shared) => this.#pull({ ...common, reference, rule }, shared));
    });
  }

  /**
   * Throws UntrustedImageError, beginning with "SignatureValidationFailed", unless the policy of a namespace (empty: of
   * none) allows that an image runs. `asked` is what the client calls it: a name that the image has must be trusted; for
   * anything else, one of its names. Signatures are remembered from the pull; registries are asked for what is missing.
   */
  async checkTrust(image: ImageRecord, asked: string, namespace: string, signal: AbortSignal): Promise<void> {
    try {
      await this.#usedImages.check(image, asked, namespace, signal);
    } catch (err) {
      this.#tellRefusal(asked, err);
      throw err;
    }
  }

  /** What a pull would do, without asking a registry: planPull() of plan-pull.ts. */
  async plan(text: string, namespace: string, signal: AbortSignal): Promise<PullPlan[]> {
    const parts = { registries: this.#registries, credentials: [this.#authFile], trust: this.#trust };
    return await planPull(parts, text, namespace, signal);
  }

  /** True when rules for registries hold that were understood before their files became what they are now. */
  async holdsOlderRegistries(): Promise<boolean> {
    return await this.#registries.holdsOlderRules();
  }

  /** The paths of policies and of hosts.toml that do not hold as they are now, where what they said before does. */
  async olderFiles(): Promise<ReadonlySet<string>> {
    return new Set([...(await this.#registries.olderHosts()), ...(await this.#trust.olderPolicies())]);
  }

  /** The images that are here. */
  list(): readonly ImageRecord[] {
    return this.#catalog.list();
  }

  /**
   * The image that a client means: by full id, by tag or repo digest in any spelling, or by a prefix of its id. Throws
   * `invalid`, naming the client's field, for a text that can be none of these, and for an ambiguous prefix.
   */
  find(text: string, field = 'image.image'): ImageRecord | undefined {
    const byId = this.#catalog.byId(text) ?? this.#catalog.byId(`sha256:${text}`);
    if (byId) return byId;
    let references: ImageReference[] = [];
    let problem: unknown;
    try {
      references = candidateReferences(text, this.#registries.rules, field);
    } catch (err) {
      if (!isKind(err, 'invalid')) throw err;
      problem = err;
    }
    for (const reference of references) {
      const found = this.#catalog.byName(recordedName(reference));
      if (found) return found;
    }
    const found = this.#catalog.byIdPrefix(text, field);
    if (!found && problem !== undefined && !/^(?:sha256:)?[0-9a-f]{64}$/.test(text)) throw problem;
    return found;
  }

  /**
   * Removes the image that `find` finds, with all its names, and those of its layers that no other image has. An
   * unknown one is success. It is gone before anything is waited for; what is waited for, until `patience` ends, is the
   * space that it took. Throws `precondition` naming the containers that use it.
   */
  async remove(text: string, patience?: AbortSignal): Promise<void> {
    const image = this.find(text);
    if (!image) return await this.#removeLeftLayers();
    const users = this.#deps.usersOf(image.id);
    if (users.length > 0) {
      throw new BerthError('precondition', `image ${image.id} is in use by container ${users.slice(0, 5).join(', ')}`);
    }
    const [mounted] = this.#deps.mounts.of(image.id);
    if (mounted !== undefined) {
      throw new BerthError(
        'precondition',
        `image ${image.id} is mounted at ${mounted}; berth image unmount ${mounted} takes that away`,
      );
    }
    await this.#forget(image, patience);
  }

  /** Makes an image go that nothing uses, or one that is damaged. */
  async #forget(image: StoredImage, patience: AbortSignal = new AbortController().signal): Promise<void> {
    const { store, log, faults } = this.#deps;
    const [forget, clear] = REMOVE_PLACES;
    for (const diffId of image.layers) this.#leftLayers.add(diffId);
    await atPlace(faults, forget, async () => {
      store.transaction(() => store.images.delete(image.id));
      this.#catalog.delete(image.id);
      this.#damaged.delete(image.id);
      this.#configs.delete(image.id);
    });
    log.info({ image: image.id, tags: image.tags }, 'image removed');
    // From here on the image is gone for everybody; what stays on disk after a failure goes when the client asks again, or
    // at the next start.
    const explained = (err: unknown): never => {
      throw wrap(`image ${image.id} is removed, and not all of its layers are`, err);
    };
    const { freed } = await atPlace(faults, clear, async () => {
      // In an object: not waited for.
      return { freed: this.#holds.removeUnused(image.layers) };
    }).catch(explained);
    const done = freed.then(() => {
      for (const diffId of image.layers) this.#leftLayers.delete(diffId);
    }, explained);
    await raceSignal(done, patience).catch((err: unknown) => {
      if (!patience.aborted) throw err;
      void done.catch((late: unknown) => log.warn({ err: describe(late) }, 'space of a removed image not freed'));
    });
  }

  /** A removal that failed halfway is asked for again when its image is not there any more. */
  async #removeLeftLayers(): Promise<void> {
    const left = [...this.#leftLayers];
    if (left.length === 0) return;
    try {
      await this.#holds.removeUnused(left);
      for (const diffId of left) this.#leftLayers.delete(diffId);
    } catch (err) {
      this.#deps.log.warn({ layers: left, err: describe(err) }, 'layers of images that are gone are still there');
    }
  }

  /**
   * Takes in the images of an OCI layout (folder or tar) or of a `docker save` archive, and returns the names that each
   * was loaded under. A `name` stands in place of those in the archive: see nameImages(). Throws `invalid` for names that
   * are none, `precondition` for an archive that is damaged or for another platform; then none of the images that follow
   * the bad one appear.
   */
  async load(path: string, name: string, signal: AbortSignal): Promise<LoadedImage[]> {
    const archive = await this.#deps.readArchive(path, signal);
    try {
      const loaded: LoadedImage[] = [];
      const references = nameImages(path, archive, name);
      for (const [index, image] of archive.entries()) {
        const own = references[index] ?? [];
        const { id } = await this.#loadOne(path, image, own, signal);
        loaded.push({ id, names: recordedNames(own) });
      }
      return loaded;
    } finally {
      await Promise.all(archive.map((image) => image.dispose()));
    }
  }

  /**
   * An archive of images, which `load` and other tools take: archiveOf() of save-images.ts. It comes as fast as it is
   * read. Throws `notFound` for one that is not here, `precondition` for one that cannot be put together as it was.
   */
  async *save(texts: readonly string[], signal: AbortSignal): AsyncGenerator<Buffer, void, undefined> {
    const { layers, writeArchive } = this.#deps;
    const images = joinSaved(texts.map((text) => this.#saved(text)));
    const all = images.flatMap(({ image }) => image.layers);
    // A generator cannot be awaited in a callback: the layers are held for as long as it runs.
    const over = Promise.withResolvers<void>();
    const ready = Promise.withResolvers<void>();
    const held = this.#holds.during(all, signal, async () => {
      ready.resolve();
      await over.promise;
    });
    held.catch(ready.reject);
    try {
      await ready.promise;
      yield* writeArchive(await archiveOf(images, { configs: this.#configs, layers }), signal);
    } finally {
      over.resolve();
      await held.catch(() => {});
    }
  }

  /** How an image was built, newest step first. Throws `notFound`, and `precondition` when that is not known. */
  async history(text: string): Promise<readonly HistoryEntry[]> {
    const image = this.#get(text);
    if (image.artifactType !== undefined) {
      throw new BerthError('precondition', `${text} is an artifact (${image.artifactType}), which has no history`);
    }
    const config = await this.#configs.find(image.id);
    if (!config) {
      throw new BerthError(
        'precondition',
        `the history of image ${text} is not known: an older berthd pulled it; remove it and pull it again`,
      );
    }
    return imageHistory(config, this.#layerSizes());
  }

  /** How an image was built; undefined where its configuration does not say so, or is not kept. */
  async findBuild({ id, artifactType }: ImageRecord): Promise<ImageBuild | undefined> {
    if (artifactType !== undefined) return undefined;
    try {
      const config = await this.#configs.find(id);
      return config && imageBuild(config, this.#layerSizes());
    } catch (err) {
      this.#deps.log.debug({ image: id, err: describe(err) }, 'build of an image not known');
      return undefined;
    }
  }

  #layerSizes(): (diffId: string) => number {
    const sizes = new Map(this.#deps.layers.all().map(({ diffId, sizeBytes }) => [diffId, sizeBytes]));
    return (diffId) => sizes.get(diffId) ?? 0;
  }

  /**
   * Reads all layers of images, of all when none are named, and compares them with what was pulled. A damaged image is
   * not here any more afterwards: the next pull brings what is missing of it. Throws `notFound`.
   */
  async check(texts: readonly string[], signal: AbortSignal): Promise<readonly CheckedImage[]> {
    const known = this.#health.damaged();
    if (texts.length === 0) return [...known, ...(await this.#health.check(this.list(), signal))];
    const before = texts.map((text) => this.#health.findDamaged(text)?.id);
    const images = texts.flatMap((text, index) => (before[index] === undefined ? [this.#get(text)] : []));
    const damaged = known.filter(({ id }) => before.includes(id));
    return [...damaged, ...(await this.#health.check([...new Set(images)], signal))];
  }

  /** The images that were found damaged, and that no pull has mended since. */
  damaged(): readonly CheckedImage[] {
    return this.#health.damaged();
  }

  /** Mounts an image read-only at an empty folder, or at one that is made for it; returns where. Throws `notFound`. */
  mount(text: string, folder: string): string {
    return this.#deps.mounts.mount(this.#get(text), folder);
  }

  /** Takes away the mount at a folder, or all mounts of an image; returns where they were. Throws `notFound`. */
  unmount(text: string): readonly string[] {
    const { mounts } = this.#deps;
    const found = text.startsWith('/')
      ? mounts.unmount({ folder: text })
      : mounts.unmount({ imageId: this.#mounted(text) });
    if (found.length > 0) return found;
    const what = text.startsWith('/') ? `at ${text}` : `of image ${text}`;
    throw new BerthError('notFound', `nothing is mounted ${what} by berth image mount`);
  }

  /** The images that are mounted. */
  mounts(): readonly ImageMount[] {
    return this.#deps.mounts.list();
  }

  #get(text: string): ImageRecord {
    const image = this.find(text);
    if (image) return image;
    throw new BerthError('notFound', `image ${text} is not here`);
  }

  /** The id of the image that a text means, also of one that is mounted and not known any more. */
  #mounted(text: string): string {
    const mount = this.mounts().find(({ imageId, imageName }) => imageId === text || imageName === text);
    return mount?.imageId ?? this.#get(text).id;
  }

  /** An image that was asked for by a tag has that one in the archive, by anything else all that it has. */
  #saved(text: string): SavedImage {
    const image = this.#get(text);
    if (/^(?:sha256:)?[0-9a-f]+$/.test(text)) return { image, tags: image.tags };
    const meant = candidateReferences(text, this.#registries.rules).map(recordedName);
    const tags = image.tags.filter((tag) => meant.includes(tag));
    return { image, tags: tags.length > 0 ? tags : image.tags };
  }

  /** Follows other settings from now on; pulls that run go on as they began. */
  follow(settings: LiveImageSettings): void {
    this.#settings = settings;
    this.#catalog.setPinned(settings.pinnedImages);
  }

  /** How far the running pulls have come, oldest first; with a `text`, only those that it may mean. Throws `invalid`. */
  pullsInFlight(text = ''): readonly Readonly<PullProgress>[] {
    if (text === '') return [...this.#progress];
    const meant = new Set(candidateReferences(text, this.#registries.rules).map(formatReference));
    return [...this.#progress].filter(({ reference }) => meant.has(reference));
  }

  /** Finds what takes space and belongs to nothing, and removes it unless it is a dry run. */
  async prune(options: PruneOptions): Promise<Garbage[]> {
    const { layers, usersOf, log } = this.#deps;
    const [holds, ingest] = [this.#holds, this.#ingest];
    const parts = {
      images: this.list(),
      damaged: this.#damaged.list(),
      layers,
      holds,
      ingest,
      mounts: this.#deps.mounts,
      usersOf: (id: string) => [...usersOf(id), ...this.#deps.mounts.of(id)],
      removeImage: (id: string) => this.remove(id),
      removeDamaged: (image: StoredImage) => this.#forget(image),
    };
    const garbage = await prune(parts, options);
    if (!options.dryRun) log.info({ items: garbage.length }, 'image garbage removed');
    return garbage;
  }

  async #pull(asked: AskedPull, shared: AbortSignal): Promise<ImageRecord> {
    const { clock, meter, log } = this.#deps;
    const settings = this.#settings;
    const { reference } = asked;
    const name = formatReference(reference);
    const startedMs = clock.monotonicMs();
    const progress = newPullProgress(name, clock.nowUs(), clock.monotonicMs);
    this.#progress.add(progress);
    let outcome: Outcome = 'ok';
    try {
      using signal = withDeadline(`pull ${name}`, settings.pullTimeoutMs, shared);
      const deps = {
        ...this.#deps,
        ingest: this.#ingest,
        registries: this.#registries,
        trust: this.#trust,
        present: this.#present,
        holds: this.#holds,
        platform: this.#platform,
        maxParallelDownloads: settings.maxParallelDownloads,
        log: log.child({ image: name }),
      };
      const request = { ...asked, progress };
      const record = await pullImage(deps, request, signal, (image, evidence) => this.#appear(asked, image, evidence));
      const ms = Math.round(clock.monotonicMs() - startedMs);
      const from = progress.servedBy;
      log.info({ image: name, id: record.id, from, bytes: progress.traffic.bytes, ms }, 'image pulled');
      return record;
    } catch (err) {
      outcome = kindOf(err);
      meter.pullFailed(pullFailure(err));
      this.#tellRefusal(name, err);
      throw err;
    } finally {
      this.#progress.delete(progress);
      meter.pull(outcome, progress.traffic.bytes, (clock.monotonicMs() - startedMs) / 1000);
    }
  }

  #tellRefusal(image: string, err: unknown): void {
    if (!findCause(err, UntrustedImageError)) return;
    this.#deps.notices?.tell({ reason: 'ImageRefused', message: `image ${image} is not run: ${describe(err)}` });
  }

  async #appear(asked: AskedPull, image: ResolvedImage, trust: TrustEvidence): Promise<ImageRecord> {
    const { reference } = asked;
    const byDigest = `${repositoryOf(reference)}@${image.digest}`;
    const { annotations, artifactType } = image;
    const openDigests = asked.proof === undefined ? [byDigest] : [];
    const origin = { annotations, trust, openDigests, ...(artifactType === undefined ? {} : { artifactType }) };
    const names = [recordedName(reference), byDigest];
    const record = await this.#commit(image.configBytes, image.document, origin, names);
    return this.#present.named(record, asked, image.digest);
  }

  async #commit(
    configBytes: Buffer,
    { config, diffIds }: ConfigDocument,
    origin: Pick<StoredImage, 'annotations' | 'trust' | 'artifactType' | 'openDigests'>,
    names: readonly string[],
  ): Promise<ImageRecord> {
    const { layers, clock, store } = this.#deps;
    await this.#configs.put(configBytes);
    // A power cut must never leave the row without the layers that it speaks of.
    await layers.flush();
    this.#health.heal();
    const sizes = new Map(layers.all().map((layer) => [layer.diffId, layer.sizeBytes]));
    const layerBytes = [...new Set<string>(diffIds)].reduce((sum, diffId) => sum + (sizes.get(diffId) ?? 0), 0);
    const image = {
      id: digestOf(configBytes),
      tags: [],
      repoDigests: [],
      sizeBytes: layerBytes + configBytes.length,
      config,
      layers: diffIds,
      createdAtUs: clock.nowUs(),
      ...origin,
    };
    this.#configs.putBack(configBytes);
    return commitImage(this.#catalog, store, { image, names });
  }

  async #loadOne(
    path: string,
    image: ArchiveImage,
    references: readonly ImageReference[],
    signal: AbortSignal,
  ): Promise<ImageRecord> {
    const what = references[0] ? formatReference(references[0]) : path;
    const document = parseImageConfig(image.configBytes, `config of ${what} in ${path}`);
    this.#checkLoadable(what, image, document);
    const names = references.flatMap((reference) => {
      const digest = image.manifestDigest ?? '';
      return [recordedName(reference), ...(isDigest(digest) ? [`${repositoryOf(reference)}@${digest}`] : [])];
    });
    return await this.#holds.during(document.diffIds, signal, async () => {
      const missing = new Map(image.layers.map((layer) => [layer.diffId, layer]));
      for (const diffId of missing.keys()) if (this.#deps.layers.has(diffId)) missing.delete(diffId);
      await allOrAbort([...missing.values()], signal, async (layer, both) => {
        await this.#deps.layers.unpack(layer, layer.diffId, both).catch((err: unknown) => {
          throw wrap(`load ${what} from ${path}: layer ${layer.diffId}`, err);
        });
      });
      const openDigests = names.filter((own) => own.includes('@'));
      return await this.#commit(image.configBytes, document, { annotations: {}, openDigests }, [...new Set(names)]);
    });
  }

  #checkLoadable(what: string, image: ArchiveImage, document: ConfigDocument): void {
    const { platform, diffIds } = document;
    if (platform.architecture !== '' && !runsOn(this.#platform, { ...platform, variant: '' })) {
      const own = formatPlatform(this.#platform);
      throw new BerthError(
        'precondition',
        `${what} is an image for ${formatPlatform(platform)}, this machine is ${own}`,
      );
    }
    const offered = image.layers.map((layer) => layer.diffId);
    if (diffIds.length === 0 || JSON.stringify(offered) !== JSON.stringify(diffIds)) {
      throw new BerthError('precondition', `${what}: the archive's layers are not those of the image's config`);
    }
  }
}

/** Layers that no image has; those that something runs on stay, whatever became of their image. */
function unusedLayers(layers: LayerFolders, holds: LayerHolds): readonly string[] {
  const unused = holds.unused(layers.all().map((layer) => layer.diffId));
  if (unused.length === 0) return unused;
  const inUse = layers.inUse();
  return unused.filter((diffId) => !inUse.has(diffId));
}

function openTrust({ settings, programs, root, client, log }: ImagesDeps): Trust {
  const {
    signaturePolicy: file,
    signaturePolicyMayBeMissing: mayBeMissing,
    signaturePolicyDir: namespacesDir,
  } = settings;
  return new Trust({
    policies: new PolicyFiles({ file, mayBeMissing, namespacesDir }, log),
    gpg: new GpgSignatures(programs, join(root, 'image/gpgv')),
    sources: { client, lookasides: new LookasideFolder(settings.lookasideDir, log) },
    acceptsUnnamed: settings.acceptUnnamedSignatures ?? false,
  });
}

/** A short name may stand for several references; the registries say which of them there is. */
async function firstThatPulls<T>(
  references: readonly ImageReference[],
  signal: AbortSignal,
  pull: (reference: ImageReference) => Promise<T>,
): Promise<T> {
  const failures: unknown[] = [];
  for (const reference of references) {
    try {
      return await pull(reference);
    } catch (err) {
      signal.throwIfAborted();
      failures.push(err);
      if (!isKind(err, 'notFound', 'permission', 'unavailable')) break;
    }
  }
  const [first, ...more] = failures;
  if (more.length === 0) throw first;
  const last = more.at(-1);
  throw wrap(`no search registry has it (${failures.slice(0, -1).map(describe).join('; ')})`, last);
}
