/** What berthd and its process for work on the disk say to each other: frames of a length and a structured clone. */

import { deserialize, serialize } from 'node:v8';

import { BerthError } from '../base/errors.ts';
import type { Arrived } from './blob-arrival.ts';
import type { DiskAnswer, DiskJobs } from './disk-jobs.ts';

/** A job and its number; what is said of it later has the same number. */
export interface DiskOrder {
  readonly id: number;
  readonly job: keyof DiskJobs;
  /** Without what two processes cannot share: an arrival, a descriptor. */
  readonly request: DiskJobs[keyof DiskJobs]['request'];
  /** True for a job whose blob still comes: how far it has come is told as it does. */
  readonly follows: boolean;
  /** Where to open the descriptor of a job that has one. */
  readonly descriptor: string | undefined;
}

/** What berthd says. */
export type ToDisk =
  | { readonly order: DiskOrder }
  | { readonly cancel: number }
  | { readonly arrived: Arrived; readonly id: number };

/** What it hears. The first word is that the process is there, and which berth it is of; it has orders only then. */
export type FromDisk = { readonly version: string } | DiskReply;

/** How a job has ended. */
export interface DiskReply {
  readonly id: number;
  readonly answer: DiskAnswer;
}

const LENGTH_BYTES = 4;
/** Far more than the names of an image's largest folders. */
const LONGEST_BYTES = 1024 * 1024 * 1024;

/** One message, ready to be written. */
export function encodeFrame(message: ToDisk | FromDisk): Buffer {
  const body = serialize(message);
  const frame = Buffer.allocUnsafe(LENGTH_BYTES + body.length);
  frame.writeUInt32LE(body.length, 0);
  body.copy(frame, LENGTH_BYTES);
  return frame;
}

/** Puts messages together from the parts in which they come. */
export class FrameReader<T> {
  #parts: Buffer[] = [];
  #bytes = 0;

  /** The messages that are whole with this part. Throws `internal` for a length that no message has. */
  add(part: Buffer): T[] {
    this.#parts.push(part);
    this.#bytes += part.length;
    const messages: T[] = [];
    for (let body = this.#next(); body; body = this.#next()) messages.push(deserialize(body) as T);
    return messages;
  }

  #next(): Buffer | undefined {
    if (this.#bytes < LENGTH_BYTES) return undefined;
    if ((this.#parts[0]?.length ?? 0) < LENGTH_BYTES) this.#join();
    const length = this.#parts[0]?.readUInt32LE(0) ?? 0;
    if (length > LONGEST_BYTES) throw new BerthError('internal', `a message of ${length} bytes`);
    if (this.#bytes < LENGTH_BYTES + length) return undefined;
    const all = this.#join();
    const rest = all.subarray(LENGTH_BYTES + length);
    this.#parts = rest.length > 0 ? [rest] : [];
    this.#bytes = rest.length;
    return all.subarray(LENGTH_BYTES, LENGTH_BYTES + length);
  }

  #join(): Buffer {
    const [first = Buffer.alloc(0), ...more] = this.#parts;
    const all = more.length > 0 ? Buffer.concat([first, ...more]) : first;
    this.#parts = [all];
    return all;
  }
}
