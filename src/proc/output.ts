import type { Readable } from 'node:stream';

const FIRST_ROOM_BYTES = 4096;

/**
 * Reads a stream to its end and keeps the first `limitBytes` of it; tells `onLimit` once when there is more. What is
 * kept is copied: a program that writes a byte at a time would otherwise make each of them a buffer, which takes some
 * five hundred times as much.
 */
export class Output {
  readonly #stream: Readable;
  readonly #limitBytes: number;
  readonly #ended = Promise.withResolvers<void>();
  readonly #onLimit: () => void;
  /** Its first `#keptBytes` are what was kept. */
  #room: Buffer = Buffer.alloc(0);
  #keptBytes = 0;
  #truncated = false;

  constructor(stream: Readable, limitBytes: number, onLimit: () => void = () => {}) {
    this.#stream = stream;
    this.#limitBytes = limitBytes;
    this.#onLimit = onLimit;
    stream.on('data', (chunk: Buffer) => this.#keep(chunk));
    // A broken pipe to read from is its end.
    stream.on('error', () => {});
    stream.on('close', () => this.#ended.resolve());
  }

  /** True when bytes were dropped. */
  get truncated(): boolean {
    return this.#truncated;
  }

  /** What was kept so far. */
  bytes(): Buffer {
    return this.#room.subarray(0, this.#keptBytes);
  }

  /** Resolves when the stream is closed. */
  get ended(): Promise<void> {
    return this.#ended.promise;
  }

  /** Stops reading and closes the descriptor. */
  close(): void {
    this.#stream.destroy();
  }

  #keep(chunk: Buffer): void {
    const leftBytes = this.#limitBytes - this.#keptBytes;
    if (chunk.length > leftBytes && !this.#truncated) {
      this.#truncated = true;
      this.#onLimit();
    }
    const kept = chunk.length > leftBytes ? chunk.subarray(0, leftBytes) : chunk;
    const neededBytes = this.#keptBytes + kept.length;
    if (neededBytes > this.#room.length) this.#grow(neededBytes);
    this.#room.set(kept, this.#keptBytes);
    this.#keptBytes = neededBytes;
  }

  #grow(neededBytes: number): void {
    const larger = Math.max(neededBytes, this.#room.length * 2, FIRST_ROOM_BYTES);
    const room = Buffer.allocUnsafeSlow(Math.min(larger, this.#limitBytes));
    room.set(this.bytes());
    this.#room = room;
  }
}
