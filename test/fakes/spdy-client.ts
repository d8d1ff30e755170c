/**
 * A client of SPDY/3.1 as Go's spdystream is one, for tests: it opens streams, knows no windows, and reads its
 * connection only as fast as its streams are read.
 */

import { request as httpRequest } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { Socket } from 'node:net';
import { Duplex } from 'node:stream';
import { constants, createDeflate, type Deflate } from 'node:zlib';

import { createWebSocketStream, WebSocket } from 'ws';

import { HEADER_DICTIONARY } from '../../src/server/streaming/spdy/dictionary.ts';
import { FrameDecoder } from '../../src/server/streaming/spdy/frame-decoder.ts';
import {
  dataHead,
  goAwayFrame,
  pingFrame,
  rstStreamFrame,
  synStreamFrame,
} from '../../src/server/streaming/spdy/frame-encoder.ts';
import type { Frame } from '../../src/server/streaming/spdy/frames.ts';
import { HeaderInflater, serializeHeaders } from '../../src/server/streaming/spdy/header-block.ts';

/** The server refused the upgrade. */
export class UpgradeRefused extends Error {
  readonly status: number;
  readonly headers: Readonly<Record<string, unknown>>;

  constructor(status: number, text: string, headers: Readonly<Record<string, unknown>>) {
    super(`${status}: ${text.trim()}`);
    this.status = status;
    this.headers = headers;
  }
}

/** How to reach a server with TLS. */
export interface ClientTls {
  readonly ca?: string | Buffer;
  readonly cert?: string | Buffer;
  readonly key?: string | Buffer;
}

/** What a client does otherwise than usual. */
export interface SpdyClientOptions extends ClientTls {
  readonly method?: string;
  readonly headers?: Readonly<Record<string, string>>;
}

/** One stream of the client. */
export class SpdyClientStream extends Duplex {
  readonly id: number;
  readonly replied = Promise.withResolvers<void>();
  readonly #client: SpdyClient;
  /** The status of the server's RST_STREAM. */
  resetStatus: number | undefined;

  constructor(id: number, client: SpdyClient) {
    super({ allowHalfOpen: true });
    this.id = id;
    this.#client = client;
    this.replied.promise.catch(() => {});
    this.on('error', () => {});
  }

  override _read(): void {
    this.#client.wanted(this);
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (err?: Error | null) => void): void {
    this.#client.sendData(this.id, chunk, false, done);
  }

  override _final(done: (err?: Error | null) => void): void {
    this.#client.sendData(this.id, Buffer.alloc(0), true, done);
  }
}

/** The client's end of a connection. */
export class SpdyClient {
  readonly protocol: string;
  readonly transport: Duplex;
  /** Frames that came and that no stream is concerned with. */
  readonly frames: Frame[] = [];
  readonly closed: Promise<void>;
  readonly #decoder = new FrameDecoder();
  readonly #inflater = new HeaderInflater();
  readonly #deflate: Deflate = createDeflate({ dictionary: HEADER_DICTIONARY, level: constants.Z_BEST_COMPRESSION });
  readonly #streams = new Map<number, SpdyClientStream>();
  readonly #full = new Set<SpdyClientStream>();
  #opening: Promise<unknown> = Promise.resolve();
  #nextId = 1;

