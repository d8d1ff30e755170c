/**
 * The image room's facade. Images are listed and found in memory; a pull (image-pulls.ts) or a load (image-archives.ts)
 * brings layers into the layer store, and then one transaction makes the image appear (settled-images.ts).
 */

import { join } from 'node:path';

import type { Clock } from '../base/clock.ts';
import { BerthError, isKind } from '../base/errors.ts';
import type { FaultPoints } from '../base/fault-points.ts';
import type { Logger } from '../base/log.ts';
import type { Meter } from '../base/meter.ts';
import type { Notices } from '../base/notices.ts';
import type { Tracing } from '../base/tracing.ts';
import type { RegistryAuth } from './auth.ts';
import { AuthFile } from './auth-file.ts';
import { BlobIngest } from './blob-download.ts';
import { CredentialHelpers, type ProgramRunner } from './credential-helpers.ts';
import { DamagedImages } from './damaged-images.ts';
import { GpgSignatures } from './gpg-signatures.ts';
import { type ArchiveImage, ImageArchives, type LoadedImage } from './image-archives.ts';
import { ImageBuilds } from './image-builds.ts';
import { ImageCatalog } from './image-catalog.ts';
import type { ImageStore } from './image-commit.ts';
import { ImageConfigs } from './image-configs.ts';
import { type CheckedImage, ImageHealth } from './image-health.ts';
import type { HistoryEntry, ImageBuild } from './image-history.ts';
import type { ImageMount } from './image-mounts.ts';
import { ImagePulls } from './image-pulls.ts';
import type { ImageRecord, StoredImage } from './image-record.ts';
import { ImageRemoval } from './image-removal.ts';
import type { ImageSettings, LiveImageSettings } from './image-settings.ts';
import { type LayerFolders, LayerHolds } from './layer-holds.ts';
import { NamedImages } from './named-images.ts';
import { type PullPlan, planPull } from './plan-pull.ts';
import { hostPlatform, type Platform } from './platform.ts';
import { PolicyFiles } from './policy-files.ts';
import { PresentImages } from './present-images.ts';
import { type Garbage, type PruneOptions, prune } from './prune.ts';
import type { PullProgress } from './pull-progress.ts';
import { Registries, registriesPlaces } from './registries.ts';
import { LookasideFolder } from './registries-d.ts';
import type { RegistryClient } from './registry-client.ts';
import { SettledImages } from './settled-images.ts';
import { Trust } from './trust.ts';
import { TrustOfUsedImages } from './used-images.ts';
import type { ArchiveEntry } from './write-archive.ts';

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

/** All images of this node. */
export class Images {
  readonly #deps: ImagesDeps;
  readonly #catalog: ImageCatalog;
  readonly #damaged = new DamagedImages();
  readonly #health: ImageHealth;
  readonly #configs: ImageConfigs;
  readonly #holds: LayerHolds;
  readonly #ingest: BlobIngest;
  readonly #authFile: AuthFile;
  readonly #trust: Trust;
  readonly #usedImages: TrustOfUsedImages;
  readonly #registries: Registries;
  readonly #named: NamedImages;
  readonly #pulls: ImagePulls;
  readonly #archives: ImageArchives;
  readonly #removal: ImageRemoval;
  readonly #builds: ImageBuilds;

