/** Where the data of a sparse file belongs: GNU tar manual, "Sparse Formats". */

import { invalid } from '../base/errors.ts';
import type { ByteReader } from './byte-reader.ts';
import { MAX_PAX_BYTES, type PaxRecord, paxNumber } from './pax.ts';
import { BLOCK_BYTES, numberField } from './tar-header.ts';

/** A run of data in a sparse file, in bytes; between runs there are holes. */
export interface SparseRun {
  readonly offset: number;
  readonly length: number;
}

/** A sparse file's runs, and how long it is with its holes. */
export interface SparseMap {
  readonly runs: readonly SparseRun[];
  readonly size: number;
}

const MAX_RUNS = 100_000;
const FIRST_RUNS_AT = 386;
const RUN_BYTES = 24;

/** The old GNU format: four runs in the header, 21 in each block that follows while a flag says so. */
export async function readOldGnuMap(header: Buffer, reader: ByteReader): Promise<SparseMap> {
  const runs: SparseRun[] = [];
  const size = numberField(header, 483, 12);
  if (size === undefined) throw invalid('sparse map', 'has no size');
  readRuns(header, FIRST_RUNS_AT, 4, runs);
  for (let more = header[482] === 1; more; ) {
    const block = await reader.take(BLOCK_BYTES);
    if (block.length < BLOCK_BYTES) throw invalid('sparse map', 'is cut off');
    readRuns(block, 0, 21, runs);
    more = block[504] === 1;
  }
  return { runs, size };
}

function readRuns(block: Buffer, start: number, count: number, runs: SparseRun[]): void {
  for (let index = 0; index < count; index += 1) {
    const at = start + index * RUN_BYTES;
    if (block[at] === 0) return;
    const offset = numberField(block, at, 12);
    const length = numberField(block, at + 12, 12);
    if (offset === undefined || length === undefined) throw invalid('sparse map', 'has a bad number');
    if (runs.length === MAX_RUNS) throw invalid('sparse map', `has more than ${MAX_RUNS} runs`);
    runs.push({ offset, length });
  }
}

/** The pax formats 0.0 and 0.1, whose map is in the extended header; undefined when there is none. */
export function mapFromPax(records: readonly PaxRecord[]): SparseMap | undefined {
  let size: number | undefined;
  const numbers: number[] = [];
  for (const [keyword, value] of records) {
    if (keyword === 'GNU.sparse.size') size = paxNumber(keyword, value);
    if (keyword === 'GNU.sparse.offset' || keyword === 'GNU.sparse.numbytes') numbers.push(paxNumber(keyword, value));
    if (keyword !== 'GNU.sparse.map') continue;
    numbers.length = 0;
    const text = value.toString('latin1');
    if (text !== '') for (const part of text.split(',')) numbers.push(paxNumber(keyword, Buffer.from(part)));
  }
  return size === undefined ? undefined : { runs: pairs(numbers), size };
}

/** The pax format 1.0, whose map comes before the data, as lines of text filled up to whole blocks. */
export async function readPaxMap(size: number, reader: ByteReader): Promise<SparseMap & { mapBytes: number }> {
  let text = '';
  let lines = 0;
  let mapBytes = 0;
  let wanted = 1;
  while (lines < wanted) {
    const block = await reader.take(BLOCK_BYTES);
    mapBytes += BLOCK_BYTES;
    if (block.length < BLOCK_BYTES || mapBytes > MAX_PAX_BYTES) throw invalid('sparse map', 'is cut off or too long');
    for (const byte of block) if (byte === 0x0a) lines += 1;
    text += block.toString('latin1');
    if (lines > 0) wanted = 1 + 2 * paxNumber('sparse map', Buffer.from(text.slice(0, text.indexOf('\n'))));
  }
  const numbers = text.split('\n').slice(1, wanted);
  const runs = pairs(numbers.map((line) => paxNumber('sparse map', Buffer.from(line))));
  return { runs, size, mapBytes };
}

/** Throws `invalid` unless the runs go upwards, stay in the file and make up the data of the member. */
export function checkSparseMap({ runs, size }: SparseMap, dataBytes: number): void {
  let end = 0;
  let total = 0;
  for (const { offset, length } of runs) {
    if (offset < end || !Number.isSafeInteger(offset + length)) throw invalid('sparse map', 'has runs that overlap');
    end = offset + length;
    total += length;
  }
  if (end > size) throw invalid('sparse map', 'has a run behind the end of the file');
  if (total !== dataBytes) throw invalid('sparse map', `maps ${total} bytes of ${dataBytes}`);
}

function pairs(numbers: readonly number[]): SparseRun[] {
  if (numbers.length % 2 !== 0) throw invalid('sparse map', 'has an offset without a length');
  const runs: SparseRun[] = [];
  for (let at = 0; at < numbers.length; at += 2) {
    runs.push({ offset: numbers[at] ?? 0, length: numbers[at + 1] ?? 0 });
  }
  return runs;
}
