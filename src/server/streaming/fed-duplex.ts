import { Duplex } from 'node:stream';

/** A piece of a few bytes takes about as much to hold as one of this size. */
const LEAST_PIECE_BYTES = 256;

/**
 * A stream whose bytes come in on a connection that it shares with others: the connection feeds it, and reads no further
 * while it is full. It is full of bytes, or of pieces: a client that sends a byte at a time must not take a hundred
 * times the memory of others. Of what goes out, one piece waits here at most, for the same reason. An 'error' concerns
 * its own user alone, and ends in nothing if there is none.
 */
export abstract class FedDuplex extends Duplex {
  readonly #mostPieces: number;
  #pieces = 0;

  constructor(bufferBytes: number) {
    super({ readableHighWaterMark: bufferBytes, writableHighWaterMark: 1, allowHalfOpen: true });
    this.#mostPieces = Math.ceil(bufferBytes / LEAST_PIECE_BYTES);
    this.on('error', () => {});
  }

  /** Tells the connection that more can be taken in. */
  protected abstract wanted(): void;

  /** Hands on what has come in. False when no more should come until `wanted`. */
  protected feed(bytes: Buffer): boolean {
    const hasRoom = this.push(bytes);
    this.#pieces = this.readableLength === 0 ? 0 : this.#pieces + 1;
    return hasRoom && this.#pieces < this.#mostPieces;
  }

  override read(size?: number): Buffer | null {
    const bytes = super.read(size) as Buffer | null;
    const wasFull = this.#pieces >= this.#mostPieces;
    // Who reads in flowing mode gets one piece at a time, anybody else all there is.
    if (bytes !== null) this.#pieces = this.readableLength === 0 ? 0 : this.#pieces - 1;
    if (wasFull && this.#pieces < this.#mostPieces) this.wanted();
    return bytes;
  }

  override _read(): void {
    if (this.#pieces < this.#mostPieces) this.wanted();
  }
}
