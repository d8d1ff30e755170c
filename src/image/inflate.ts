/** The uncompressed bytes of a blob file: plain, gzip or zstd. For worker threads: it reads synchronously. */

import { closeSync, openSync, readSync } from 'node:fs';
import { Readable } from 'node:stream';
import { createGunzip, createZstdDecompress } from 'node:zlib';

import { BerthError, because, invalid } from '../base/errors.ts';
import { wrapErrno } from '../sys/errno.ts';
import { type IsalGunzip, openIsal } from '../sys/isal.ts';
import { type SharedArrival, waitForArrival } from './blob-arrival.ts';

/** How a blob is compressed; `detect` looks at its first bytes. */
export type Compression = 'none' | 'gzip' | 'zstd' | 'detect';

/** A blob's file, and how it is read. */
export interface BlobInput {
  readonly path: string;
  readonly compression: Compression;
  /** Set for a file that still grows: reading waits for what is not there yet. */
  readonly arrival?: SharedArrival | undefined;
  /** The fastest there is for gzip unless a test says otherwise. */
  readonly gunzip?: 'isal' | 'zlib' | undefined;
}

const READ_BYTES = 256 * 1024;
/** Large, so that the pool inflates the next chunk while the last one is being written to disk. */
const INFLATED_BYTES = 512 * 1024;
const ZSTD_MAGIC = 0xfd2fb528;

/** Looked for once in each thread. */
const isal = openIsal();

/**
 * Reads and inflates a file. Gzip may have several members, zstd several frames. A chunk holds until the next one is
 * asked for: its memory is used again. Throws `invalid` naming the file for what is damaged or cut off, the errors of
 * node:fs, and what `throwIfCancelled` throws while it waits for bytes.
 */
export async function* inflate(
  input: BlobInput,
  throwIfCancelled: () => void = () => {},
): AsyncGenerator<Buffer, void, undefined> {
  const file = new BlobFile(input, throwIfCancelled);
  try {
    const kind = input.compression === 'detect' ? detect(file) : input.compression;
    if (kind === 'none') yield* readReusing(file);
    else if (kind === 'gzip') yield* explained(input.path, gunzip(file, input.gunzip));
    else yield* explained(input.path, unzstd(file));
  } finally {
    file.close();
  }
}

/** A file that may still grow. */
class BlobFile {
  readonly #fd: number;
  readonly #arrival: SharedArrival | undefined;
  readonly #throwIfCancelled: () => void;

  constructor({ path, arrival }: BlobInput, throwIfCancelled: () => void) {
    this.#fd = openBlob(path);
    this.#arrival = arrival;
    this.#throwIfCancelled = throwIfCancelled;
  }

