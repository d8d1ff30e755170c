import { finished } from 'node:stream/promises';

import type { RawData, WebSocket } from 'ws';

import { BerthError } from '../../base/errors.ts';
import { FedDuplex } from './fed-duplex.ts';

/** How channels share a WebSocket: each message begins with the number of its channel. */
export interface ChannelFormat {
  /** The number is a digit and the rest base64, for clients that can only send text. */
  readonly isBase64: boolean;
  /** A message of 255 and a channel's number ends that channel: the half-close that v5 brought. */
  readonly hasClose: boolean;
}

const CLOSE_CHANNEL = 255;
/** What one channel holds of what came in before the socket is read no further. */
const CHANNEL_BUFFER_BYTES = 256 * 1024;
/** What may wait to be sent before those who write are held back. */
const SEND_BUFFER_BYTES = 64 * 1024;
/** How long a client may take to answer a goodbye that it did not expect. */
const FAREWELL_MS = 5_000;
/** Codes of RFC 6455, 7.4.1. */
const NORMAL_CLOSURE = 1000;
const PROTOCOL_ERROR = 1002;
const GOING_AWAY = 1001;

/** One channel: what the client sends on it, and what is sent to the client. Its 'end' is the client's half-close. */
export class Channel extends FedDuplex {
  readonly #send: (bytes: Buffer, done: (err?: Error | null) => void) => void;
  readonly #wanted: (channel: Channel) => void;
  #hasInput = true;

  constructor(send: (bytes: Buffer, done: (err?: Error | null) => void) => void, wanted: (channel: Channel) => void) {
    super(CHANNEL_BUFFER_BYTES);
    this.#send = send;
    this.#wanted = wanted;
  }

  /** For the socket: what has come in. False when no more should come for now. */
  receive(bytes: Buffer): boolean {
    return this.destroyed || !this.#hasInput || bytes.length === 0 || this.feed(bytes);
  }

  /** For the socket: the client has ended its side. */
  endInput(): void {
    if (this.#hasInput) this.push(null);
    this.#hasInput = false;
  }

  protected override wanted(): void {
    this.#wanted(this);
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (err?: Error | null) => void): void {
    this.#send(chunk, done);
  }

  override _destroy(err: Error | null, done: (err?: Error | null) => void): void {
    this.#wanted(this);
    done(err);
  }
}

/** The channels on one WebSocket: those of the protocols v1 to v5.channel.k8s.io, binary and base64. */
export class WebSocketChannels {
  readonly #socket: WebSocket;
  readonly #format: ChannelFormat;
  readonly #channels: readonly Channel[];
  readonly #full = new Set<Channel>();
  readonly #gone = new AbortController();
  readonly #closed = Promise.withResolvers<void>();
  readonly #idleTimer: NodeJS.Timeout;
  readonly #probeIntervalMs: number;
  #probeTimer: NodeJS.Timeout | undefined;