  /** Loads the images that the store has. Call `start` before the first pull. */
  constructor(deps: ImagesDeps) {
    const { settings, layers, mounts, log } = deps;
    const platform = deps.platform ?? hostPlatform();
    this.#deps = deps;
    this.#catalog = new ImageCatalog(settings.pinnedImages);
    for (const image of deps.store.images.all()) this.#catalog.put(image);
    const isOwned = (diffId: string): boolean => this.#catalog.ownsLayer(diffId) || this.#damaged.ownsLayer(diffId);
    this.#holds = new LayerHolds(layers, isOwned, log);
    this.#health = new ImageHealth({ ...deps, catalog: this.#catalog, damaged: this.#damaged, holds: this.#holds });
    this.#configs = new ImageConfigs(deps.root);
    this.#ingest = new BlobIngest(join(deps.root, 'image/ingest'));
    const helpers = new CredentialHelpers(deps.programs);
    this.#authFile = new AuthFile(settings.authFile, helpers);
    this.#trust = openTrust(deps);
    this.#registries = new Registries(registriesPlaces(settings), log);
    this.#named = new NamedImages(this.#catalog, this.#registries);
    const asking = { registries: this.#registries, trust: this.#trust };
    const kept = { catalog: this.#catalog, store: deps.store, configs: this.#configs, holds: this.#holds };
    const settled = new SettledImages({ ...deps, ...kept, health: this.#health });
    const present = new PresentImages({ ...kept, layers, trust: this.#trust });
    const pulling = { ingest: this.#ingest, authFile: this.#authFile, helpers, holds: this.#holds, platform };
    this.#pulls = new ImagePulls({ ...deps, ...asking, ...pulling, present, settled }, settings);
    this.#archives = new ImageArchives({ ...deps, ...kept, named: this.#named, settled, platform });
    const mountsOf = (id: string): readonly string[] => mounts.of(id);
    this.#removal = new ImageRemoval({ ...deps, ...kept, damaged: this.#damaged, mountsOf });
    this.#builds = new ImageBuilds({ configs: this.#configs, layers, log });
    this.#usedImages = new TrustOfUsedImages({ ...asking, ...kept, credentials: [this.#authFile], log });
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
    return await this.#pulls.pull(text, auth, signal, namespace);
  }

  /** How far the running pulls have come, oldest first; with a `text`, only those that it may mean. Throws `invalid`. */
  pullsInFlight(text = ''): readonly Readonly<PullProgress>[] {
    return this.#pulls.inFlight(text);
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
      this.#pulls.tellRefusal(asked, err);
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
    return this.#named.find(text, field);
  }

  /**
   * Removes the image that `find` finds, with all its names, and those of its layers that no other image has. An
   * unknown one is success. It is gone before anything is waited for; what is waited for, until `patience` ends, is the
   * space that it took. Throws `precondition` naming the containers that use it.
   */
  async remove(text: string, patience?: AbortSignal): Promise<void> {
    const image = this.find(text);
    if (image) await this.#removal.remove(image, patience);
    else await this.#removal.removeLeftLayers();
  }

  /**
   * Takes in the images of an OCI layout (folder or tar) or of a `docker save` archive, and returns the names that each
   * was loaded under. A `name` stands in place of those in the archive: see nameImages(). Throws `invalid` for names that
   * are none, `precondition` for an archive that is damaged or for another platform; then none of the images that follow
   * the bad one appear.
   */
  async load(path: string, name: string, signal: AbortSignal): Promise<LoadedImage[]> {
    return await this.#archives.load(path, name, signal);
  }

  /**
   * An archive of images, which `load` and other tools take: archiveOf() of save-images.ts. It comes as fast as it is
   * read. Throws `notFound` for one that is not here, `precondition` for one that cannot be put together as it was.
   */
  save(texts: readonly string[], signal: AbortSignal): AsyncGenerator<Buffer, void, undefined> {
    return this.#archives.save(texts, signal);
  }

  /** How an image was built, newest step first. Throws `notFound`, and `precondition` when that is not known. */
  async history(text: string): Promise<readonly HistoryEntry[]> {
    return await this.#builds.history(this.#named.get(text), text);
  }

  /** How an image was built; undefined where its configuration does not say so, or is not kept. */
  async findBuild(image: ImageRecord): Promise<ImageBuild | undefined> {
    return await this.#builds.find(image);
  }

  /**
   * Reads all layers of images, of all when none are named, and compares them with what was pulled. A damaged image is
   * not here any more afterwards: the next pull brings what is missing of it. Throws `notFound`.
   */
  async check(texts: readonly string[], signal: AbortSignal): Promise<readonly CheckedImage[]> {
    const known = this.#health.damaged();
    if (texts.length === 0) return [...known, ...(await this.#health.check(this.list(), signal))];
    const before = texts.map((text) => this.#health.findDamaged(text)?.id);
    const images = texts.flatMap((text, index) => (before[index] === undefined ? [this.#named.get(text)] : []));
    const damaged = known.filter(({ id }) => before.includes(id));
    return [...damaged, ...(await this.#health.check([...new Set(images)], signal))];
  }

  /** The images that were found damaged, and that no pull has mended since. */
  damaged(): readonly CheckedImage[] {
    return this.#health.damaged();
  }

  /** Mounts an image read-only at an empty folder, or at one that is made for it; returns where. Throws `notFound`. */
  mount(text: string, folder: string): string {
    return this.#deps.mounts.mount(this.#named.get(text), folder);
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
      removeDamaged: (image: StoredImage) => this.#removal.forget(image),
    };
    const garbage = await prune(parts, options);
    if (!options.dryRun) log.info({ items: garbage.length }, 'image garbage removed');
    return garbage;
  }

  /** Follows other settings from now on; pulls that run go on as they began. */
  follow(settings: LiveImageSettings): void {
    this.#pulls.follow(settings);
    this.#catalog.setPinned(settings.pinnedImages);
  }

  /** The id of the image that a text means, also of one that is mounted and not known any more. */
  #mounted(text: string): string {
    const mount = this.mounts().find(({ imageId, imageName }) => imageId === text || imageName === text);
    return mount?.imageId ?? this.#named.get(text).id;
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
