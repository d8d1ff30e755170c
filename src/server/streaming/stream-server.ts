import type { IncomingMessage, Server } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { SecureContextOptions } from 'node:tls';

import type { Clock } from '../../base/clock.ts';
import { BerthError, because, describe, wrap } from '../../base/errors.ts';
import type { Logger } from '../../base/log.ts';
import { nodeHttp } from '../../base/node-http.ts';
import type { TlsFiles } from '../../base/tls-files.ts';
import type { PodStreams } from '../../pod/pod-streams.ts';
import type { StreamTimes } from './command-client.ts';
import type { StreamRequest } from './stream-request.ts';
import { StreamTokens } from './stream-tokens.ts';
import { refuse, type Upgrade } from './upgrade.ts';

/** As the kubelet's streaming library has them; the last for clients that read slowly. */
export const STREAM_TIMES: StreamTimes = Object.freeze({
  creationTimeoutMs: 30_000,
  idleTimeoutMs: 4 * 3600_000,
  lingerMs: 15 * 60_000,
  probeIntervalMs: 10_000,
});
/** A client sends its request at once; who does not is none. */
const REQUEST_TIMEOUT_MS = 10_000;
const MAX_CONNECTIONS = 4096;
/** Those among them that were granted nothing yet. Anybody on the host can make them, and clients ask at once. */
const MAX_WAITING = 512;
/** A client whose machine is gone never says so; the kernel finds out. */
const SOCKET_OPTIONS = { noDelay: true, keepAlive: true, keepAliveInitialDelay: 30_000 } as const;
/** How long sessions may take to tell their clients that the daemon stops. */
const DRAIN_TIMEOUT_MS = 3_000;

/** What the server is made of. */
export interface StreamServerDeps {
  readonly target: Pick<PodStreams, 'exec' | 'attach' | 'portForward'>;
  readonly log: Logger;
  readonly clock: Clock;
  /** Absent: no TLS. */
  readonly tls?: TlsFiles;
  readonly times?: StreamTimes;
}

/**
 * Where clients connect for exec, attach and port-forward. Nobody is asked who he is: a URL is given out by an RPC on
 * the CRI socket, works once, within a minute, and cannot be guessed.
 */
export class StreamServer {
  readonly #deps: StreamServerDeps;
  readonly #times: StreamTimes;
  readonly #tokens: StreamTokens<StreamRequest>;
  readonly #stopping = new AbortController();
  readonly #sessions = new Set<Promise<void>>();
  /** Upgraded connections: the HTTP server knows nothing of them, but waits for them when it closes. */
  readonly #sockets = new Set<Duplex>();
  /** Connections that have not shown a token, the oldest first, by their peer: under TLS they change their object. */
  readonly #waiting = new Map<string, Socket>();
  #server: Server | undefined;
  #setTls: ((options: SecureContextOptions) => void) | undefined;
  #baseUrl = '';

  constructor(deps: StreamServerDeps) {
    this.#deps = deps;
    this.#times = deps.times ?? STREAM_TIMES;
    this.#tokens = new StreamTokens(deps.clock);
  }

