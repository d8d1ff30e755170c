/** The uncompressed bytes of a blob file: plain, gzip or zstd. */

import { type FileHandle, open } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { createGunzip, createZstdDecompress } from 'node:zlib';

import { BerthError, because, invalid } from '../base/errors.ts';

/** How a blob is compressed; `detect` looks at its first bytes. */
export type Compression = 'none' | 'gzip' | 'zstd' | 'detect';

const READ_BYTES = 256 * 1024;
/** Large, so that the pool inflates the next chunk while the last one is being written to disk. */
const INFLATED_BYTES = 512 * 1024;
const ZSTD_MAGIC = 0xfd2fb528;

/**
 * Reads and inflates a file. Gzip may have several members, zstd several frames. Throws `invalid` naming the file for
 * what is damaged or cut off, and the errors of node:fs.
 */
export async function* inflate(path: string, compression: Compression): AsyncGenerator<Buffer, void, undefined> {
  const file = await open(path, 'r');
  try {
    const kind = compression === 'detect' ? await detect(file) : compression;
    if (kind === 'none') yield* readFrom(file, 0);
    else if (kind === 'gzip') yield* explained(path, gunzip(file));
    else yield* explained(path, unzstd(file));
  } finally {
    await file.close();
  }
}

async function detect(file: FileHandle): Promise<'none' | 'gzip' | 'zstd'> {
  const magic = (await bytesAt(file, 0, 4)).toString('hex');
  if (magic.startsWith('1f8b')) return 'gzip';
  return magic === '28b52ffd' || /^5.2a4d18$/.test(magic) ? 'zstd' : 'none';
}

async function* readFrom(file: FileHandle, start: number, firstBytes = READ_BYTES): AsyncGenerator<Buffer, void> {
  let length = firstBytes;
  for (let position = start; ; ) {
    // A buffer of its own for each read: the consumer may still work on the last one.
    const buffer = Buffer.allocUnsafeSlow(length);
    const { bytesRead } = await file.read(buffer, 0, buffer.length, position);
    if (bytesRead === 0) return;
    position += bytesRead;
    length = READ_BYTES;
    yield buffer.subarray(0, bytesRead);
  }
}

async function* gunzip(file: FileHandle): AsyncGenerator<Buffer, void> {
  const inflater = createGunzip({ chunkSize: INFLATED_BYTES });
  yield* through(readFrom(file, 0), inflater);
  if (inflater.bytesWritten === 0) throw invalid('gzip', 'is empty');
}

/** Node's decompressor stops after one frame; tools that compress in parallel or for seeking write many. */
async function* unzstd(file: FileHandle): AsyncGenerator<Buffer, void> {
  for (let position = 0; ; ) {
    const head = await bytesAt(file, position, 8);
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
    const isDamaged = err instanceof BerthError || /^(Z_|ERR_ZLIB|ZSTD_)/.test(code);
    throw isDamaged ? because('invalid', `inflate ${path}`, err) : err;
  }
}

async function bytesAt(file: FileHandle, position: number, length: number): Promise<Buffer> {
  const buffer = Buffer.alloc(length);
  const { bytesRead } = await file.read(buffer, 0, length, position);
  return buffer.subarray(0, bytesRead);
}
