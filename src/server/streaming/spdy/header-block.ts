import { constants, inflateRawSync } from 'node:zlib';

import { because, describe } from '../../../base/errors.ts';
import { HEADER_DICTIONARY, HEADER_DICTIONARY_ID } from './dictionary.ts';
import type { SpdyHeaders } from './frames.ts';
import { protocolError } from './protocol-error.ts';

/** What one header block may be inflated to, and a stream keeps. Clients of Kubernetes send less than 100 bytes. */
const MAX_BLOCK_BYTES = 4 * 1024;
const MAX_HEADERS = 32;
/** How far back deflate can point (RFC 1951). */
const WINDOW_BYTES = 32 * 1024;
const ZLIB_HEADER_BYTES = 2;
const DICTIONARY_ID_BYTES = 4;
const DEFLATE = 8;
const PRESET_DICTIONARY = 0x20;

/**
 * Inflates the header blocks of one direction of a connection. They are one zlib stream that is flushed after each
 * block, so each block is deflate data of its own whose dictionary is what was inflated before: nothing native has to
 * be kept, and nothing waits for a thread.
 */
export class HeaderInflater {
  #window: Buffer | undefined;

  /** The headers of the next block. Throws `invalid` for what is no header block, and for one that is too large. */
  inflate(block: Buffer): SpdyHeaders {
    const { window, deflated } = this.#window ? { window: this.#window, deflated: block } : beginStream(block);
    const plain = inflateBlock(deflated, window);
    const seen = Buffer.concat([window, plain]);
    this.#window = seen.subarray(Math.max(0, seen.length - WINDOW_BYTES));
    return parseHeaders(plain);
  }
}

function beginStream(block: Buffer): { window: Buffer; deflated: Buffer } {
  if (block.length < ZLIB_HEADER_BYTES) throw protocolError('the first header block is cut short');
  const method = block.readUInt8(0);
  const flags = block.readUInt8(1);
  if ((method & 0x0f) !== DEFLATE || block.readUInt16BE(0) % 31 !== 0) {
    throw protocolError('the first header block does not begin a zlib stream');
  }
  if ((flags & PRESET_DICTIONARY) === 0)
    return { window: Buffer.alloc(0), deflated: block.subarray(ZLIB_HEADER_BYTES) };
  const begin = ZLIB_HEADER_BYTES + DICTIONARY_ID_BYTES;
  if (block.length < begin || block.readUInt32BE(ZLIB_HEADER_BYTES) !== HEADER_DICTIONARY_ID) {
    throw protocolError("header blocks are compressed with another dictionary than SPDY/3's");
  }
  return { window: HEADER_DICTIONARY, deflated: block.subarray(begin) };
}

function inflateBlock(deflated: Buffer, window: Buffer): Buffer {
  try {
    return inflateRawSync(deflated, {
      finishFlush: constants.Z_SYNC_FLUSH,
      maxOutputLength: MAX_BLOCK_BYTES,
      ...(window.length > 0 ? { dictionary: window } : {}),
    });
  } catch (err) {
    throw because('invalid', `SPDY: a header block cannot be inflated: ${describe(err)}`, err);
  }
}

function parseHeaders(plain: Buffer): SpdyHeaders {
  let at = 0;
  const number = (): number => {
    if (at + 4 > plain.length) throw protocolError('a header block ends too early');
    at += 4;
    return plain.readUInt32BE(at - 4);
  };
  const text = (): string => {
    const length = number();
    if (length > plain.length - at) throw protocolError('a header block ends too early');
    at += length;
    return plain.toString('utf8', at - length, at);
  };
  const count = number();
  if (count > MAX_HEADERS) throw protocolError(`a header block has ${count} headers; at most ${MAX_HEADERS} are read`);
  const headers = new Map<string, string>();
  for (let index = 0; index < count; index++) {
    const name = text();
    if (name === '' || name !== name.toLowerCase()) throw protocolError('the name of a header is not in small letters');
    if (headers.has(name)) throw protocolError('a header is there twice');
    headers.set(name, text());
  }
  return headers;
}

/**
 * Writes the header blocks of one direction as a zlib stream of stored blocks: what Berth sends is empty or a few bytes
 * long, so that compression would gain nothing, and takes no context this way.
 */
export class HeaderDeflater {
  #isBegun = false;

  /** The next block. */
  deflate(headers: SpdyHeaders): Buffer {
    const plain = serializeHeaders(headers);
    const length = Buffer.alloc(5);
    length.writeUInt16LE(plain.length, 1);
    length.writeUInt16LE(~plain.length & 0xffff, 3);
    const parts = [...(this.#isBegun ? [] : [zlibHeader()]), length, plain, EMPTY_STORED_BLOCK];
    this.#isBegun = true;
    return Buffer.concat(parts);
  }
}

/** Ends a flush: a reader that has seen it hands out all that went before (RFC 1951, 3.2.4). */
const EMPTY_STORED_BLOCK = Buffer.from([0, 0, 0, 0xff, 0xff]);

function zlibHeader(): Buffer {
  const header = Buffer.alloc(ZLIB_HEADER_BYTES + DICTIONARY_ID_BYTES);
  // Deflate with a window of 32 KiB and a dictionary; both bytes together are a multiple of 31 (RFC 1950, 2.2).
  header.writeUInt16BE(0x7800 | PRESET_DICTIONARY);
  header.writeUInt32BE(HEADER_DICTIONARY_ID, ZLIB_HEADER_BYTES);
  return header;
}

/** A header block before it is compressed. */
export function serializeHeaders(headers: SpdyHeaders): Buffer {
  const parts = [uint32(headers.size)];
  for (const text of [...headers].flat()) {
    const bytes = Buffer.from(text);
    parts.push(uint32(bytes.length), bytes);
  }
  const plain = Buffer.concat(parts);
  if (plain.length > MAX_BLOCK_BYTES - 1) throw protocolError('headers are too long to be sent');
  return plain;
}

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}