  /** Listens. Port 0 takes any free one. Returns what all URLs begin with. */
  async listen(host: string, port: number): Promise<string> {
    const server = await this.#create();
    this.#server = server;
    server.headersTimeout = REQUEST_TIMEOUT_MS;
    server.requestTimeout = REQUEST_TIMEOUT_MS;
    server.maxConnections = MAX_CONNECTIONS;
    server.on('connection', (socket: Socket) => this.#admit(socket));
    server.on('request', (request, response) => {
      const isKnown = this.#take(request) !== undefined;
      response.writeHead(isKnown ? 400 : 404, { 'Content-Type': 'text/plain; charset=utf-8' });
      response.end(isKnown ? 'ask for an upgrade to SPDY/3.1 or websocket\n' : NO_STREAM);
    });
    server.on('upgrade', (request, socket, head) => this.#upgrade({ request, socket, head }));
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    server.once('error', reject);
    server.listen({ host, port }, resolve);
    try {
      await promise;
    } catch (err) {
      throw wrap(`serve streams on ${host}:${port}`, err);
    }
    server.off('error', reject);
    server.on('error', (err) => this.#deps.log.warn({ err: describe(err) }, 'stream server'));
    const { port: bound } = server.address() as AddressInfo;
    this.#baseUrl = `${this.#deps.tls ? 'https' : 'http'}://${urlHost(host)}:${bound}`;
    return this.#baseUrl;
  }

  /** A URL that carries out `request` for the first who connects to it within a minute. Throws `exhausted`. */
  async urlFor(request: StreamRequest): Promise<string> {
    if (this.#stopping.signal.aborted) throw new BerthError('unavailable', 'berthd is stopping');
    const setTls = this.#setTls;
    if (setTls) await this.#deps.tls?.refresh(setTls);
    return `${this.#baseUrl}/${request.kind}/${this.#tokens.issue(request)}`;
  }

  /** When the certificate in use ends; undefined without TLS. */
  get certificateEndsAt(): Date | undefined {
    return this.#deps.tls?.endsAt;
  }

  /** How many sessions are open. */
  get sessions(): number {
    return this.#sessions.size;
  }

  /** Takes no more clients, ends all sessions, and waits a moment for clients to hear why. */
  async close(): Promise<void> {
    this.#stopping.abort(new BerthError('cancelled', 'berthd is stopping'));
    const server = this.#server;
    if (!server) return;
    const { promise: closed, resolve } = Promise.withResolvers<void>();
    server.close(() => resolve());
    server.closeIdleConnections();
    const { promise: late, resolve: giveUp } = Promise.withResolvers<void>();
    const timer = setTimeout(giveUp, DRAIN_TIMEOUT_MS);
    await Promise.race([Promise.all(this.#sessions), late]);
    clearTimeout(timer);
    for (const socket of this.#sockets) socket.destroy();
    server.closeAllConnections();
    await closed;
  }

  async #create(): Promise<Server> {
    const { tls } = this.#deps;
    if (!tls) return nodeHttp().createServer(SOCKET_OPTIONS);
    const { createServer: createTlsServer } = await import('node:https');
    try {
      const server = createTlsServer({
        ...SOCKET_OPTIONS,
        ...(await tls.read()),
        ...(tls.hasClientCa ? { requestCert: true, rejectUnauthorized: true } : {}),
        handshakeTimeout: REQUEST_TIMEOUT_MS,
      });
      this.#setTls = (options) => server.setSecureContext(options);
      return server;
    } catch (err) {
      throw because('precondition', 'stream.tls_cert and stream.tls_key cannot be used', err);
    }
  }

  // Who holds connections open without a word must not keep out those who have been granted something.
  #admit(socket: Socket): void {
    const peer = peerOf(socket);
    this.#waiting.set(peer, socket);
    socket.once('close', () => {
      if (this.#waiting.get(peer) === socket) this.#waiting.delete(peer);
    });
    const [oldest] = this.#waiting.values();
    if (this.#waiting.size > MAX_WAITING) oldest?.destroy();
  }

  #take({ url = '' }: IncomingMessage): StreamRequest | undefined {
    const [, kind, token] = /^\/(exec|attach|portforward)\/([\w-]{1,64})(?:\?.*)?$/.exec(url) ?? [];
    const request = token === undefined ? undefined : this.#tokens.take(token);
    return request?.kind === kind ? request : undefined;
  }

  #upgrade(upgrade: Upgrade): void {
    const { request, socket } = upgrade;
    // Whoever uses the socket hears 'close' as well.
    socket.on('error', () => {});
    this.#sockets.add(socket);
    socket.once('close', () => this.#sockets.delete(socket));
    const granted = this.#take(request);
    if (!granted) {
      refuse(socket, 404, NO_STREAM.trim());
      return;
    }
    this.#waiting.delete(peerOf(request.socket));
    const session = this.#serve(granted, upgrade).catch((err: unknown) => {
      this.#deps.log.warn({ ...subjectOf(granted), err: describe(err) }, `${granted.kind} failed`);
      socket.destroy();
    });
    this.#sessions.add(session);
    void session.finally(() => this.#sessions.delete(session));
  }

  async #serve(granted: StreamRequest, upgrade: Upgrade): Promise<void> {
    const startedMs = performance.now();
    // Many nodes see no stream for days: what carries them is loaded with the first one.
    const { serveStream } = await import('./stream-session.ts');
    const { target, log } = this.#deps;
    const facts = await serveStream(granted, upgrade, { target, log, times: this.#times }, this.#stopping.signal);
    if (!facts) return;
    const ms = Math.round(performance.now() - startedMs);
    log.info({ ...subjectOf(granted), ...facts, ms }, `${granted.kind} ended`);
  }
}

const NO_STREAM = 'no stream is granted here: a URL works once, within a minute\n';

function subjectOf(request: StreamRequest): Record<string, string> {
  return request.kind === 'portforward' ? { sandbox: request.sandboxId } : { container: request.containerId };
}

function peerOf({ remoteAddress, remotePort }: Socket): string {
  return `${remoteAddress} ${remotePort}`;
}

// A client on this machine cannot connect to "all addresses".
function urlHost(host: string): string {
  if (host === '' || host === '0.0.0.0') return '127.0.0.1';
  if (host === '::') return '[::1]';
  return host.includes(':') ? `[${host}]` : host;
}
