import { invalid } from '../base/errors.ts';

/**
 * Hands out a stream's bytes in the portions that the reader asks for, mostly as windows on the chunks that came. A
 * window holds until the next call.
 */
export class ByteReader {
  readonly #source: AsyncIterator<Buffer>;
  readonly #onTaken: (bytes: Buffer) => void;
  #chunk: Buffer = Buffer.alloc(0);
  #at = 0;

  /** `onTaken` sees in order all bytes that are handed out or passed over, but those of `someUnseen`. */
  constructor(source: AsyncIterable<Buffer>, onTaken: (bytes: Buffer) => void = () => {}) {
    this.#source = source[Symbol.asyncIterator]();
    this.#onTaken = onTaken;
  }

  /** The next `length` bytes if they are at hand without waiting. */
  takeNow(length: number): Buffer | undefined {
    if (this.#chunk.length - this.#at < length) return undefined;
    this.#at += length;
    const taken = this.#chunk.subarray(this.#at - length, this.#at);
    this.#onTaken(taken);
    return taken;
  }

  /** The next `length` bytes, or fewer at the end of the stream. */
  async take(length: number): Promise<Buffer> {
    const now = this.takeNow(length);
    if (now) return now;
    const parts: Buffer[] = [];
    for (let missing = length; missing > 0; ) {
      const part = await this.some(missing);
      if (part.length === 0) break;
      // A copy: the source may use its memory again for the next chunk.
      parts.push(Buffer.from(part));
      missing -= part.length;
    }
    return Buffer.concat(parts);
  }

  /** The next bytes, at least one and at most `limit`; empty only at the end of the stream. */
  async some(limit: number): Promise<Buffer> {
    const part = await this.someUnseen(limit);
    if (part.length > 0) this.#onTaken(part);
    return part;
  }

  /** As `some`, for what `onTaken` has no use for. */
  async someUnseen(limit: number): Promise<Buffer> {
    while (this.#at === this.#chunk.length) {
      const next: IteratorResult<Buffer, unknown> = await this.#source.next();
      if (next.done === true) return Buffer.alloc(0);
      this.#chunk = next.value;
      this.#at = 0;
    }
    const end = Math.min(this.#chunk.length, this.#at + limit);
    const part = this.#chunk.subarray(this.#at, end);
    this.#at = end;
    return part;
  }

  /** Passes over `length` bytes. Throws `invalid` when the stream ends before. */
  async skip(length: number): Promise<void> {
    for (let left = length; left > 0; ) {
      const part = await this.some(left);
      if (part.length === 0) throw invalid('tar', `ends ${left} bytes too early`);
      left -= part.length;
    }
  }

  /** Reads to the end, so that the source sees all bytes. */
  async drain(): Promise<void> {
    while ((await this.some(Number.MAX_SAFE_INTEGER)).length > 0);
  }

  /** Tells the source that nobody reads on, so that it closes its file. */
  async close(): Promise<void> {
    await this.#source.return?.();
  }
}
