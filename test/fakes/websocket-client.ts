/** A client of the WebSocket protocols of exec, attach and port-forward, for tests. */

import { Duplex } from 'node:stream';

import type { WebSocket } from 'ws';

import { type ClientTls, openWebSocket } from './spdy-client.ts';

const CLOSE_CHANNEL = 255;
const SEND_BUFFER_BYTES = 1024 * 1024;

/** One channel of the client. What it writes goes to the server, what it reads came from there. */
class ClientChannel extends Duplex {
  readonly #number: number;
  readonly #client: WebSocketClient;

  constructor(number: number, client: WebSocketClient) {
    super({ allowHalfOpen: true });
    this.#number = number;
    this.#client = client;
    this.on('error', () => {});
  }

  override _read(): void {
    this.#client.wanted(this);
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (err?: Error | null) => void): void {
    this.#client.send(this.#number, chunk, done);
  }

  override _final(done: (err?: Error | null) => void): void {
    this.#client.endChannel(this.#number);
    done();
  }
}

/** The client's end of a WebSocket with channels. */
export class WebSocketClient {
  readonly protocol: string;
  readonly socket: WebSocket;
  /** The code with which the server closed. */
  readonly closed: Promise<number>;
  /** Messages as they came, the first few. */
  readonly firstMessages: Buffer[] = [];
  readonly #channels: ClientChannel[];
  readonly #full = new Set<ClientChannel>();

  constructor(socket: WebSocket, protocol: string, channels: number) {
    this.socket = socket;
    this.protocol = protocol;
    this.#channels = Array.from({ length: channels }, (_, number) => new ClientChannel(number, this));
    const { promise, resolve } = Promise.withResolvers<number>();
    this.closed = promise;
    socket.on('message', (data) => this.#take(data as Buffer));
    socket.on('error', () => {});
    socket.on('close', (code) => {
      for (const channel of this.#channels) {
        // As client-go: a normal closure ends what is read, anything else is an error.
        if (code === 1000) channel.push(null);
        else channel.destroy(new Error(`closed with ${code}`));
      }
      resolve(code);
    });
  }

  /** Connects. Throws UpgradeRefused. */
  static async connect(
    url: string,
    protocols: string[],
    { channels = 5, ...tls }: ClientTls & { channels?: number } = {},
  ): Promise<WebSocketClient> {
    return await openWebSocket(
      url,
      protocols,
      tls,
      (socket, protocol) => new WebSocketClient(socket, protocol, channels),
    );
  }

  channel(number: number): Duplex {
    const channel = this.#channels[number];
    if (!channel) throw new RangeError(`channel ${number}`);
    return channel;
  }

  /** Vanishes: the server's kernel sees a reset. */
  vanish(): void {
    this.socket.terminate();
  }

  /** For channels: sends a message. */
  send(number: number, bytes: Buffer, done: (err?: Error | null) => void): void {
    const mustWait = this.socket.bufferedAmount > SEND_BUFFER_BYTES;
    const message = this.#isBase64
      ? `${number}${bytes.toString('base64')}`
      : Buffer.concat([Buffer.from([number]), bytes]);
    this.socket.send(message, (err) => {
      if (mustWait) done(err ?? null);
    });
    if (!mustWait) done();
  }

  /** For channels: half-closes, if the protocol can. */
  endChannel(number: number): void {
    if (this.protocol.startsWith('v5')) this.socket.send(Buffer.from([CLOSE_CHANNEL, number]));
  }

  /** For channels: this one has room again. */
  wanted(channel: ClientChannel): void {
    if (this.#full.delete(channel) && this.#full.size === 0) this.socket.resume();
  }

  get #isBase64(): boolean {
    return this.protocol.includes('base64');
  }

  #take(message: Buffer): void {
    if (this.firstMessages.length < 10) this.firstMessages.push(message);
    const channel = this.#channels[this.#isBase64 ? message.readUInt8(0) - 0x30 : message.readUInt8(0)];
    const bytes = this.#isBase64 ? Buffer.from(message.toString('latin1', 1), 'base64') : message.subarray(1);
    if (!channel || channel.destroyed || bytes.length === 0) return;
    if (channel.push(bytes)) return;
    this.#full.add(channel);
    this.socket.pause();
  }
}
