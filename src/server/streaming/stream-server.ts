import { createServer, type IncomingMessage, type Server } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { SecureContextOptions } from 'node:tls';

import type { Clock } from '../../base/clock.ts';
import { BerthError, because, describe, wrap } from '../../base/errors.ts';
import type { Logger } from '../../base/log.ts';
import type { PodStreams } from '../../pod/pod-streams.ts';
import type { StreamTimes } from './command-client.ts';
import { serveCommand } from './command-session.ts';
import type { CommandOutcome } from './command-status.ts';
import { openSpdyCommand, SPDY_COMMAND_PROTOCOLS } from './spdy-command.ts';
import { SPDY_PORT_FORWARD_PROTOCOL, serveSpdyPortForward } from './spdy-port-forward.ts';
import type { CommandStreams, PortForwardStreams, StreamRequest } from './stream-request.ts';
import { StreamTokens } from './stream-tokens.ts';
import type { TlsFiles } from './tls-files.ts';
import { refuse, type Upgrade, upgradeToSpdy, upgradeToWebSocket } from './upgrade.ts';
import { openWebSocketCommand, WEBSOCKET_COMMAND_PROTOCOLS } from './websocket-command.ts';
import {
  MAX_CHANNEL_PORTS,
  serveWebSocketPortForward,
  TUNNEL_PROTOCOL,
  WEBSOCKET_PORT_FORWARD_PROTOCOLS,
} from './websocket-port-forward.ts';

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
    if (!tls) return createServer(SOCKET_OPTIONS);
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
    const wanted = (upgrade.request.headers.upgrade ?? '').toLowerCase();
    if (wanted !== 'websocket' && wanted !== 'spdy/3.1') {
      refuse(upgrade.socket, 400, 'ask for an upgrade to SPDY/3.1 or websocket');
      return;
    }
    const isWebSocket = wanted === 'websocket';
    const facts =
      granted.kind === 'portforward'
        ? await (isWebSocket ? this.#forwardByWebSocket(granted, upgrade) : this.#forwardBySpdy(granted, upgrade))
        : await (isWebSocket ? this.#runByWebSocket(granted, upgrade) : this.#runBySpdy(granted, upgrade));
    if (!facts) return;
    const ms = Math.round(performance.now() - startedMs);
    this.#deps.log.info({ ...subjectOf(granted), ...facts, ms }, `${granted.kind} ended`);
  }

  async #runBySpdy(granted: CommandStreams, upgrade: Upgrade): Promise<Facts> {
    const agreed = upgradeToSpdy(upgrade, SPDY_COMMAND_PROTOCOLS);
    if (!agreed) return undefined;
    const { protocol, transport } = agreed;
    const client = await openSpdyCommand(transport, granted, protocol, this.#times);
    const outcome = await serveCommand(granted, client, this.#deps.target, this.#times.lingerMs, this.#stopping.signal);
    return { protocol: `SPDY ${protocol}`, ...outcomeFacts(outcome) };
  }

  async #runByWebSocket(granted: CommandStreams, upgrade: Upgrade): Promise<Facts> {
    const { lingerMs } = this.#times;
    const agreed = await upgradeToWebSocket(upgrade, [...WEBSOCKET_COMMAND_PROTOCOLS.keys()], lingerMs);
    const format = agreed && WEBSOCKET_COMMAND_PROTOCOLS.get(agreed.protocol);
    if (!format) return undefined;
    const client = openWebSocketCommand(agreed.socket, granted, format, this.#times);
    const outcome = await serveCommand(granted, client, this.#deps.target, lingerMs, this.#stopping.signal);
    return { protocol: `WebSocket ${agreed.protocol}`, ...outcomeFacts(outcome) };
  }

  async #forwardBySpdy(granted: PortForwardStreams, upgrade: Upgrade): Promise<Facts> {
    const agreed = upgradeToSpdy(upgrade, [SPDY_PORT_FORWARD_PROTOCOL]);
    if (!agreed) return undefined;
    const { protocol, transport } = agreed;
    const reason = await serveSpdyPortForward(transport, granted, this.#times, this.#deps, this.#stopping.signal);
    return { protocol: `SPDY ${protocol}`, reason };
  }

  async #forwardByWebSocket(granted: PortForwardStreams, upgrade: Upgrade): Promise<Facts> {
    const hasPorts = granted.ports.length > 0 && granted.ports.length <= MAX_CHANNEL_PORTS;
    const supported = [TUNNEL_PROTOCOL, ...(hasPorts ? WEBSOCKET_PORT_FORWARD_PROTOCOLS.keys() : [])];
    const agreed = await upgradeToWebSocket(upgrade, supported, this.#times.lingerMs);
    if (!agreed) return undefined;
    const { protocol, socket } = agreed;
    const format = WEBSOCKET_PORT_FORWARD_PROTOCOLS.get(protocol);
    const stopping = this.#stopping.signal;
    if (format) {
      const reason = await serveWebSocketPortForward(socket, granted, format, this.#times, this.#deps, stopping);
      return { protocol: `WebSocket ${protocol}`, reason };
    }
    const { createWebSocketStream } = await import('ws');
    const transport = createWebSocketStream(socket);
    const reason = await serveSpdyPortForward(transport, granted, this.#times, this.#deps, stopping);
    return { protocol: `WebSocket ${protocol}`, reason };
  }
}

/** What the log says about a session; undefined when the client was refused. */
type Facts = Readonly<Record<string, unknown>> | undefined;

const NO_STREAM = 'no stream is granted here: a URL works once, within a minute\n';

function subjectOf(request: StreamRequest): Record<string, string> {
  return request.kind === 'portforward' ? { sandbox: request.sandboxId } : { container: request.containerId };
}

function outcomeFacts(outcome: CommandOutcome): Record<string, unknown> {
  return outcome.type === 'ended' ? { exitCode: outcome.exitCode } : { err: describe(outcome.error) };
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
