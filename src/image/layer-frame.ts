/**
 * A layer's tar without what its files hold, kept beside the unpacked layer: with the files on disk it makes the very
 * same archive again, byte by byte. A zstd file, in front of which a frame that decompressors pass over says what a
 * quick look at the layer must find (RFC 8878, section 3.1.2).
 */

import { closeSync, openSync, readSync, rmSync, writeSync } from 'node:fs';
import { constants, zstdCompressSync } from 'node:zlib';

import { isErrno, wrapErrno } from '../sys/errno.ts';

/** What is known of a layer beside its content. */
export interface LayerFacts {
  /** How long its uncompressed archive is. */
  readonly archiveBytes: number;
  /** How many names its topmost folder has. */
  readonly topNames: number;
}

const MAGIC = 0x184d2a5e;
const FACTS_BYTES = 16;
const HEAD_BYTES = 8 + FACTS_BYTES;
const BLOCK_BYTES = 512 * 1024;
/** No layer that was not made to fill disks comes near it. */
const LIMIT_BYTES = 256 * 1024 ** 2;
/** Headers are mostly zeros and repeat each other: the fastest is good enough. */
const LEVEL = 1;

/** Writes a frame while its layer is unpacked. Synchronous, for worker threads. */
export class FrameWriter {
  readonly #path: string;
  readonly #fd: number;
  readonly #block = Buffer.allocUnsafeSlow(BLOCK_BYTES);
  #filled = 0;
  #archiveBytes = 0;
  #position = HEAD_BYTES;

  /** `path` must not exist. */
  constructor(path: string) {
    this.#path = path;
    this.#fd = openSync(path, 'wx', 0o600);
  }

  /** Takes the next bytes of the archive that are no file's content. */
  add(bytes: Buffer): void {
    this.#archiveBytes += bytes.length;
    for (let done = 0; done < bytes.length; ) {
      const copied = bytes.copy(this.#block, this.#filled, done);
      this.#filled += copied;
      done += copied;
      if (this.#filled === BLOCK_BYTES) this.#flush();
    }
  }

  /** Completes the file; one that is unreasonably long is dropped. */
  finish({ contentBytes, topNames }: { readonly contentBytes: number; readonly topNames: number }): void {
    this.#flush();
    if (this.#position > LIMIT_BYTES) {
      this.drop();
      return;
    }
    const head = Buffer.alloc(HEAD_BYTES);
    head.writeUInt32LE(MAGIC, 0);
    head.writeUInt32LE(FACTS_BYTES, 4);
    head.writeBigUInt64LE(BigInt(this.#archiveBytes + contentBytes), 8);
    head.writeUInt32LE(topNames, 16);
    writeSync(this.#fd, head, 0, HEAD_BYTES, 0);
    closeSync(this.#fd);
  }

  /** Leaves nothing. */
  drop(): void {
    closeSync(this.#fd);
    rmSync(this.#path, { force: true });
  }

  #flush(): void {
    if (this.#filled === 0 || this.#position > LIMIT_BYTES) {
      this.#filled = 0;
      return;
    }
    const params = { [constants.ZSTD_c_compressionLevel]: LEVEL };
    const packed = zstdCompressSync(this.#block.subarray(0, this.#filled), { params });
    for (let done = 0; done < packed.length; ) {
      done += writeSync(this.#fd, packed, done, packed.length - done, this.#position + done);
    }
    this.#position += packed.length;
    this.#filled = 0;
  }
}

/** What a frame says of its layer; undefined where there is none, or one that cannot be read. */
export function readLayerFacts(path: string): LayerFacts | undefined {
  const head = Buffer.alloc(HEAD_BYTES);
  try {
    const fd = openSync(path, 'r');
    try {
      if (readSync(fd, head) < HEAD_BYTES || head.readUInt32LE(0) !== MAGIC) return undefined;
    } finally {
      closeSync(fd);
    }
  } catch (err) {
    if (isErrno(err, 'ENOENT')) return undefined;
    throw wrapErrno(`read ${path}`, err);
  }
  return { archiveBytes: Number(head.readBigUInt64LE(8)), topNames: head.readUInt32LE(16) };
}