  constructor(transport: Duplex, protocol: string) {
    this.transport = transport;
    this.protocol = protocol;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.closed = promise;
    transport.on('data', (chunk: Buffer) => {
      for (const frame of this.#decoder.decode(chunk)) this.#handle(frame);
      if (this.#full.size > 0) transport.pause();
    });
    // Each of its streams waits for room by itself.
    transport.setMaxListeners(0);
    transport.on('error', () => {});
    transport.on('close', () => {
      for (const stream of this.#streams.values()) {
        stream.replied.reject(new Error('connection closed'));
        stream.destroy(new Error('connection closed'));
      }
      resolve();
    });
    transport.on('end', () => transport.end());
  }

  /** Connects as kubectl does. Throws UpgradeRefused. */
  static async connect(
    url: string,
    protocols: readonly string[],
    options: SpdyClientOptions = {},
  ): Promise<SpdyClient> {
    const { promise, resolve, reject } = Promise.withResolvers<SpdyClient>();
    const request = (url.startsWith('https:') ? httpsRequest : httpRequest)(url, {
      method: options.method ?? 'POST',
      headers: {
        Connection: 'Upgrade',
        Upgrade: 'SPDY/3.1',
        'Content-Length': '0',
        ...(protocols.length > 0 ? { 'X-Stream-Protocol-Version': [...protocols] } : {}),
        ...options.headers,
      },
      agent: false,
      ...tlsOptions(options),
    });
    request.once('upgrade', (response, socket, head) => {
      if (head.length > 0) socket.unshift(head);
      resolve(new SpdyClient(socket, String(response.headers['x-stream-protocol-version'])));
    });
    request.once('response', (response) => {
      let text = '';
      response.setEncoding('utf8');
      response.on('data', (part: string) => {
        text += part;
      });
      response.on('close', () => reject(new UpgradeRefused(response.statusCode ?? 0, text, response.headers)));
    });
    request.once('error', reject);
    request.end();
    return await promise;
  }

  /** Connects through the messages of a WebSocket, as kubectl does for port-forward. Throws UpgradeRefused. */
  static async tunnel(url: string, options: ClientTls = {}): Promise<SpdyClient> {
    return await openWebSocket(
      url,
      ['SPDY/3.1+portforward.k8s.io'],
      options,
      (socket, protocol) => new SpdyClient(createWebSocketStream(socket), protocol),
    );
  }

  /** Opens a stream and waits for the server's reply. Throws when it is refused. */
  async open(headers: Readonly<Record<string, string>>): Promise<SpdyClientStream> {
    const stream = new SpdyClientStream(this.#nextId, this);
    this.#nextId += 2;
    this.#streams.set(stream.id, stream);
    // One after the other: header blocks build on those before.
    this.#opening = this.#opening.then(async () => {
      const block = await this.#compress(serializeHeaders(new Map(Object.entries(headers))));
      this.transport.write(synStreamFrame(stream.id, block));
    });
    await this.#opening;
    await stream.replied.promise;
    return stream;
  }

  /** Ends both directions of a stream. */
  reset(stream: SpdyClientStream, status = 5): void {
    this.transport.write(rstStreamFrame(stream.id, status));
    this.#streams.delete(stream.id);
    stream.destroy();
  }

  ping(id: number): void {
    this.transport.write(pingFrame(id));
  }

  /** Says goodbye, as spdystream's Close() does, and closes. */
  close(): void {
    for (const stream of [...this.#streams.values()]) this.reset(stream);
    this.transport.write(goAwayFrame(0, 0));
    this.transport.end();
  }

  /** Vanishes: the server's kernel sees a reset. */
  vanish(): void {
    const { transport } = this;
    // Node 24 loses a socket that is reset while its end is on its way, and does not exit with it.
    const canReset = transport instanceof Socket && !('encrypted' in transport) && !transport.writableEnded;
    if (canReset) transport.resetAndDestroy();
    else transport.destroy();
  }

  /** For streams: sends data. */
  sendData(id: number, bytes: Buffer, fin: boolean, done: (err?: Error | null) => void): void {
    this.transport.cork();
    this.transport.write(dataHead(id, bytes.length, fin));
    const mayGoOn = this.transport.write(bytes);
    process.nextTick(() => this.transport.uncork());
    if (mayGoOn || this.transport.destroyed) done();
    else this.transport.once('drain', () => done());
  }

  /** For streams: this one has room again. */
  wanted(stream: SpdyClientStream): void {
    if (this.#full.delete(stream) && this.#full.size === 0) this.transport.resume();
  }

  async #compress(plain: Buffer): Promise<Buffer> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#deflate.write(plain);
    this.#deflate.flush(constants.Z_SYNC_FLUSH, resolve);
    await promise;
    return (this.#deflate.read() as Buffer | null) ?? Buffer.alloc(0);
  }

  #handle(frame: Frame): void {
    if (frame.type === 'synReply') {
      this.#inflater.inflate(frame.headerBlock);
      this.#streams.get(frame.streamId)?.replied.resolve();
    } else if (frame.type === 'rstStream') {
      const stream = this.#streams.get(frame.streamId);
      if (!stream) return;
      this.#streams.delete(frame.streamId);
      stream.resetStatus = frame.status;
      stream.replied.reject(new Error(`stream ${frame.streamId} was reset with status ${frame.status}`));
      stream.destroy(new Error(`reset with status ${frame.status}`));
    } else if (frame.type === 'data') {
      const stream = this.#streams.get(frame.streamId);
      if (!stream || stream.destroyed) return;
      if (frame.bytes.length > 0 && !stream.push(frame.bytes)) this.#full.add(stream);
      if (frame.fin) stream.push(null);
    } else {
      if (frame.type === 'ping' && frame.id % 2 === 0) this.ping(frame.id);
      this.frames.push(frame);
    }
  }
}

/** Opens a WebSocket and hands it to `use` before its first message comes. Throws UpgradeRefused. */
export async function openWebSocket<T>(
  url: string,
  protocols: string[],
  options: ClientTls,
  use: (socket: WebSocket, protocol: string) => T,
): Promise<T> {
  const { promise, resolve, reject } = Promise.withResolvers<T>();
  // The library refuses a name with a slash, as Kubernetes' tunnel protocol has one, both asked for and answered.
  const isOdd = protocols.some((name) => name.includes('/'));
  let protocol = '';
  const socket = new WebSocket(url.replace(/^http/, 'ws'), isOdd ? [] : protocols, {
    ...tlsOptions(options),
    perMessageDeflate: false,
    ...(isOdd ? { headers: { 'Sec-WebSocket-Protocol': protocols.join(', ') } } : {}),
  });
  socket.once('upgrade', ({ headers }) => {
    protocol = headers['sec-websocket-protocol'] ?? '';
    if (isOdd) delete headers['sec-websocket-protocol'];
  });
  socket.once('open', () => resolve(use(socket, protocol)));
  socket.once('unexpected-response', (_request, response) => {
    let text = '';
    response.setEncoding('utf8');
    response.on('data', (part: string) => {
      text += part;
    });
    response.on('close', () => {
      reject(new UpgradeRefused(response.statusCode ?? 0, text, response.headers));
      socket.terminate();
    });
  });
  socket.on('error', reject);
  return await promise;
}

function tlsOptions({ ca, cert, key }: ClientTls): ClientTls {
  return { ...(ca ? { ca } : {}), ...(cert ? { cert } : {}), ...(key ? { key } : {}) };
}
