import { BerthError } from '../../../base/errors.ts';
import { FedDuplex } from '../fed-duplex.ts';
import { RST_STATUS, type SpdyHeaders } from './frames.ts';

/** What a stream asks of its connection. */
export interface StreamLink {
  /** Accepts the stream. */
  reply(stream: SpdyStream): void;
  /** Sends bytes when it is this stream's turn, then calls `done`. `fin` ends the stream's way out. */
  send(stream: SpdyStream, bytes: Buffer, fin: boolean, done: (err?: Error | null) => void): void;
  /** Ends both directions at once. */
  reset(stream: SpdyStream, status: number): void;
  /** More can be taken in. */
  wanted(stream: SpdyStream): void;
  /** So many bytes of what came in have been taken out. */
  consumed(stream: SpdyStream, bytes: number): void;
  /** Nothing is left to do for it. */
  gone(stream: SpdyStream): void;
}

/**
 * One stream of a SPDY connection. Its 'end' is the client's half-close, and `end()` is ours. Destroying it before both
 * have happened resets it.
 */
export class SpdyStream extends FedDuplex {
  readonly id: number;
  readonly headers: SpdyHeaders;
  readonly #link: StreamLink;
  #hasFin = false;
  #isReset = false;
  /** What came in and was not reported as consumed. */
  #unreportedBytes = 0;

  constructor(id: number, headers: SpdyHeaders, link: StreamLink, bufferBytes: number) {
    super(bufferBytes);
    this.id = id;
    this.headers = headers;
    this.#link = link;
  }

  /** Takes the stream that the client wants to open. Until then nothing may be sent. */
  accept(): void {
    this.#link.reply(this);
  }

  /** Resets the stream with a status of its own instead of CANCEL. */
  reset(status: number, cause?: Error): void {
    if (this.destroyed) return;
    this.#isReset = true;
    this.#link.reset(this, status);
    this.destroy(cause);
  }

  /** For the connection: what has come in. False when no more should come until `wanted`. */
  receive(bytes: Buffer, fin: boolean): boolean {
    if (this.destroyed) return true;
    if (this.#hasFin) {
      this.reset(RST_STATUS.streamAlreadyClosed);
      return true;
    }
    this.#unreportedBytes += bytes.length;
    const hasRoom = bytes.length === 0 || this.feed(bytes);
    this.#report(this.readableLength);
    if (fin) {
      this.#hasFin = true;
      this.push(null);
    }
    return hasRoom;
  }

  /** For the connection: the other side has reset the stream, or is gone. */
  abandon(reason: string): void {
    this.#isReset = true;
    this.destroy(new BerthError('cancelled', `stream ${this.id}: ${reason}`));
  }

  override read(size?: number): Buffer | null {
    const bytes = super.read(size);
    this.#report(this.readableLength);
    return bytes;
  }

  protected override wanted(): void {
    this.#link.wanted(this);
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (err?: Error | null) => void): void {
    this.#link.send(this, chunk, false, done);
  }

  override _final(done: (err?: Error | null) => void): void {
    this.#link.send(this, Buffer.alloc(0), true, done);
  }

  override _destroy(err: Error | null, done: (err?: Error | null) => void): void {
    const isComplete = this.#hasFin && this.writableFinished;
    if (!this.#isReset && !isComplete) this.#link.reset(this, err ? RST_STATUS.internalError : RST_STATUS.cancel);
    this.#report(0);
    this.#link.gone(this);
    done(err);
  }

  #report(heldBytes: number): void {
    const bytes = this.#unreportedBytes - heldBytes;
    if (bytes <= 0) return;
    this.#unreportedBytes = heldBytes;
    this.#link.consumed(this, bytes);
  }
}
