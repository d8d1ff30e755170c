import type { Duplex } from 'node:stream';

import { describe, isKind } from '../../../base/errors.ts';
import { FrameDecoder } from './frame-decoder.ts';
import { goAwayFrame, pingFrame, rstStreamFrame, synReplyFrame } from './frame-encoder.ts';
import {
  CONNECTION_ID,
  type Frame,
  GO_AWAY_STATUS,
  INITIAL_WINDOW_BYTES,
  MAX_UINT31,
  RST_STATUS,
  type SpdyHeaders,
} from './frames.ts';
import { HeaderDeflater, HeaderInflater } from './header-block.ts';
import { InboundWindows } from './inbound-windows.ts';
import { Outbox } from './outbox.ts';
import { protocolError } from './protocol-error.ts';
import { SpdyStream, type StreamLink } from './spdy-stream.ts';

/** What a connection's user decides. */
export interface SpdyOptions {
  /** Called for each stream that the client opens: accept it, or reset it. */
  readonly onStream: (stream: SpdyStream) => void;
  /** How many streams may be open at once; more are refused. */
  readonly maxStreams: number;
  /** How long neither side may say anything. */
  readonly idleTimeoutMs: number;
  /** How often the client is asked whether it is there while nothing is read from it. */
  readonly probeIntervalMs?: number;
}

/** What one stream holds of what came in before the connection is read no further. */
const STREAM_BUFFER_BYTES = 256 * 1024;
/** What all streams together hold; with many of them, each holds less. */
const CONNECTION_BUFFER_BYTES = 8 * 1024 * 1024;
/** How long frames are handled before other connections get their turn; a header block takes a tenth of it. */
const SLICE_MS = 2;
/** Answers to a client that does not read them: as many are held, then nothing more is read from it. */
const MAX_ANSWERS = 1000;
const PROBE_INTERVAL_MS = 10_000;
/** How long a client may take to read the last frames. */
const FAREWELL_MS = 5_000;
/** A stream's headers when it is accepted. Go's client ignores them, those that know HTTP want them (3.2.2). */
const ACCEPTED: SpdyHeaders = new Map([
  [':status', '200'],
  [':version', 'HTTP/1.1'],
]);

/**
 * The server's end of a SPDY/3.1 connection on any duplex stream. It ends when the client leaves, when nothing was said
 * for too long, or when the client breaks the protocol; all its streams end with it.
 */
export class SpdyConnection {
  readonly #transport: Duplex;
  readonly #options: SpdyOptions;
  readonly #decoder = new FrameDecoder();
  readonly #inflater = new HeaderInflater();
  readonly #deflater = new HeaderDeflater();
  readonly #outbox: Outbox;
  readonly #windows = new InboundWindows((frame) => this.#answer(frame));
  readonly #streams = new Map<number, SpdyStream>();
  /** Streams that have as much as they can hold. */
  readonly #full = new Set<SpdyStream>();
  readonly #closed = Promise.withResolvers<string>();
  readonly #idleTimer: NodeJS.Timeout;
  #probeTimer: NodeJS.Timeout | undefined;
  #probeId = 0;
  /** What was read and waits for its turn. */
  #frames: Iterator<Frame> | undefined;
  #lastStreamId = 0;
  #answers = 0;
  #isLeaving = false;
  #closeReason: string | undefined;

