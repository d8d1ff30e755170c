import { Duplex } from 'node:stream';

import koffi from 'koffi';

import { closeFd } from './at.ts';
import { isErrno } from './errno.ts';
import { readableBytes, readFd, shutdownRead, shutdownWrite, writeFd } from './fd-calls.ts';

/** As much as a pipe holds unless somebody made it larger, so that one turn empties it. */
const LONGEST_READ_BYTES = 64 * 1024;
const SHORTEST_READ_BYTES = 512;
const MOST_MESSAGES = 16;
/**
 * What is read before somebody wants it, and written before it is taken: one piece, of whatever size. The kernel holds
 * small pieces together, while here each of a byte would take some five hundred times as much.
 */
const AHEAD_BYTES = 1;
/** Reads in one turn of the event loop; others want their turn too. */
const MOST_READS = 8;
/** epoll reports a hang-up for as long as it lasts, so a terminal that nobody has open is asked now and then. */
const HANG_UP_MS = 100;

/** What a descriptor is, where it matters for reading and writing. */
export interface FdStreamOptions {
  /** Default: neither. */
  readonly readable?: boolean;
  readonly writable?: boolean;
  /** Each read is one message, and stays one; of at most 64 KiB. */
  readonly messages?: boolean;
  /** Writes are cut into pieces of at most this size: messages, where the other side has a buffer of that size. */
  readonly longestWriteBytes?: number;
  /** What the end of the input does to the other side; default: nothing. A pipe's end is that it is closed. */
  readonly atEnd?: 'shutdown';
  /**
   * A terminal's master hangs up (EIO) while nobody has the terminal open, and `passes` when somebody opens it again;
   * only endWhenEmpty() ends reading then. Default: it is the end.
   */
  readonly hangUp?: 'ends' | 'passes';
}

/**
 * Reads and writes a pipe, a terminal's master or a socket, of whatever kind, without a thread: Node's own streams know
 * neither pseudo terminals' masters nor message sockets, nor when a pipe is empty. Owns the descriptor, which becomes
 * non-blocking. Back-pressure holds in both directions; each read of a message socket is one message.
 */
export class FdStream extends Duplex {
  readonly #fd: number;
  readonly #options: FdStreamOptions;
  readonly #poll: ReturnType<typeof koffi.node.poll>;
  /** Where messages are read to: the kernel throws away what is longer than the buffer, and one may come any moment. */
  readonly #messages: Buffer | undefined;
  #wantsRead = false;
  #rest: { chunk: Buffer; done: (err?: Error | null) => void } | undefined;
  #isScheduled = false;
  #hungUp: NodeJS.Timeout | undefined;
  /** How much may still be read before reading ends; undefined: until the other side ends it. */
  #lastBytes: number | undefined;

  constructor(fd: number, options: FdStreamOptions) {
    const { readable = false, writable = false } = options;
    // The types of Node do not know the first two.
    const sides: object = { readable, writable };
    const { messages = false } = options;
    super({
      ...sides,
      readableObjectMode: messages,
      readableHighWaterMark: messages ? MOST_MESSAGES : AHEAD_BYTES,
      writableHighWaterMark: AHEAD_BYTES,
    });
    this.#fd = fd;
    this.#options = options;
    this.#messages = messages ? Buffer.allocUnsafeSlow(LONGEST_READ_BYTES) : undefined;
    // It also makes the descriptor non-blocking.
    this.#poll = koffi.node.poll(fd, {}, () => this.#schedule());
    this.#poll.stop();
  }

  /**
   * Ends reading as soon as nothing is there to read, and after `limitBytes` in any case: for when the process that
   * wrote has ended, and whoever else holds the other end open is not waited for. What it wrote is not lost when the
   * kernel holds at most `limitBytes`.
   */
  endWhenEmpty(limitBytes: number): void {
    this.#lastBytes ??= limitBytes;
    this.#schedule();
  }

