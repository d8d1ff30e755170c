/**
 * The layers on disk: each unpacked once, under its content's digest, however many images have it.
 *
 *     <root>/image/layers/<diff id's hex>/diff      the tree that overlayfs takes
 *     <root>/image/layers/<diff id's hex>/implied   folders that the layer does not describe, where there are any
 *     <root>/image/layers/<diff id's hex>/frame     its archive without the files' content: layer-frame.ts
 *     <root>/image/l/<short>                        link to a diff: mount options must fit into a page
 *
 * What turns out to be damaged is forgotten, so that the next pull brings it again; its folder goes when nothing runs on
 * it any more.
 */

import { randomBytes } from 'node:crypto';
import {
  constants,
  existsSync,
  readdirSync,
  readlinkSync,
  renameSync,
  statSync,
  symlinkSync,
  unlinkSync,
} from 'node:fs';
import { chmod, copyFile, link, mkdir, readdir, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';

import type { Clock } from '../base/clock.ts';
import { raceSignal } from '../base/deadline.ts';
import { BerthError, because, findCause, invalid } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import { isErrno, wrapErrno } from '../sys/errno.ts';
import { readMounts } from '../sys/mount.ts';
import { statfs } from '../sys/statfs.ts';
import type { KeptLayer } from './assemble-layer.ts';
import type { SharedArrival } from './blob-arrival.ts';
import { isDigest } from './digest.ts';
import type { DiskWorkers } from './disk-workers.ts';
import type { BlobInput } from './inflate.ts';
import { JoinedWork } from './joined-work.ts';
import { readLayerFacts } from './layer-frame.ts';
import { AbandonedJobError } from './running-disk-process.ts';
import { defaultTarLimits, type TarLimits } from './tar-reader.ts';
import type { DevicePolicy, UnpackedLayer } from './unpack-layer.ts';

/** A layer that is unpacked on disk. */
export interface LayerRow {
  readonly diffId: string;
  /** Space that it takes on disk. */
  readonly sizeBytes: number;
  readonly inodes: number;
  readonly createdAtUs: number;
}

/** Where layers are written down: what this file needs of src/store. */
export interface LayerRows {
  putLayer(layer: LayerRow): void;
  deleteLayer(diffId: string): void;
  allLayers(): LayerRow[];
}

/** What the layer store is built from. */
export interface LayerStoreDeps {
  /** Berth's root folder. */
  readonly root: string;
  readonly rows: LayerRows;
  readonly workers: DiskWorkers;
  readonly log: Logger;
  readonly clock: Clock;
  readonly limits?: TarLimits;
  /** What becomes of device nodes; they are made unless it says otherwise. */
  readonly devices?: DevicePolicy;
}

const SHORTEST = 6;
const FRAME = 'frame';
const IMPLIED = 'implied';
/** Before the hex of a layer: a folder that another one took the place of while containers ran on it. */
const KEPT = '.kept-';

/** One file of an artifact: a verified blob, and the path that it gets. */
export interface PlacedFile {
  readonly path: string;
  readonly name: string;
  /** The blob is the archive of a folder of that name. */
  readonly isFolder: boolean;
}

/** All layers of this node. */
export class LayerStore {
  readonly #deps: LayerStoreDeps;
  readonly #folder: string;
  readonly #links: string;
  readonly #rows = new Map<string, LayerRow>();
  readonly #shortNames = new Map<string, string>();
  readonly #unpacking = new JoinedWork<LayerRow>();
  readonly #arrivals = new WeakMap<SharedArrival, number>();
  #lastArrival = 0;
  /** Temporary folders that somebody is at work on. */
  readonly #busy = new Set<string>();
  /** Folders whose removal is under way, with the layers that they were; those of what is no layer without. */
  readonly #freeing = new Map<string, { readonly row: LayerRow | undefined; readonly work: Promise<void> }>();
  readonly #closing = new AbortController();

  /** Loads what the rows say. Call `start` before anything else. */
  constructor(deps: LayerStoreDeps) {
    this.#deps = deps;
    this.#folder = join(deps.root, 'image/layers');
    this.#links = join(deps.root, 'image/l');
    for (const row of deps.rows.allLayers()) this.#rows.set(row.diffId, row);
  }

  /** Makes rows and folders agree. What no row owns, and no mount needs, is removed in the background. */
  async start(): Promise<void> {
    const { log, rows } = this.#deps;
    for (const folder of [this.#folder, this.#links]) {
      await mkdir(folder, { recursive: true, mode: 0o700 });
      // Setuid programs are in there, which no user of the host may run. Earlier versions let others through.
      await chmod(folder, 0o700);
    }
    for (const { diffId } of this.#rows.values()) {
      const problem = this.#quickProblem(diffId);
      if (problem === undefined) continue;
      log.warn({ layer: diffId, problem }, 'layer is damaged: the next pull of an image with it brings it again');
      rows.deleteLayer(diffId);
      this.#rows.delete(diffId);
    }
    // Renamed first: their names may be wanted at any moment from now on.
    const trash = this.strays().map((name) => this.#renameToTrash(join(this.#folder, name)));
    this.#checkLinks();
    for (const folder of trash) this.#freeLater(folder);
  }

  /** True when the layer is here. */
  has(diffId: string): boolean {
    return this.#rows.has(diffId);
  }

  /** The layers that are here. */
  all(): readonly LayerRow[] {
    return [...this.#rows.values()];
  }

  /** The folder of a layer's tree. Throws `invalid` for what is no digest. */
  path(diffId: string): string {
    return join(this.#folder, hexOf(diffId), 'diff');
  }

  /** The name of a layer's link in `linkFolder`. Throws `notFound` for a layer that is not here. */
  shortName(diffId: string): string {
    const short = this.#shortNames.get(diffId);
    if (short !== undefined && this.#rows.has(diffId)) return short;
    throw new BerthError('notFound', `layer ${diffId} is not on disk`);
  }

  /** The folder of the short links. */
  get linkFolder(): string {
    return this.#links;
  }

  /** The file of the folders of a layer that take after lower layers (implied-folders.ts); it need not be there. */
  impliedPath(diffId: string): string {
    return join(this.#folder, hexOf(diffId), IMPLIED);
  }

  /** Says that layers will be unpacked soon. */
  prepare(): void {
    this.#deps.workers.prepare();
  }

  /**
   * Unpacks a blob into its own folder, unless it is here; two who bring the same file share the work. Whoever brings
   * another one does not wait for theirs, which may be slow or broken, or still to come: the first that is unpacked counts.
   * Verifies that it unpacks to `diffId`. Throws `invalid` naming the member that is refused, `precondition` for another digest,
   * `exhausted` when the disk is full; nothing of it is left then.
   */
  async unpack(blob: BlobInput, diffId: string, signal: AbortSignal): Promise<LayerRow> {
    const key = JSON.stringify([diffId, blob.path, blob.compression, this.#numberOf(blob.arrival)]);
    return (
      this.#rows.get(diffId) ??
      (await this.#unpacking.join(key, signal, (shared) =>
        this.#make(diffId, (target) => this.#unpack(blob, target, diffId, shared), shared),
      ))
    );
  }

  /**
   * Makes a layer of one file of an artifact, with root's ownership and mode 0644, or of the folder whose archive the
   * file is. The bytes must have been verified; they are shared with `path` where the file system can. Throws as
   * `unpack` does, and leaves nothing then.
   */
  async placeFile(file: PlacedFile, layerId: string, signal: AbortSignal): Promise<LayerRow> {
    return (
      this.#rows.get(layerId) ??
      (await this.#unpacking.join(layerId, signal, (shared) =>
        this.#make(
          layerId,
          (target) => (file.isFolder ? this.#unpackFolder(file, target, shared) : place(file, target)),
          shared,
        ),
      ))
    );
  }

  /** The layer as its archive can be made of again; undefined for one whose frame is not kept. */
  archived(diffId: string): { readonly layer: KeptLayer; readonly sizeBytes: number } | undefined {
    const frame = this.#framePath(diffId);
    const facts = readLayerFacts(frame);
    return facts && { layer: { diffId, diff: this.path(diffId), frame }, sizeBytes: facts.archiveBytes };
  }

  /**
   * Reads all of a layer that is here, and returns what is wrong with it; one that is damaged is forgotten by then.
   * Undefined for one that there is nothing to compare with.
   */
  async check(diffId: string, signal: AbortSignal): Promise<readonly string[] | undefined> {
    const quick = this.#quickProblem(diffId);
    const archived = quick === undefined ? this.archived(diffId) : undefined;
    if (quick === undefined && !archived) return undefined;
    const problems = archived
      ? (await this.#deps.workers.run('check', archived.layer, signal)).problems
      : [quick ?? ''];
    if (problems.length > 0 && this.#rows.has(diffId)) {
      this.#deps.log.error({ layer: diffId, problems }, 'layer is damaged: the next pull of an image with it mends it');
      this.#deps.rows.deleteLayer(diffId);
      this.#rows.delete(diffId);
    }
    return problems;
  }

  /** The layers that mounted overlays are made of. */
  inUse(): ReadonlySet<string> {
    const mounted = this.#mounted();
    return new Set([...this.#rows.keys()].filter((diffId) => mounted.has(hexOf(diffId))));
  }

  /**
   * Removes a layer; an unknown one is success. It is gone when this returns, and may be unpacked anew; its space is free
   * when the promise resolves. Whatever ends berthd before that, the next start frees the rest.
   */
  async remove(diffId: string): Promise<void> {
    const row = this.#rows.get(diffId);
    if (!row) return;
    this.#deps.rows.deleteLayer(diffId);
    this.#rows.delete(diffId);
    const short = this.#shortNames.get(diffId);
    this.#shortNames.delete(diffId);
    if (short !== undefined) unlinkIfThere(join(this.#links, short));
    await this.#free(this.#renameToTrash(join(this.#folder, hexOf(diffId))), row);
  }

  /** What removed layers still take, as far as that is known. */
  freeing(): readonly LayerRow[] {
    return [...this.#freeing.values()].flatMap(({ row }) => row ?? []);
  }

  /** Resolves when nothing is being removed any more, whether it could be or not. */
  async freed(): Promise<void> {
    await Promise.allSettled([...this.#freeing.values()].map(({ work }) => work));
  }

  /** Folders beside the layers that no row owns, no mount needs and nobody is at work on. */
  strays(): readonly string[] {
    const owned = new Set([...this.#rows.keys()].map(hexOf));
    const unowned = readdirSync(this.#folder).filter(
      (name) => !owned.has(name) && !this.#busy.has(join(this.#folder, name)),
    );
    // A program whose record was lost may run on them.
    const mounted = unowned.length > 0 ? this.#mounted() : new Set();
    return unowned.filter(
      (name) => !mounted.has(name.startsWith(KEPT) ? name.slice(KEPT.length, name.lastIndexOf('-')) : name),
    );
  }

  /** Removes one of the `strays`; one that is none any more stays. */
  async removeStray(name: string): Promise<void> {
    if (!this.strays().includes(name)) return;
    await this.#free(this.#renameToTrash(join(this.#folder, name)));
  }

  /** Resolves when all that was unpacked so far is on stable storage. Throws the signal's reason; the work goes on then. */
  async flush(signal: AbortSignal): Promise<void> {
    await raceSignal(this.#deps.workers.run('sync', this.#folder), signal);
  }

  /** Ends unpacks that run, which leave nothing, and removals, of which the next start does the rest. */
  async close(): Promise<void> {
    const stopping = new BerthError('cancelled', 'berth is stopping');
    this.#closing.abort(stopping);
    await this.#unpacking.close(stopping);
    await this.freed();
  }

  /** A file that is still to come may have the name of one that came to nothing. */
  #numberOf(arrival: SharedArrival | undefined): number {
    if (!arrival) return 0;
    const known = this.#arrivals.get(arrival);
    if (known !== undefined) return known;
    this.#lastArrival += 1;
    this.#arrivals.set(arrival, this.#lastArrival);
    return this.#lastArrival;
  }

  async #unpack(
    blob: BlobInput,
    target: string,
    diffId: string | undefined,
    signal: AbortSignal,
  ): Promise<UnpackedLayer> {
    const { limits = defaultTarLimits, devices } = this.#deps;
    // Only a whole layer is put together again.
    const frame = diffId === undefined ? undefined : join(dirname(target), FRAME);
    const implied = join(dirname(target), IMPLIED);
    return await this.#deps.workers.run('unpack', { blob, target, diffId, limits, devices, frame, implied }, signal);
  }

  /** As oras makes it: all names in the archive begin with the folder's own. */
  async #unpackFolder({ path, name }: PlacedFile, target: string, signal: AbortSignal): Promise<UnpackedLayer> {
    const unpacked = await this.#unpack({ path, compression: 'detect' }, target, undefined, signal);
    const [top] = name.split('/');
    const stray = (await readdir(target)).find((found) => found !== top);
    if (stray === undefined) return unpacked;
    throw invalid(
      'name',
      `${JSON.stringify(stray)} in the archive of the folder ${JSON.stringify(name)} is outside of it`,
    );
  }

  /** Fills a temporary folder, and then makes it a layer. */
  async #make(
    diffId: string,
    fill: (target: string) => Promise<UnpackedLayer>,
    signal: AbortSignal,
  ): Promise<LayerRow> {
    const { workers, rows, clock, log } = this.#deps;
    const final = join(this.#folder, hexOf(diffId));
    const temporary = this.#temporary();
    const startedMs = clock.monotonicMs();
    let isPlaced = false;
    try {
      await mkdir(temporary, { mode: 0o711 });
      const { sizeBytes, inodes } = await fill(join(temporary, 'diff'));
      signal.throwIfAborted();
      // A removal that failed half way may have left one that no row owns, and one that is damaged may be in use.
      if (!this.#rows.has(diffId) && existsSync(final)) this.#makeRoom(final);
      const other = this.#rows.get(diffId);
      if (other) {
        await workers.run('remove', temporary).catch(() => {});
        return other;
      }
      renameSync(temporary, final);
      isPlaced = true;
      const row = { diffId, sizeBytes, inodes, createdAtUs: clock.nowUs() };
      this.#link(diffId);
      rows.putLayer(row);
      this.#rows.set(diffId, row);
      log.debug(
        { layer: diffId, sizeBytes, inodes, ms: Math.round(clock.monotonicMs() - startedMs) },
        'layer unpacked',
      );
      return row;
    } catch (err) {
      const left = isPlaced ? final : temporary;
      if (!findCause(err, AbandonedJobError) && existsSync(left)) await workers.run('remove', left).catch(() => {});
      throw this.#explained(err);
    } finally {
      this.#busy.delete(temporary);
    }
  }

  #makeRoom(folder: string): void {
    const hex = basename(folder);
    if (this.#mounted().has(hex)) {
      renameSync(folder, join(this.#folder, `${KEPT}${hex}-${randomBytes(8).toString('hex')}`));
    } else {
      this.#freeLater(this.#renameToTrash(folder));
    }
  }

  /** What a look at a layer tells without reading it. */
  #quickProblem(diffId: string): string | undefined {
    const names = namesIn(this.path(diffId));
    if (names === undefined) return 'its folder is gone';
    const facts = readLayerFacts(this.#framePath(diffId));
    if (!facts || facts.topNames === names) return undefined;
    return `its folder has ${names} names, and had ${facts.topNames}`;
  }

  #framePath(diffId: string): string {
    return join(this.#folder, hexOf(diffId), FRAME);
  }

  #explained(err: unknown): unknown {
    const wrapped = wrapErrno(`unpack into ${this.#folder}`, err);
    if (wrapped.kind !== 'exhausted') return wrapped;
    const { availableBytes, freeInodes } = statfs(this.#folder);
    const free = `${availableBytes} bytes and ${freeInodes} inodes are free`;
    return because('exhausted', `no room for the layer in ${this.#folder}: ${free}`, err);
  }

  /** The shortest name that no other layer has. */
  #link(diffId: string): void {
    const hex = hexOf(diffId);
    const target = join('../layers', hex, 'diff');
    for (let length = SHORTEST; length <= hex.length; length += 1) {
      const short = hex.slice(0, length);
      try {
        symlinkSync(target, join(this.#links, short));
      } catch (err) {
        if (!isErrno(err, 'EEXIST')) throw err;
        if (readlinkSync(join(this.#links, short)) !== target) continue;
      }
      this.#shortNames.set(diffId, short);
      return;
    }
  }

  /** Links of layers that are gone go first, so that they take no name. */
  #checkLinks(): void {
    for (const short of readdirSync(this.#links)) {
      const path = join(this.#links, short);
      if (statSync(path, { throwIfNoEntry: false }) === undefined) unlinkIfThere(path);
    }
    for (const diffId of this.#rows.keys()) this.#link(diffId);
  }

  /** Folders of layers that overlays are made of, as far as these name them by their links. */
  #mounted(): Set<string> {
    const lowers = readMounts()
      .filter(({ type }) => type === 'overlay')
      .flatMap(({ superOptions }) => superOptions.filter((option) => option.startsWith('lowerdir')))
      .flatMap((option) => option.slice(option.indexOf('=') + 1).split(':'));
    const links = new Set(lowers.map((path) => basename(path)));
    return new Set(
      readdirSync(this.#links)
        .filter((name) => links.has(name))
        .map((name) => basename(dirname(readlinkSync(join(this.#links, name))))),
    );
  }

  /** Removes a folder that was renamed to trash. */
  async #free(folder: string, row?: LayerRow): Promise<void> {
    const { signal } = this.#closing;
    const remove = (): Promise<unknown> => this.#deps.workers.run('discard', folder, signal);
    // What fails twice stays until the next start, or until somebody prunes.
    const work = remove().catch(async (err: unknown) => {
      if (signal.aborted) throw err;
      await remove();
    }) as Promise<void>;
    this.#freeing.set(folder, { row, work });
    try {
      await work;
    } catch (err) {
      if (!signal.aborted) throw err;
    } finally {
      this.#freeing.delete(folder);
      this.#busy.delete(folder);
    }
  }

  /** For what nobody waits for: others may be before it. */
  #freeLater(folder: string): void {
    this.#free(folder).catch((err: unknown) => this.#deps.log.warn({ err, folder }, 'left-over layer not removed'));
  }

  #renameToTrash(folder: string): string {
    const trash = this.#temporary();
    renameSync(folder, trash);
    return trash;
  }

  #temporary(): string {
    const folder = join(this.#folder, `.tmp-${randomBytes(8).toString('hex')}`);
    this.#busy.add(folder);
    return folder;
  }
}

/** Puts a file below a new folder that nobody else knows. */
async function place({ path, name }: PlacedFile, target: string): Promise<UnpackedLayer> {
  const components = name.split('/');
  const folders = components.map((_, index) => join(target, ...components.slice(0, index)));
  for (const folder of folders) {
    await mkdir(folder);
    // The umask may have taken some of it.
    await chmod(folder, 0o755);
  }
  const file = join(target, name);
  await link(path, file).catch(async (err: unknown) => {
    if (!isErrno(err, 'EXDEV', 'EMLINK', 'EPERM')) throw err;
    await copyFile(path, file, constants.COPYFILE_FICLONE);
  });
  await chmod(file, 0o644);
  const { blocks } = await stat(file);
  return { sizeBytes: folders.length * 4096 + blocks * 512, inodes: folders.length + 1 };
}

function hexOf(diffId: string): string {
  if (isDigest(diffId)) return diffId.slice(diffId.indexOf(':') + 1);
  throw invalid('diffId', `${JSON.stringify(diffId.slice(0, 80))} is no sha256 or sha512 digest`);
}

/** How many names a folder has; undefined for one that is not there. */
function namesIn(folder: string): number | undefined {
  try {
    return readdirSync(folder).length;
  } catch (err) {
    if (isErrno(err, 'ENOENT', 'ENOTDIR')) return undefined;
    throw wrapErrno(`read ${folder}`, err);
  }
}

function unlinkIfThere(path: string): void {
  try {
    unlinkSync(path);
  } catch (err) {
    if (!isErrno(err, 'ENOENT')) throw err;
  }
}
