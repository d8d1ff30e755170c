/**
 * How far a blob's file has come, shared between the thread that downloads and one that unpacks meanwhile. The bytes
 * themselves go through the file: a slow reader costs disk, not memory.
 */

import { BerthError } from '../base/errors.ts';

/** What both threads see: a count of changes and the state as 32-bit integers, then the bytes that are there. */
export type SharedArrival = SharedArrayBuffer;

const SHARED_BYTES = 16;
const CHANGES = 0;
const STATE = 1;
const AVAILABLE = 1;

const COMING = 0;
const WHOLE = 1;
const FAILED = 2;

/** How far a blob has come at some time. */
export interface Arrived {
  readonly bytes: number;
  /** Undefined while more comes; else whether it is whole. */
  readonly isWhole: boolean | undefined;
}

/** How long a reader waits before it looks whether it is still wanted. */
const LOOK_MS = 100;

/** The downloading side. */
export class BlobArrival {
  readonly shared: SharedArrival = new SharedArrayBuffer(SHARED_BYTES);
  readonly #numbers = new Int32Array(this.shared);
  readonly #bytes = new BigInt64Array(this.shared);

  /** So many bytes from the beginning can be read now. */
  reached(bytes: number): void {
    Atomics.store(this.#bytes, AVAILABLE, BigInt(bytes));
    this.#changed();
  }

  /** No more bytes will come: the blob is whole and verified, or it is not, and readers are told so. */
  end(isWhole: boolean): void {
    Atomics.store(this.#numbers, STATE, isWhole ? WHOLE : FAILED);
    this.#changed();
  }

  /** Both at once, as it was told of elsewhere. */
  take({ bytes, isWhole }: Arrived): void {
    Atomics.store(this.#bytes, AVAILABLE, BigInt(bytes));
    if (isWhole === undefined) this.#changed();
    else this.end(isWhole);
  }

  #changed(): void {
    Atomics.add(this.#numbers, CHANGES, 1);
    Atomics.notify(this.#numbers, CHANGES);
  }
}

/**
 * Waits, without an event loop, until the blob has more than `position` bytes or is whole; returns how many it has.
 * For worker threads. Throws `cancelled` when the download failed, and what `throwIfCancelled` throws.
 */
export function waitForArrival(shared: SharedArrival, position: number, throwIfCancelled: () => void): number {
  const numbers = new Int32Array(shared);
  const bytes = new BigInt64Array(shared);
  for (;;) {
    throwIfCancelled();
    const changes = Atomics.load(numbers, CHANGES);
    const state = Atomics.load(numbers, STATE);
    const available = Number(Atomics.load(bytes, AVAILABLE));
    if (state === FAILED) throw new BerthError('cancelled', 'the download that is unpacked meanwhile has failed');
    if (state === WHOLE || (state === COMING && available > position)) return available;
    Atomics.wait(numbers, CHANGES, changes, LOOK_MS);
  }
}

/** How far a blob has come, now and whenever that changes, until no more comes. For who has an event loop. */
export async function* followArrival(shared: SharedArrival): AsyncGenerator<Arrived, void, undefined> {
  const numbers = new Int32Array(shared);
  const bytes = new BigInt64Array(shared);
  for (;;) {
    const changes = Atomics.load(numbers, CHANGES);
    const state = Atomics.load(numbers, STATE);
    const isWhole = state === COMING ? undefined : state === WHOLE;
    yield { bytes: Number(Atomics.load(bytes, AVAILABLE)), isWhole };
    if (isWhole !== undefined) return;
    await Atomics.waitAsync(numbers, CHANGES, changes).value;
  }
}

/** True when the download failed, or began anew. */
export function hasFailed(shared: SharedArrival): boolean {
  return Atomics.load(new Int32Array(shared), STATE) === FAILED;
}
