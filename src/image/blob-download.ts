/**
 * Blobs on their way from a registry to the layer store. They live in one folder, are visible under their digest only
 * when they are whole and verified, and stay there after a failed pull for the next try, for an hour.
 */

import { randomBytes } from 'node:crypto';
import { createReadStream, renameSync, statSync } from 'node:fs';
import { type FileHandle, mkdir, open, readdir, rename, rm, statfs } from 'node:fs/promises';
import { basename, join } from 'node:path';

import { BerthError, wrap } from '../base/errors.ts';
import type { Digest } from './digest.ts';
import { finishDigest, hashFor } from './digest.ts';
import { JoinedWork } from './joined-work.ts';
import type { Descriptor } from './manifest.ts';
import { RegistryError } from './registry-error.ts';

/** Opens a blob's bytes, again if need be, and hands them to `consume`. */
export type BlobSource = (consume: (body: AsyncIterable<Uint8Array>) => Promise<void>) => Promise<void>;

const KEEP_UNUSED_MS = 60 * 60 * 1000;
// Small enough to hash between two other tasks, large enough that the thread pool is not asked for each packet.
const WRITE_BYTES = 256 * 1024;

/** The folder of blobs in flight. */
export class BlobIngest {
  readonly #dir: string;
  readonly #uses = new Map<Digest, { count: number; discard: boolean }>();
  readonly #downloads = new JoinedWork<void>();

  constructor(dir: string) {
    this.#dir = dir;
  }

  /** Empties the folder of what an earlier process left. */
  async start(): Promise<void> {
    await rm(this.#dir, { recursive: true, force: true });
    await mkdir(this.#dir, { recursive: true, mode: 0o700 });
  }

  /**
   * Claims a blob: while the claim is held, its file is not deleted. `file` is where `fetch` puts it. Release every
   * claim once; with `discard` the file goes when the last claim on it does.
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
        if (use.discard) await this.#trash(this.#path(digest));
      },
    };
  }

  /**
   * Brings a claimed blob into its file: takes what an earlier pull left, if it verifies, or else downloads it. Two who
   * ask at once share one download. `onBytes` hears how many more bytes arrived; a second try reports the bytes of the
   * failed one as negative. Throws RegistryError for wrong bytes, `exhausted` when the disk is full.
   */
  async fetch(
    blob: Descriptor,
    source: (signal: AbortSignal) => BlobSource,
    onBytes: (more: number) => void,
    signal: AbortSignal,
  ): Promise<void> {
    await this.#downloads.join(blob.digest, signal, async (shared) => {
      const file = this.#path(blob.digest);
      if (await isWhole(file, blob, shared)) return;
      const partial = `${file}.${randomBytes(6).toString('hex')}.partial`;
      try {
        await source(shared)((body) => writeVerified(partial, blob, body, onBytes, shared));
        await rename(partial, file);
      } catch (err) {
        throw await explainDisk(err, this.#dir);
      } finally {
        await rm(partial, { force: true });
      }
    });
  }

  /** Deletes the finished blobs of failed pulls that nobody came back for within the hour. */
  async sweep(nowMs: number): Promise<void> {
    for (const name of await readdir(this.#dir).catch(() => [])) {
      const path = join(this.#dir, name);
      const modifiedMs = statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? nowMs;
      const claimed = [...this.#uses.keys()].some((digest) => name.startsWith(basename(this.#path(digest))));
      if (!claimed && nowMs - modifiedMs > KEEP_UNUSED_MS) await this.#trash(path);
    }
  }

  /** Aborts the downloads that run. */
  async close(): Promise<void> {
    await this.#downloads.close(new BerthError('cancelled', 'berth is stopping'));
  }

  #path(digest: Digest): string {
    return join(this.#dir, digest.replace(':', '-'));
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

async function writeVerified(
  file: string,
  blob: Descriptor,
  body: AsyncIterable<Uint8Array>,
  onBytes: (more: number) => void,
  signal: AbortSignal,
): Promise<void> {
  const handle = await open(file, 'w', 0o600);
  let bytes = 0;
  try {
    const hash = hashFor(blob.digest);
    const pending: Uint8Array[] = [];
    let pendingBytes = 0;
    for await (const chunk of body) {
      signal.throwIfAborted();
      bytes += chunk.length;
      if (bytes > blob.size) throw mismatch(blob, `is longer than the ${blob.size} bytes that its manifest says`);
      onBytes(chunk.length);
      hash.update(chunk);
      pending.push(chunk);
      pendingBytes += chunk.length;
      if (pendingBytes >= WRITE_BYTES) {
        await writeAll(handle, pending.splice(0));
        pendingBytes = 0;
      }
    }
    await writeAll(handle, pending);
    if (bytes < blob.size) throw mismatch(blob, `ends after ${bytes} of ${blob.size} bytes`);
    const actual = finishDigest(blob.digest, hash);
    if (actual !== blob.digest) throw mismatch(blob, `has digest ${actual}`);
  } catch (err) {
    onBytes(-bytes);
    throw err;
  } finally {
    await handle.close();
  }
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

function mismatch(blob: Descriptor, problem: string): RegistryError {
  return new RegistryError('unavailable', `blob ${blob.digest} ${problem}`, { status: 200 });
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