  readonly #link: StreamLink = {
    reply: (stream) => this.#answer(synReplyFrame(stream.id, this.#deflater.deflate(ACCEPTED))),
    send: (stream, bytes, fin, done) => {
      this.#idleTimer.refresh();
      this.#outbox.data(stream, bytes, fin, done);
    },
    reset: (stream, status) => this.#answer(rstStreamFrame(stream.id, status)),
    wanted: (stream) => this.#unblock(stream),
    consumed: (stream, bytes) => this.#windows.consumed(bytes, stream.destroyed ? undefined : stream.id),
    gone: (stream) => this.#forget(stream),
  };

  constructor(transport: Duplex, options: SpdyOptions) {
    this.#transport = transport;
    this.#options = options;
    this.#outbox = new Outbox(transport);
    this.#idleTimer = setTimeout(() => this.close('idle for too long'), options.idleTimeoutMs);
    this.#idleTimer.unref();
    transport.on('data', (chunk: Buffer) => this.#take(chunk));
    transport.on('error', (err) => this.#end(describe(err)));
    transport.on('end', () => this.#end('the client has left'));
    transport.on('close', () => this.#end('the client has left'));
    // It may have been gone before anybody could listen.
    if (transport.destroyed) this.#end('the client has left');
  }

  /** Resolves with the reason when the connection is over. Never rejects. */
  get closed(): Promise<string> {
    return this.#closed.promise;
  }

  /** Says goodbye and ends everything. */
  close(reason: string, status: number = GO_AWAY_STATUS.ok): void {
    if (this.#closeReason !== undefined) return;
    this.#outbox.control(goAwayFrame(this.#lastStreamId, status));
    this.#end(reason);
  }

  #take(chunk: Buffer): void {
    if (this.#closeReason !== undefined) return;
    this.#idleTimer.refresh();
    this.#frames = this.#decoder.decode(chunk);
    this.#work();
  }

  // Handles what has been read, a slice at a time, and reads on when that is done and all streams have room.
  #work(): void {
    const frames = this.#frames;
    if (!frames || this.#closeReason !== undefined) return;
    try {
      for (const endMs = performance.now() + SLICE_MS; performance.now() < endMs; ) {
        const next = frames.next();
        if (next.done) {
          this.#frames = undefined;
          this.#flow();
          return;
        }
        this.#handle(next.value);
        if (this.#closeReason !== undefined) return;
      }
    } catch (err) {
      this.close(describe(err), isKind(err, 'invalid') ? GO_AWAY_STATUS.protocolError : GO_AWAY_STATUS.internalError);
      return;
    }
    this.#transport.pause();
    setImmediate(() => this.#work());
  }

  #flow(): void {
    if (this.#frames || this.#closeReason !== undefined) return;
    if (this.#full.size === 0 && this.#answers < MAX_ANSWERS) {
      clearInterval(this.#probeTimer);
      this.#probeTimer = undefined;
      if (this.#transport.isPaused()) this.#transport.resume();
      return;
    }
    this.#transport.pause();
    // A socket that is not read from does not tell that its other end is gone; one that is written to does.
    this.#probeTimer ??= setInterval(() => this.#probe(), this.#options.probeIntervalMs ?? PROBE_INTERVAL_MS).unref();
  }

  #probe(): void {
    if (this.#transport.writableNeedDrain) return;
    // A server's pings have even ids, so that the client knows which to answer.
    this.#probeId = (this.#probeId + 2) % MAX_UINT31;
    this.#outbox.control(pingFrame(this.#probeId));
  }

  #handle(frame: Frame): void {
    switch (frame.type) {
      case 'data':
        this.#onData(frame.streamId, frame.bytes, frame.fin);
        return;
      case 'synStream':
        this.#onSynStream(frame.streamId, frame.fin, frame.unidirectional, this.#inflater.inflate(frame.headerBlock));
        return;
      case 'headers':
        // More headers for an open stream mean nothing to us, but the compression must see them.
        this.#inflater.inflate(frame.headerBlock);
        if (frame.fin) this.#onData(frame.streamId, Buffer.alloc(0), true);
        return;
      case 'synReply':
        throw protocolError('a reply to a stream that was not opened');
      case 'rstStream':
        this.#streams.get(frame.streamId)?.abandon(`reset by the client, status ${frame.status}`);
        return;
      case 'settings':
        if (frame.initialWindowBytes !== undefined) this.#outbox.setStreamWindow(frame.initialWindowBytes);
        return;
      case 'windowUpdate':
        if (frame.streamId === CONNECTION_ID || this.#streams.has(frame.streamId))
          this.#outbox.grant(frame.streamId, frame.deltaBytes);
        return;
      case 'ping':
        // An even one answers ours.
        if (frame.id % 2 === 1) this.#answer(pingFrame(frame.id));
        return;
      case 'goAway':
        this.#isLeaving = true;
        if (this.#streams.size === 0) this.#end('the client said goodbye');
        return;
    }
  }

  #onSynStream(id: number, fin: boolean, unidirectional: boolean, headers: SpdyHeaders): void {
    if (this.#isLeaving) return;
    if (id % 2 === 0 || id <= this.#lastStreamId)
      throw protocolError(`stream ${id} is opened after ${this.#lastStreamId}`);
    // Not sooner: Go's client throws away what arrives together with the answer to its upgrade.
    if (this.#lastStreamId === 0) this.#windows.open(this.#outbox.knowsWindows, CONNECTION_BUFFER_BYTES);
    this.#lastStreamId = id;
    // Nobody opens streams that go one way only; they would need a state of their own.
    if (unidirectional || this.#streams.size >= this.#options.maxStreams) {
      this.#answer(rstStreamFrame(id, RST_STATUS.refusedStream));
      return;
    }
    const share = Math.floor(CONNECTION_BUFFER_BYTES / (this.#streams.size + 1));
    const leastBytes = this.#windows.areNarrow ? INITIAL_WINDOW_BYTES + 1 : 1;
    const bufferBytes = Math.max(Math.min(STREAM_BUFFER_BYTES, share), leastBytes);
    const stream = new SpdyStream(id, headers, this.#link, bufferBytes);
    this.#streams.set(id, stream);
    if (fin) stream.receive(Buffer.alloc(0), true);
    this.#options.onStream(stream);
  }

  #onData(id: number, bytes: Buffer, fin: boolean): void {
    const stream = this.#streams.get(id);
    if (!stream) {
      // What was on its way when a stream ended is nobody's fault.
      if (id > this.#lastStreamId) this.#answer(rstStreamFrame(id, RST_STATUS.invalidStream));
      this.#windows.consumed(bytes.length);
    } else if (!stream.receive(bytes, fin)) {
      if (this.#windows.areNarrow) stream.reset(RST_STATUS.flowControlError);
      else this.#full.add(stream);
    }
  }

  #unblock(stream: SpdyStream): void {
    if (this.#full.delete(stream)) this.#flow();
  }

  #forget(stream: SpdyStream): void {
    this.#outbox.forget(stream);
    this.#windows.forget(stream.id);
    this.#streams.delete(stream.id);
    this.#unblock(stream);
    if (this.#isLeaving && this.#streams.size === 0) this.#end('the client said goodbye');
  }

  // What the client makes us say. One that never reads it must not make us hold ever more.
  #answer(frame: Buffer): void {
    this.#outbox.control(frame);
    if (!this.#transport.writableNeedDrain) return;
    if (this.#answers === 0) {
      this.#transport.once('drain', () => {
        this.#answers = 0;
        this.#flow();
      });
    }
    this.#answers++;
  }

  #end(reason: string): void {
    if (this.#closeReason !== undefined) return;
    this.#closeReason = reason;
    clearTimeout(this.#idleTimer);
    clearInterval(this.#probeTimer);
    for (const stream of [...this.#streams.values()]) stream.abandon(reason);
    const transport = this.#transport;
    // What has been written goes out, if the client takes it; what comes in is no longer looked at.
    transport.resume();
    transport.end();
    const timer = setTimeout(() => transport.destroy(), FAREWELL_MS).unref();
    transport.once('close', () => clearTimeout(timer));
    this.#closed.resolve(reason);
  }
}