  /** Reads bytes at a position; 0 only at the end of the whole file. */
  read(buffer: Buffer, position: number, limit = buffer.length): number {
    // Here too, since an archive may be made to inflate to nothing for hours.
    this.#throwIfCancelled();
    if (this.#arrival) waitForArrival(this.#arrival, position, this.#throwIfCancelled);
    return readSync(this.#fd, buffer, 0, limit, position);
  }

  /** Up to `length` bytes at a position; fewer only at the end. */
  bytesAt(position: number, length: number): Buffer {
    const buffer = Buffer.alloc(length);
    let done = 0;
    while (done < length) {
      const bytesRead = this.read(buffer.subarray(done), position + done);
      if (bytesRead === 0) break;
      done += bytesRead;
    }
    return buffer.subarray(0, done);
  }

  close(): void {
    closeSync(this.#fd);
  }
}

function openBlob(path: string): number {
  try {
    return openSync(path, 'r');
  } catch (err) {
    throw wrapErrno('open blob', err);
  }
}

function detect(file: BlobFile): 'none' | 'gzip' | 'zstd' {
  const magic = file.bytesAt(0, 4).toString('hex');
  if (magic.startsWith('1f8b')) return 'gzip';
  return magic === '28b52ffd' || /^5.2a4d18$/.test(magic) ? 'zstd' : 'none';
}

async function* readReusing(file: BlobFile): AsyncGenerator<Buffer, void> {
  const buffer = Buffer.allocUnsafeSlow(READ_BYTES);
  for (let position = 0; ; ) {
    const bytesRead = file.read(buffer, position);
    if (bytesRead === 0) return;
    position += bytesRead;
    yield buffer.subarray(0, bytesRead);
  }
}

/** Buffers of their own: a stream may still work on the last one. */
async function* readFrom(file: BlobFile, start: number, firstBytes = READ_BYTES): AsyncGenerator<Buffer, void> {
  let length = firstBytes;
  for (let position = start; ; ) {
    const buffer = Buffer.allocUnsafeSlow(length);
    const bytesRead = file.read(buffer, position);
    if (bytesRead === 0) return;
    position += bytesRead;
    length = READ_BYTES;
    yield buffer.subarray(0, bytesRead);
  }
}

async function* gunzip(file: BlobFile, wanted?: 'isal' | 'zlib'): AsyncGenerator<Buffer, void> {
  if (isal && wanted !== 'zlib') {
    yield* gunzipByIsal(file, isal.newGunzip());
  } else if (wanted === 'isal') {
    throw new BerthError('precondition', 'libisal is not installed');
  } else {
    const inflater = createGunzip({ chunkSize: INFLATED_BYTES });
    yield* through(readFrom(file, 0), inflater);
    if (inflater.bytesWritten === 0) throw invalid('gzip', 'is empty');
  }
}

/** As zlib of Node does it: members follow each other, and zeros after the last one are padding. */
async function* gunzipByIsal(file: BlobFile, inflater: IsalGunzip): AsyncGenerator<Buffer, void> {
  const input = Buffer.allocUnsafeSlow(READ_BYTES);
  const output = Buffer.allocUnsafeSlow(INFLATED_BYTES);
  let position = 0;
  let pending = input.subarray(0, 0);
  let atMemberEnd = false;
  let isPadding = false;
  /** A full output may leave more behind than the input shows. */
  let mayHaveMore = false;
  for (;;) {
    if (pending.length === 0 && !mayHaveMore) {
      const bytesRead = file.read(input, position);
      if (bytesRead === 0) break;
      position += bytesRead;
      pending = input.subarray(0, bytesRead);
    }
    isPadding ||= atMemberEnd && pending[0] === 0;
    if (isPadding) {
      pending = pending.subarray(pending.length);
      continue;
    }
    const { consumed, produced, memberEnded } = inflater.step(pending, output);
    pending = pending.subarray(consumed);
    atMemberEnd = memberEnded;
    mayHaveMore = produced === output.length && !memberEnded;
    if (produced > 0) yield output.subarray(0, produced);
  }
  if (position === 0) throw invalid('gzip', 'is empty');
  if (!atMemberEnd) throw invalid('gzip', 'is cut off');
}

/** Node's decompressor stops after one frame; tools that compress in parallel or for seeking write many. */
async function* unzstd(file: BlobFile): AsyncGenerator<Buffer, void> {
  for (let position = 0; ; ) {
    const head = file.bytesAt(position, 8);
    if (head.length === 0 && position > 0) return;
    const magic = head.length < 4 ? 0 : head.readUInt32LE(0);
    if (magic >>> 4 === 0x184d2a5 && head.length === 8) {
      position += 8 + head.readUInt32LE(4);
      continue;
    }
    if (magic !== ZSTD_MAGIC) throw invalid('zstd', `has no frame at byte ${position}`);
    const inflater = createZstdDecompress({ chunkSize: INFLATED_BYTES });
    yield* through(readFrom(file, position, position === 0 ? READ_BYTES : 16 * 1024), inflater);
    position += inflater.bytesWritten;
  }
}

type Inflater = ReturnType<typeof createGunzip> | ReturnType<typeof createZstdDecompress>;

async function* through(source: AsyncGenerator<Buffer, void>, inflater: Inflater): AsyncGenerator<Buffer, void> {
  const input = Readable.from(source, { objectMode: false, highWaterMark: 2 * READ_BYTES });
  input.on('error', (err) => inflater.destroy(err));
  try {
    yield* input.pipe(inflater) as AsyncIterable<Buffer>;
  } finally {
    inflater.destroy();
    // The file is closed next: no read may be on its way.
    await closed(input);
  }
}

function closed(input: Readable): Promise<void> {
  if (input.closed) return Promise.resolve();
  const { promise, resolve } = Promise.withResolvers<void>();
  input.once('close', resolve);
  input.destroy();
  return promise;
}

async function* explained(path: string, source: AsyncGenerator<Buffer, void>): AsyncGenerator<Buffer, void> {
  try {
    yield* source;
  } catch (err) {
    const code = err instanceof Error && 'code' in err ? String(err.code) : '';
    const isDamaged = (err instanceof BerthError && err.kind === 'invalid') || /^(Z_|ERR_ZLIB|ZSTD_)/.test(code);
    throw isDamaged ? because('invalid', `inflate ${path}`, err) : err;
  }
}
