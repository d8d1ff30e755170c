/**
 * One 512-byte header of a tar archive, in the forms that are met in images: v7, ustar and pax (POSIX.1-2017, pax,
 * "ustar Interchange Format"), GNU (tar manual, "Basic Tar Format") and star.
 */

import { invalid } from '../base/errors.ts';
import { showBytes } from './show-bytes.ts';

export const BLOCK_BYTES = 512;

/** The fields of a header block. Names are bytes: nothing says that they are UTF-8. */
export interface TarHeader {
  readonly name: Buffer;
  readonly link: Buffer;
  /** Permission bits, with setuid, setgid and sticky. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Bytes of data that follow. */
  readonly size: number;
  readonly modifiedSeconds: number;
  /** The type flag, `'0'`; v7's NUL is given as `'0'`. */
  readonly type: string;
  readonly deviceMajor: number;
  readonly deviceMinor: number;
}

/** True for a block of zeros: half of the end marker. */
export function isZeroBlock(block: Buffer): boolean {
  for (let at = 0; at < BLOCK_BYTES; at += 1) if (block[at] !== 0) return false;
  return true;
}

/** Parses a header block and verifies its checksum. Throws `invalid` naming the member as far as it can be read. */
export function parseHeader(block: Buffer): TarHeader {
  if (!hasChecksum(block)) throw invalid('tar', 'a header has a wrong checksum: the archive is damaged, or no tar');
  const plainName = textField(block, 0, 100);
  const number = (what: string, start: number, length: number): number => {
    const value = numberField(block, start, length);
    if (value !== undefined && (value >= 0 || what === 'mtime')) return value;
    throw invalid(`member ${showBytes(plainName)}`, `its ${what} is not a number that tar knows`);
  };
  const flag = block[156] ?? 0;
  const extended = block.toString('latin1', 257, 262) === 'ustar';
  return {
    name: withPrefix(block, plainName),
    link: textField(block, 157, 100),
    mode: number('mode', 100, 8) & 0o7777,
    uid: number('uid', 108, 8),
    gid: number('gid', 116, 8),
    size: number('size', 124, 12),
    modifiedSeconds: number('mtime', 136, 12),
    type: flag === 0 ? '0' : String.fromCharCode(flag),
    deviceMajor: extended ? number('device', 329, 8) : 0,
    deviceMinor: extended ? number('device', 337, 8) : 0,
  };
}

/** A size or time: octal text, or base 256 when the first bit is set (GNU, star). Undefined when it is neither. */
export function numberField(block: Buffer, start: number, length: number): number | undefined {
  if (((block[start] ?? 0) & 0x80) !== 0) return base256(block.subarray(start, start + length));
  let at = start;
  const end = start + length;
  while (at < end && (block[at] === 0x20 || block[at] === 0)) at += 1;
  let value = 0;
  for (; at < end; at += 1) {
    const digit = (block[at] ?? 0) - 0x30;
    if (digit < 0 || digit > 7) break;
    value = value * 8 + digit;
  }
  for (; at < end; at += 1) if (block[at] !== 0x20 && block[at] !== 0) return undefined;
  return Number.isSafeInteger(value) ? value : undefined;
}

/** Two's complement, big endian; the first bit only marks the form, the second is the sign. */
function base256(bytes: Buffer): number | undefined {
  let value = BigInt((bytes[0] ?? 0) & 0x7f);
  for (const byte of bytes.subarray(1)) value = (value << 8n) | BigInt(byte);
  const bits = BigInt(bytes.length * 8 - 1);
  const signed = Number(BigInt.asIntN(Number(bits), value));
  return Number.isSafeInteger(signed) ? signed : undefined;
}

/** Some old writers summed signed bytes. */
function hasChecksum(block: Buffer): boolean {
  const expected = numberField(block, 148, 8);
  let unsigned = 0;
  let high = 0;
  for (let at = 0; at < BLOCK_BYTES; at += 1) {
    const byte = at >= 148 && at < 156 ? 0x20 : (block[at] ?? 0);
    unsigned += byte;
    if (byte > 127) high += 1;
  }
  return expected === unsigned || expected === unsigned - 256 * high;
}

/** ustar splits long names in two. GNU's own form has other fields there, star's prefix is shorter. */
function withPrefix(block: Buffer, name: Buffer): Buffer {
  if (block.toString('latin1', 257, 263) !== 'ustar\0') return name;
  const isStar = block.toString('latin1', 508, 512) === 'tar\0';
  const prefix = textField(block, 345, isStar ? 131 : 155);
  return prefix.length === 0 ? name : Buffer.concat([prefix, Buffer.from('/'), name]);
}

/** A copy, because the block is a window on a buffer that moves on. */
function textField(block: Buffer, start: number, length: number): Buffer {
  let end = start;
  while (end < start + length && block[end] !== 0) end += 1;
  return Buffer.from(block.subarray(start, end));
}
