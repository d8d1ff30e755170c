/** The records of a pax extended header: POSIX.1-2017, pax, "pax Extended Header". */

import { invalid } from '../base/errors.ts';
import type { FileTime } from '../sys/at.ts';

/** The largest extended header that is read, in bytes. */
export const MAX_PAX_BYTES: number = 1024 * 1024;

/** Keyword and value in the order of the header: GNU's sparse format 0.0 repeats keywords. */
export type PaxRecord = readonly [keyword: string, value: Buffer];

const SPACE = 0x20;
const NEWLINE = 0x0a;
const EQUALS = 0x3d;

/** Parses `<length> <keyword>=<value>\n` records. Throws `invalid` when they are malformed. */
export function parsePax(bytes: Buffer): PaxRecord[] {
  const records: PaxRecord[] = [];
  for (let at = 0; at < bytes.length; ) {
    const space = bytes.indexOf(SPACE, at);
    const length = space < 0 ? Number.NaN : decimal(bytes.toString('latin1', at, space));
    const end = at + length;
    if (!(end > space + 1 && end <= bytes.length && bytes[end - 1] === NEWLINE)) throw malformed();
    const equals = bytes.indexOf(EQUALS, space);
    if (equals < 0 || equals >= end || equals === space + 1) throw malformed();
    records.push([bytes.toString('utf8', space + 1, equals), Buffer.from(bytes.subarray(equals + 1, end - 1))]);
    at = end;
  }
  return records;
}

/** A whole number of a record; negative ones only where `signed`. Throws `invalid` naming the keyword. */
export function paxNumber(keyword: string, value: Buffer): number {
  const number = decimal(value.toString('latin1'));
  if (Number.isSafeInteger(number)) return number;
  throw invalid(`pax ${keyword}`, 'is not a whole number');
}

/** A time with any number of decimals; nanoseconds are kept, the rest is cut. Throws `invalid`. */
export function paxTime(keyword: string, value: Buffer): FileTime {
  const match = /^(-?)([0-9]{1,15})(?:\.([0-9]*))?$/.exec(value.toString('latin1'));
  if (!match) throw invalid(`pax ${keyword}`, 'is not a time');
  const [, sign, whole, decimals = ''] = match;
  const seconds = Number(whole);
  const nanoseconds = Number(decimals.slice(0, 9).padEnd(9, '0'));
  if (sign !== '-') return { seconds, nanoseconds };
  // Before 1970 the nanoseconds still count forward.
  return nanoseconds === 0
    ? { seconds: 0 - seconds, nanoseconds }
    : { seconds: -seconds - 1, nanoseconds: 1e9 - nanoseconds };
}

/**
 * The extended attribute that a record carries, if it does: star's and GNU's `SCHILY.xattr.`, with raw bytes, or
 * libarchive's `LIBARCHIVE.xattr.`, percent-encoded name and base64 value.
 */
export function paxXattr([keyword, value]: PaxRecord): { readonly name: string; readonly value: Buffer } | undefined {
  if (keyword.startsWith('SCHILY.xattr.')) return { name: keyword.slice('SCHILY.xattr.'.length), value };
  if (!keyword.startsWith('LIBARCHIVE.xattr.')) return undefined;
  try {
    const name = decodeURIComponent(keyword.slice('LIBARCHIVE.xattr.'.length));
    return { name, value: Buffer.from(value.toString('latin1'), 'base64') };
  } catch (err) {
    if (err instanceof URIError) return undefined;
    throw err;
  }
}

function decimal(text: string): number {
  return /^[0-9]{1,16}$/.test(text) ? Number(text) : Number.NaN;
}

function malformed(): Error {
  return invalid('pax header', 'has a malformed record');
}