  constructor(
    socket: WebSocket,
    count: number,
    format: ChannelFormat,
    times: { readonly idleTimeoutMs: number; readonly probeIntervalMs: number },
  ) {
    this.#socket = socket;
    this.#format = format;
    this.#probeIntervalMs = times.probeIntervalMs;
    this.#channels = Array.from(
      { length: count },
      (_, number) =>
        new Channel(
          (bytes, done) => this.#send(number, bytes, done),
          (channel) => this.#unblock(channel),
        ),
    );
    this.#idleTimer = setTimeout(() => this.#leave(GOING_AWAY, 'idle for too long'), times.idleTimeoutMs).unref();
    socket.on('message', (data) => this.#take(toBuffer(data)));
    socket.on('ping', () => this.#idleTimer.refresh());
    socket.on('error', () => {});
    socket.on('close', () => this.#end());
  }

  /** Aborts when the client has left. */
  get gone(): AbortSignal {
    return this.#gone.signal;
  }

  /** Resolves when the socket is closed. */
  get closed(): Promise<void> {
    return this.#closed.promise;
  }

  /** The channel of this number, which must be one of those that were asked for. */
  channel(number: number): Channel {
    const channel = this.#channels[number];
    if (!channel) throw new RangeError(`channel ${number} of ${this.#channels.length}`);
    return channel;
  }

  /** Sends an empty message, by which clients notice that they are connected. */
  greet(number: number): void {
    this.#send(number, Buffer.alloc(0), () => {});
  }

  /** Reads nothing more from the client, and says goodbye after what has been sent. */
  close(): void {
    for (const channel of this.#channels) channel.destroy();
    this.#socket.close(NORMAL_CLOSURE);
  }

  /** Ends the connection without waiting for the client. */
  terminate(): void {
    this.#socket.terminate();
  }

  #take(message: Buffer): void {
    this.#idleTimer.refresh();
    const first = message[0];
    if (first === undefined) return;
    const { isBase64, hasClose } = this.#format;
    if (hasClose && first === CLOSE_CHANNEL) {
      const channel = message.length === 2 ? this.#channels[message.readUInt8(1)] : undefined;
      if (channel) channel.endInput();
      else this.#leave(PROTOCOL_ERROR, 'no such channel to close');
      return;
    }
    const channel = this.#channels[isBase64 ? first - ASCII_ZERO : first];
    const bytes = isBase64 ? Buffer.from(message.toString('latin1', 1), 'base64') : message.subarray(1);
    if (channel && !channel.receive(bytes)) this.#block(channel);
  }

  // Unlike after a session that ended well, a client that does not answer is not waited for.
  #leave(code: number, reason: string): void {
    this.#socket.close(code, reason);
    const timer = setTimeout(() => this.#socket.terminate(), FAREWELL_MS).unref();
    this.#socket.once('close', () => clearTimeout(timer));
  }

  #block(channel: Channel): void {
    this.#full.add(channel);
    this.#socket.pause();
    // A socket that is not read from does not tell that its other end is gone; one that is written to does.
    this.#probeTimer ??= setInterval(() => this.#probe(), this.#probeIntervalMs).unref();
  }

  #probe(): void {
    if (this.#socket.bufferedAmount === 0) this.#socket.ping();
  }

  #unblock(channel: Channel): void {
    if (!this.#full.delete(channel) || this.#full.size > 0) return;
    clearInterval(this.#probeTimer);
    this.#probeTimer = undefined;
    this.#socket.resume();
  }

  #send(number: number, bytes: Buffer, done: (err?: Error | null) => void): void {
    this.#idleTimer.refresh();
    const isBase64 = this.#format.isBase64;
    const message = isBase64
      ? String.fromCharCode(ASCII_ZERO + number) + bytes.toString('base64')
      : Buffer.concat([Buffer.from([number]), bytes]);
    const mustWait = this.#socket.bufferedAmount > SEND_BUFFER_BYTES;
    this.#socket.send(message, { binary: !isBase64 }, (err) => {
      if (mustWait) done(err ?? null);
    });
    if (!mustWait) done();
  }

  #end(): void {
    clearTimeout(this.#idleTimer);
    clearInterval(this.#probeTimer);
    const reason = new BerthError('cancelled', 'the client has left');
    this.#gone.abort(reason);
    for (const channel of this.#channels) channel.destroy(reason);
    this.#closed.resolve();
  }
}

/** Ends a channel and waits until all of it has been handed to the socket, or until the client has left. */
export async function flushed(channel: Channel): Promise<void> {
  if (!channel.writableEnded) channel.end();
  await finished(channel, { readable: false }).catch(() => {});
}

const ASCII_ZERO = 0x30;

function toBuffer(data: RawData): Buffer {
  if (Buffer.isBuffer(data)) return data;
  return Array.isArray(data) ? Buffer.concat(data) : Buffer.from(data);
}
