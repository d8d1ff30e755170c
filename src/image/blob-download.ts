/**
 * Blobs on their way from a registry to the layer store, in one folder. A blob is visible under its digest only when it
 * is whole and verified. What a failed or killed pull leaves, whole or in part, stays for an hour: the next one goes on
 * where it ended, and verifies all of it again.
 */

import { randomBytes } from 'node:crypto';
import { createReadStream, renameSync, statSync } from 'node:fs';
import { type FileHandle, mkdir, open, readdir, rename, rm, statfs } from 'node:fs/promises';
import { basename, join } from 'node:path';

import { BerthError, findCause, wrap } from '../base/errors.ts';
import { KeyedLock } from '../base/keyed-lock.ts';
import { BlobArrival, type SharedArrival } from './blob-arrival.ts';
import type { Digest } from './digest.ts';
import { finishDigest, hashFor } from './digest.ts';
import { JoinedWork } from './joined-work.ts';
import type { Descriptor } from './manifest.ts';
import { Slots } from './parallel.ts';
import { RegistryError } from './registry-error.ts';

/** A blob's bytes from a position in it. */
export interface BlobBody {
  readonly from: number;
  readonly bytes: AsyncIterable<Uint8Array>;
}

/**
 * Opens a blob's bytes, again if need be, and hands them to `consume`. They may begin at `have()`, the number of bytes
 * that are here by then, or before it.
 */
export type BlobSource = (consume: (body: BlobBody) => Promise<void>, have: () => number) => Promise<void>;

/** Where a blob comes from. */
export interface BlobOrigin {
  /** The registry: downloads are shared only by those that name the same one. */
  readonly registry: string;
  open(signal: AbortSignal): BlobSource;
}

/** Hears how a blob comes. */
export interface BlobObserver {
  /** So many of its bytes are here, counted from the beginning. */
  reached(bytes: number): void;
  /** More bytes came over the network because of this observer; not called when it only joined. */
  transferred(more: number): void;
  /** Its file can be read from now on, while it grows. */
  opened(file: string, arrival: SharedArrival): void;
}

interface Download {
  readonly observers: Set<BlobObserver>;
  bytes: number;
  open: { readonly file: string; readonly arrival: SharedArrival } | undefined;
}

const KEEP_UNUSED_MS = 60 * 60 * 1000;
// Small enough to hash between two other tasks, large enough that the thread pool is not asked for each packet.
const WRITE_BYTES = 1024 * 1024;
/** What came over a slow line shall be seen, unpacked, and still be there after a crash. */
const WRITE_MS = 1000;
const NEVER = new AbortController().signal;
/** What a registry answers because of who asks, or for what repository. */
const REFUSALS: ReadonlySet<number> = Object.freeze(new Set([401, 403, 404, 429]));
const KEPT = /^sha(?:256-[0-9a-f]{64}|512-[0-9a-f]{128})(?:\.partial)?$/;

/** The folder of blobs in flight. */
export class BlobIngest {
  readonly #dir: string;
  readonly #uses = new Map<Digest, { count: number; discard: boolean }>();
  readonly #downloads = new JoinedWork<void>();
  readonly #running = new Map<string, Download>();
  /** Unfinished files that somebody adds to. */
  readonly #growing = new Set<string>();
  /** One that was abandoned may still wind up when the next one begins. */
  readonly #locks = new KeyedLock();
  /** One write at a time: more make no disk faster, and their threads take the processors of who serves. */
  readonly #writes = new Slots(1);
  #sweeper: NodeJS.Timeout | undefined;

  constructor(dir: string) {
    this.#dir = dir;
  }