  /** Has the other side's writes fail from now on, while it sees no end of ours. */
  stopReading(): void {
    this.#wantsRead = false;
    this.pause();
    this.#poll.stop();
    shutdownRead(this.#fd);
  }

  override _read(): void {
    this.#wantsRead = true;
    if (this.#lastBytes !== undefined) this.#schedule();
    else this.#await();
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (err?: Error | null) => void): void {
    this.#rest = { chunk, done };
    this.#writeSome();
    this.#await();
  }

  override _final(done: (err?: Error | null) => void): void {
    try {
      if (this.#options.atEnd === 'shutdown') shutdownWrite(this.#fd);
      done();
    } catch (err) {
      // The other side has gone already, and with it whom to tell.
      done(isErrno(err, 'ENOTCONN', 'EPIPE') ? null : toError(err));
    }
  }

  override _destroy(err: Error | null, done: (err?: Error | null) => void): void {
    clearTimeout(this.#hungUp);
    this.#poll.close();
    closeFd(this.#fd);
    const { done: written } = this.#rest ?? {};
    this.#rest = undefined;
    written?.(err ?? new Error('closed'));
    done(err);
  }

  // koffi calls back outside of Node's callback scope, so nothing promises that microtasks run next; an immediate does,
  // in this same turn of the loop.
  #schedule(): void {
    if (this.#isScheduled || this.destroyed) return;
    this.#isScheduled = true;
    setImmediate(() => {
      this.#isScheduled = false;
      if (this.destroyed) return;
      this.#readSome();
      this.#writeSome();
      this.#await();
    });
  }

  #await(): void {
    if (this.destroyed) return;
    const events = { readable: this.#wantsRead && !this.#hungUp, writable: this.#rest !== undefined };
    this.#poll.stop();
    if (events.readable || events.writable) this.#poll.start(events, () => this.#schedule());
  }

  #readSome(): void {
    if (!this.#wantsRead || (this.#hungUp && this.#lastBytes === undefined)) return;
    try {
      for (let reads = 0; reads < MOST_READS && !this.destroyed; reads++) {
        const chunk = this.#readChunk();
        if (chunk === undefined) return;
        this.#wantsRead = false;
        if (!this.push(chunk)) return;
        this.#wantsRead = true;
      }
    } catch (err) {
      this.destroy(toError(err));
    }
  }

  /** What is there; null at the end, undefined when more has to be waited for. */
  #readChunk(): Buffer | null | undefined {
    const isLast = this.#lastBytes !== undefined;
    const limit = Math.min(LONGEST_READ_BYTES, this.#lastBytes ?? LONGEST_READ_BYTES);
    if (limit === 0) return null;
    try {
      // A terminal counts only what it has processed: that it has nothing is told by reading alone.
      const buffer =
        this.#messages ?? Buffer.allocUnsafe(Math.min(limit, Math.max(SHORTEST_READ_BYTES, readableBytes(this.#fd))));
      const length = readFd(this.#fd, buffer);
      if (length === undefined) return isLast ? null : undefined;
      if (length === 0) return null;
      if (this.#lastBytes !== undefined) this.#lastBytes = Math.max(0, this.#lastBytes - length);
      return this.#messages ? Buffer.from(buffer.subarray(0, length)) : buffer.subarray(0, length);
    } catch (err) {
      if (!isErrno(err, 'EIO')) throw err;
      if (isLast || this.#options.hangUp !== 'passes') return null;
      this.#hungUp = setTimeout(() => {
        this.#hungUp = undefined;
        this.#schedule();
      }, HANG_UP_MS);
      return undefined;
    }
  }

  #writeSome(): void {
    if (!this.#rest) return;
    const { done } = this.#rest;
    let { chunk } = this.#rest;
    try {
      while (chunk.length > 0) {
        const length = writeFd(this.#fd, chunk.subarray(0, this.#options.longestWriteBytes));
        if (length === undefined) {
          this.#rest = { chunk, done };
          return;
        }
        chunk = chunk.subarray(length);
      }
      this.#rest = undefined;
      done();
    } catch (err) {
      this.#rest = undefined;
      done(toError(err));
    }
  }
}

function toError(err: unknown): Error {
  return err instanceof Error ? err : new Error(String(err));
}
