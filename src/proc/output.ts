import type { Readable } from 'node:stream';

/** Reads a stream to its end and keeps the first `limitBytes` of it; tells `onLimit` once when there is more. */
export class Output {
  readonly #stream: Readable;
  readonly #limitBytes: number;
  readonly #chunks: Buffer[] = [];
  readonly #ended = Promise.withResolvers<void>();
  #keptBytes = 0;
  readonly #onLimit: () => void;
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
    return Buffer.concat(this.#chunks, this.#keptBytes);
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
    const room = this.#limitBytes - this.#keptBytes;
    if (chunk.length > room && !this.#truncated) {
      this.#truncated = true;
      this.#onLimit();
    }
    if (room <= 0) return;
    const kept = chunk.length > room ? chunk.subarray(0, room) : chunk;
    this.#chunks.push(kept);
    this.#keptBytes += kept.length;
  }
}