  /** Makes the folder, and removes what an earlier process left in it but for blobs of the last hour. */
  async start(): Promise<void> {
    await mkdir(this.#dir, { recursive: true, mode: 0o700 });
    for (const name of await readdir(this.#dir)) {
      if (!KEPT.test(name)) await rm(join(this.#dir, name), { recursive: true, force: true });
    }
    await this.sweep(Date.now());
    this.#sweepLater();
  }

  /**
   * Claims a blob: while the claim is held, its file is not deleted. `file` is where `fetch` puts it. Release every
   * claim once; with `discard` the file, or what there is of it, goes when the last claim on it does.
   */
  claim(digest: Digest): { readonly file: string; release(discard: boolean): Promise<void> } {
    const use = this.#uses.get(digest) ?? { count: 0, discard: false };
    use.count += 1;
    this.#uses.set(digest, use);
    return {
      file: this.#path(digest),
      release: async (discard) => {
        use.count -= 1;
        use.discard ||= discard;
        if (use.count > 0) return;
        this.#uses.delete(digest);
        if (use.discard) await this.#trashAll(digest);
        else this.#sweepLater();
      },
    };
  }

  /**
   * Brings a claimed blob into its file: takes what an earlier pull left, if it verifies, and downloads the rest. Two who
   * ask one registry at once share one download; nobody waits for another registry, which may be slow or wrong, nor takes
   * what the registry says to somebody else for an answer. Throws RegistryError for wrong bytes, which do not stay;
   * `exhausted` when the disk is full.
   */
  async fetch(blob: Descriptor, origin: BlobOrigin, observer: BlobObserver, signal: AbortSignal): Promise<void> {
    // Of an image that says a wrong size, nothing is shared.
    const key = JSON.stringify([blob.digest, blob.size, origin.registry]);
    for (;;) {
      let isOwn = false;
      const running = this.#running.get(key);
      if (running) observe(running, observer);
      const start = async (shared: AbortSignal): Promise<void> => {
        isOwn = true;
        await this.#download(key, blob, origin, observer, shared);
      };
      try {
        return await this.#downloads.join(key, signal, start);
      } catch (err) {
        const status = findCause(err, RegistryError)?.status;
        if (isOwn || status === undefined || !REFUSALS.has(status)) throw err;
      } finally {
        for (const download of [running, this.#running.get(key)]) download?.observers.delete(observer);
      }
    }
  }

  async #download(
    key: string,
    blob: Descriptor,
    origin: BlobOrigin,
    observer: BlobObserver,
    signal: AbortSignal,
  ): Promise<void> {
    const download: Download = { observers: new Set([observer]), bytes: 0, open: undefined };
    this.#running.set(key, download);
    try {
      await this.#locks.withKey(key, signal, () => this.#fetch(blob, origin.open(signal), download, signal));
    } finally {
      if (this.#running.get(key) === download) this.#running.delete(key);
    }
  }

  /** Deletes blobs of failed pulls that nobody came back for within the hour. */
  async sweep(nowMs: number): Promise<void> {
    for (const name of await readdir(this.#dir).catch(() => [])) {
      const path = join(this.#dir, name);
      const modifiedMs = statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? nowMs;
      if (!this.#isClaimed(name) && nowMs - modifiedMs > KEEP_UNUSED_MS) await this.#trash(path);
    }
  }

  /** What is here and no pull counts on. */
  async unclaimed(): Promise<{ readonly name: string; readonly sizeBytes: number }[]> {
    const names = await readdir(this.#dir);
    return names
      .filter((name) => KEPT.test(name) && !this.#isClaimed(name))
      .map((name) => ({ name, sizeBytes: statSync(join(this.#dir, name), { throwIfNoEntry: false })?.size ?? 0 }));
  }

  /** Deletes what `unclaimed` named, unless a pull counts on it by now. */
  async discard(name: string): Promise<void> {
    if (KEPT.test(name) && !this.#isClaimed(name)) await this.#trash(join(this.#dir, name));
  }

  /** Aborts the downloads that run. */
  async close(): Promise<void> {
    clearTimeout(this.#sweeper);
    await this.#downloads.close(new BerthError('cancelled', 'berth is stopping'));
  }

  async #fetch(blob: Descriptor, source: BlobSource, download: Download, signal: AbortSignal): Promise<void> {
    const file = this.#path(blob.digest);
    const usual = `${file}.partial`;
    const isShared = !this.#growing.has(usual);
    const partial = isShared ? usual : `${file}.${randomBytes(6).toString('hex')}.partial`;
    this.#growing.add(partial);
    try {
      if (await isWhole(file, blob, signal)) {
        for (const observer of download.observers) observer.reached(blob.size);
        return;
      }
      const writer = await PartialBlob.open(partial, { blob, download, writes: this.#writes }, signal);
      try {
        if (!(await writer.isWhole())) {
          await source(
            (body) => writer.append(body, signal),
            () => writer.bytes,
          );
        }
        await rename(partial, file);
        writer.end(true);
      } finally {
        writer.end(false);
        await writer.close();
        // Nobody would look for one of a name of its own.
        if (writer.bytes === 0 || !isShared) await rm(partial, { force: true });
      }
    } catch (err) {
      throw await explainDisk(err, this.#dir);
    } finally {
      this.#growing.delete(partial);
    }
  }

  #isClaimed(name: string): boolean {
    return [...this.#uses.keys()].some((digest) => name.startsWith(basename(this.#path(digest))));
  }

  #path(digest: Digest): string {
    return join(this.#dir, digest.replace(':', '-'));
  }

  #sweepLater(): void {
    clearTimeout(this.#sweeper);
    this.#sweeper = setTimeout(() => void this.sweep(Date.now()).catch(() => {}), KEEP_UNUSED_MS + 1000);
    this.#sweeper.unref();
  }

  async #trashAll(digest: Digest): Promise<void> {
    const file = this.#path(digest);
    await Promise.all([this.#trash(file), this.#trash(`${file}.partial`)]);
  }

  /** Takes a file's name away at once, so that a claim a moment later finds nothing, and then its blocks. */
  async #trash(path: string): Promise<void> {
    const trash = `${path}.${randomBytes(6).toString('hex')}.trash`;
    try {
      renameSync(path, trash);
    } catch {
      return; // It never came to be.
    }
    // What cannot be deleted now is deleted at the next start.
    await rm(trash, { force: true }).catch(() => {});
  }
}

async function isWhole(file: string, blob: Descriptor, signal: AbortSignal): Promise<boolean> {
  if (statSync(file, { throwIfNoEntry: false })?.size !== blob.size) return false;
  const hash = hashFor(blob.digest);
  const bytes: AsyncIterable<Buffer> = createReadStream(file, { highWaterMark: WRITE_BYTES, signal });
  for await (const chunk of bytes) hash.update(chunk);
  return finishDigest(blob.digest, hash) === blob.digest;
}

/** What a blob's file is written with. */
interface PartialParts {
  readonly blob: Descriptor;
  readonly download: Download;
  readonly writes: Slots;
}

/** A blob's file while it grows. It is only added to, so that others can read what is there, unless it starts anew. */
class PartialBlob {
  readonly #handle: FileHandle;
  readonly #blob: Descriptor;
  readonly #download: Download;
  readonly #writes: Slots;
  #arrival = new BlobArrival();
  #hash: ReturnType<typeof hashFor>;
  #bytes = 0;
  #ended = false;

  private constructor(handle: FileHandle, { blob, download, writes }: PartialParts) {
    this.#handle = handle;
    this.#writes = writes;
    this.#blob = blob;
    this.#download = download;
    this.#hash = hashFor(blob.digest);
  }

  /** Opens it and takes in what an earlier pull left. */
  static async open(file: string, parts: PartialParts, signal: AbortSignal): Promise<PartialBlob> {
    const { blob, download } = parts;
    const handle = await open(file, 'a', 0o600);
    const partial = new PartialBlob(handle, parts);
    try {
      // More than there should be cannot be the beginning of it.
      if ((await handle.stat()).size > blob.size) await handle.truncate();
      const bytes: AsyncIterable<Buffer> = createReadStream(file, { highWaterMark: WRITE_BYTES, signal });
      for await (const chunk of bytes) partial.#take(chunk);
    } catch (err) {
      await handle.close();
      throw err;
    }
    partial.#reached();
    download.open = { file, arrival: partial.#arrival.shared };
    for (const observer of download.observers) observer.opened(file, download.open.arrival);
    return partial;
  }

  /** How many of its bytes are here. */
  get bytes(): number {
    return this.#bytes;
  }

  /** True when what an earlier pull left is all there is; wrong bytes are thrown away. */
  async isWhole(): Promise<boolean> {
    if (this.#bytes < this.#blob.size) return false;
    const isRight = this.#isRight();
    if (!isRight) await this.#startAnew();
    return isRight;
  }

  /**
   * Adds what comes after the bytes that are here already, and verifies the whole. Throws RegistryError for what is too
   * short, too long or wrong; the last two are not kept, and may be tried again where an earlier try brought a part.
   */
  async append({ from, bytes }: BlobBody, signal: AbortSignal): Promise<void> {
    const blob = this.#blob;
    const hadPart = this.#bytes > 0;
    let skip = this.#bytes - from;
    const pending: Uint8Array[] = [];
    let pendingBytes = 0;
    let writtenAtMs = performance.now();
    const write = async (): Promise<void> => {
      await this.#writes.run(NEVER, () => writeAll(this.#handle, pending));
      for (const chunk of pending.splice(0)) this.#take(chunk);
      pendingBytes = 0;
      writtenAtMs = performance.now();
      this.#reached();
    };
    try {
      for await (const chunk of bytes) {
        signal.throwIfAborted();
        this.#download.observers.values().next().value?.transferred(chunk.length);
        const more = chunk.subarray(Math.min(skip, chunk.length));
        skip -= chunk.length - more.length;
        if (more.length === 0) continue;
        pending.push(more);
        pendingBytes += more.length;
        if (this.#bytes + pendingBytes > blob.size) {
          pending.length = 0;
          await this.#startAnew();
          throw mismatch(blob, `is longer than the ${blob.size} bytes that its manifest says`, hadPart);
        }
        if (pendingBytes >= WRITE_BYTES || performance.now() - writtenAtMs >= WRITE_MS) await write();
      }
    } finally {
      await write();
    }
    if (this.#bytes < blob.size) throw mismatch(blob, `ends after ${this.#bytes} of ${blob.size} bytes`);
    if (this.#isRight()) return;
    const actual = finishDigest(blob.digest, this.#hash);
    await this.#startAnew();
    throw mismatch(blob, `has digest ${actual}`, hadPart);
  }

  /** Tells those who read it that no more comes; only the first word counts. */
  end(isWhole: boolean): void {
    if (!this.#ended) this.#arrival.end(isWhole);
    this.#ended = true;
  }

  async close(): Promise<void> {
    await this.#handle.close();
  }

  #isRight(): boolean {
    return finishDigest(this.#blob.digest, this.#hash.copy()) === this.#blob.digest;
  }

  /** Throws away what is here. Those who read it hear that it failed; nobody is told of the new beginning. */
  async #startAnew(): Promise<void> {
    this.#arrival.end(false);
    this.#arrival = new BlobArrival();
    this.#download.open = undefined;
    this.#hash = hashFor(this.#blob.digest);
    this.#bytes = 0;
    await this.#handle.truncate();
    this.#reached();
  }

  #take(chunk: Uint8Array): void {
    this.#hash.update(chunk);
    this.#bytes += chunk.length;
  }

  #reached(): void {
    this.#arrival.reached(this.#bytes);
    this.#download.bytes = this.#bytes;
    for (const observer of this.#download.observers) observer.reached(this.#bytes);
  }
}

function observe(download: Download, observer: BlobObserver): void {
  download.observers.add(observer);
  observer.reached(download.bytes);
  if (download.open) observer.opened(download.open.file, download.open.arrival);
}

async function writeAll(handle: FileHandle, chunks: readonly Uint8Array[]): Promise<void> {
  let rest = chunks;
  while (rest.length > 0) {
    const { bytesWritten } = await handle.writev(rest);
    rest = dropBytes(rest, bytesWritten);
  }
}

function dropBytes(chunks: readonly Uint8Array[], count: number): readonly Uint8Array[] {
  let left = count;
  return chunks.flatMap((chunk) => {
    const skip = Math.min(left, chunk.length);
    left -= skip;
    return skip === chunk.length ? [] : [chunk.subarray(skip)];
  });
}

function mismatch(blob: Descriptor, problem: string, retryable = false): RegistryError {
  return new RegistryError('unavailable', `blob ${blob.digest} ${problem}`, { status: 200, retryable });
}

/** Turns "no space left" into an error that says where, and how much is free. */
async function explainDisk(err: unknown, path: string): Promise<unknown> {
  const code = err instanceof Error && 'code' in err ? err.code : undefined;
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    const free = await statfs(path).then(
      (found) => `${found.bavail * found.bsize} bytes and ${found.ffree} inodes are free`,
      () => 'free space unknown',
    );
    return new BerthError('exhausted', `no space left in ${path}: ${free}`, { cause: err });
  }
  return err instanceof BerthError || code === undefined ? err : wrap(`write to ${path}`, err);
}
