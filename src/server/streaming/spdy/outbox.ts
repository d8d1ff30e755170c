import type { Duplex } from 'node:stream';

import { BerthError } from '../../../base/errors.ts';
import { dataHead } from './frame-encoder.ts';
import { INITIAL_WINDOW_BYTES } from './frames.ts';
import type { SpdyStream } from './spdy-stream.ts';

/** The most that one stream sends before others get their turn. */
const MAX_DATA_BYTES = 64 * 1024;

/** What a stream has to send. */
interface Letter {
  readonly stream: SpdyStream;
  readonly bytes: Buffer;
  readonly fin: boolean;
  readonly done: (err?: Error | null) => void;
  sentBytes: number;
}

/**
 * What goes out of a connection: control frames at once, data of the streams in turns, and only as fast as the client
 * takes it. Nothing piles up here: each stream hands over its next bytes when the last ones are gone.
 *
 * Go's spdystream, the client of kubectl, crictl and the API server, knows no windows: it never sends a WINDOW_UPDATE
 * and lets TCP hold back whom it cannot follow. A client that does speak of windows gets no more than they allow.
 */
export class Outbox {
  readonly #transport: Duplex;
  /** Those that wait for their turn, one letter a stream. */
  readonly #turns = new Set<Letter>();
  readonly #starved = new Set<Letter>();
  readonly #sentOnStreams = new Map<number, number>();
  /** What the client has granted beyond the initial window; undefined while it has said nothing about windows. */
  #granted: Map<number, number> | undefined;
  #streamWindowBytes = INITIAL_WINDOW_BYTES;
  #connectionGrantedBytes = INITIAL_WINDOW_BYTES;
  #sentBytes = 0;
  #isWaiting = false;

  constructor(transport: Duplex) {
    this.#transport = transport;
  }

  /** True when the client has said something about windows. */
  get knowsWindows(): boolean {
    return this.#granted !== undefined;
  }

  /** Sends a control frame. */
  control(frame: Buffer): void {
    if (this.#transport.writable) this.#transport.write(frame);
  }

  /** Sends data of a stream when it is its turn. */
  data(stream: SpdyStream, bytes: Buffer, fin: boolean, done: (err?: Error | null) => void): void {
    this.#turns.add({ stream, bytes, fin, done, sentBytes: 0 });
    this.#pump();
  }

  /** A stream is over: what it still had to send is not. */
  forget(stream: SpdyStream): void {
    for (const letters of [this.#turns, this.#starved]) {
      for (const letter of letters) {
        if (letter.stream !== stream) continue;
        letters.delete(letter);
        letter.done(new BerthError('cancelled', `stream ${stream.id} is closed`));
      }
    }
    this.#sentOnStreams.delete(stream.id);
    this.#granted?.delete(stream.id);
  }

  /** The client lets each stream send so much before it asks for more. */
  setStreamWindow(bytes: number): void {
    this.#granted ??= new Map();
    this.#streamWindowBytes = bytes;
    this.#feed();
  }

  /** The client takes so many bytes more, of a stream or, with id 0, of all together. */
  grant(streamId: number, bytes: number): void {
    this.#granted ??= new Map();
    if (streamId === 0) this.#connectionGrantedBytes += bytes;
    else this.#granted.set(streamId, (this.#granted.get(streamId) ?? 0) + bytes);
    this.#feed();
  }

  #feed(): void {
    for (const letter of this.#starved) this.#turns.add(letter);
    this.#starved.clear();
    this.#pump();
  }

  #pump(): void {
    for (const letter of this.#turns) {
      if (this.#transport.writableNeedDrain) {
        this.#wait();
        return;
      }
      this.#turns.delete(letter);
      this.#send(letter);
    }
  }

  #send(letter: Letter): void {
    const { stream, bytes, fin, done, sentBytes } = letter;
    const left = bytes.length - sentBytes;
    const size = Math.min(left, MAX_DATA_BYTES, this.#creditOf(stream.id));
    if (size <= 0 && left > 0) {
      this.#starved.add(letter);
      return;
    }
    const isLast = size === left;
    const transport = this.#transport;
    transport.cork();
    transport.write(dataHead(stream.id, size, fin && isLast));
    if (size > 0) transport.write(bytes.subarray(sentBytes, sentBytes + size));
    process.nextTick(() => transport.uncork());
    letter.sentBytes += size;
    this.#sentBytes += size;
    this.#sentOnStreams.set(stream.id, (this.#sentOnStreams.get(stream.id) ?? 0) + size);
    if (isLast) done();
    else this.#turns.add(letter);
  }

  #creditOf(streamId: number): number {
    if (!this.#granted) return Number.POSITIVE_INFINITY;
    const sent = this.#sentOnStreams.get(streamId) ?? 0;
    const ofStream = this.#streamWindowBytes + (this.#granted.get(streamId) ?? 0) - sent;
    return Math.min(ofStream, this.#connectionGrantedBytes - this.#sentBytes);
  }

  #wait(): void {
    if (this.#isWaiting) return;
    this.#isWaiting = true;
    this.#transport.once('drain', () => {
      this.#isWaiting = false;
      this.#pump();
    });
  }
}
