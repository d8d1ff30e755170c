import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

import { because, describe, wrap } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import { nodeHttp } from '../base/node-http.ts';
import { bindForRoot } from '../base/socket-path.ts';
import type { TlsFiles } from '../base/tls-files.ts';
import type { PrometheusMetrics } from './prometheus.ts';

/** A scraper sends its request at once. */
const REQUEST_TIMEOUT_MS = 10_000;
/** More than a node's scrapers; they are told apart from who only holds connections. */
const MAX_CONNECTIONS = 64;
/** How often a rotated certificate is looked for where nobody connects: a scraper that refuses the old one may not. */
const REFRESH_MS = 30_000;

/** Serves `GET /metrics` in Prometheus' text format, on TCP, with TLS or without, and on a unix socket. */
export class MetricsServer {
  readonly #metrics: PrometheusMetrics;
  readonly #log: Logger;
  readonly #servers: Server[] = [];
  #timer: NodeJS.Timeout | undefined;

  constructor(metrics: PrometheusMetrics, log: Logger) {
    this.#metrics = metrics;
    this.#log = log;
  }

  /** False before it listens, and after close(). */
  get isListening(): boolean {
    return this.#servers.some((server) => server.listening);
  }

  /**
   * Listens on TCP and returns the port, the one the kernel chose for port 0. Throws when the address is taken, and
   * `precondition` when the certificate cannot be used.
   */
  async listen(host: string, port: number, tls?: TlsFiles): Promise<number> {
    const server = tls ? await this.#createTls(tls) : this.#own(nodeHttp().createServer());
    try {
      await listening(server, { host, port });
    } catch (err) {
      throw wrap(`[metrics] listen ${host}:${port}`, err);
    }
    return (server.address() as AddressInfo).port;
  }

  /** Listens on a unix socket that root and its group may use, without TLS. Throws as bindForRoot() does. */
  async listenOn(socketPath: string): Promise<void> {
    const server = this.#own(nodeHttp().createServer());
    try {
      await bindForRoot(socketPath, () => listening(server, { path: socketPath }));
    } catch (err) {
      throw wrap('[metrics] socket', err);
    }
  }

  /** Ends all connections and stops. Safe when it never listened. */
  async close(): Promise<void> {
    clearInterval(this.#timer);
    for (const server of this.#servers.splice(0)) {
      if (!server.listening) continue;
      const { promise, resolve } = Promise.withResolvers<void>();
      server.close(() => resolve());
      server.closeAllConnections();
      await promise;
    }
  }

  async #createTls(tls: TlsFiles): Promise<Server> {
    const { createServer } = await import('node:https');
    try {
      const server = createServer({
        ...(await tls.read()),
        ...(tls.hasClientCa ? { requestCert: true, rejectUnauthorized: true } : {}),
        handshakeTimeout: REQUEST_TIMEOUT_MS,
      });
      const refresh = (): void => void tls.refresh((options) => server.setSecureContext(options));
      server.on('connection', refresh);
      this.#timer = setInterval(refresh, REFRESH_MS).unref();
      return this.#own(server);
    } catch (err) {
      throw because('precondition', 'metrics.tls_cert and metrics.tls_key cannot be used', err);
    }
  }

  #own(server: Server): Server {
    server.on('error', (err) => this.#log.warn({ err: describe(err) }, 'metrics server'));
    server.on('request', (request, response) => void this.#answer(request, response));
    server.headersTimeout = REQUEST_TIMEOUT_MS;
    server.requestTimeout = REQUEST_TIMEOUT_MS;
    server.maxConnections = MAX_CONNECTIONS;
    this.#servers.push(server);
    return server;
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const path = request.url?.split('?', 1)[0];
    if (path !== '/metrics') return void response.writeHead(404).end('see /metrics\n');
    if (request.method !== 'GET' && request.method !== 'HEAD')
      return void response.writeHead(405, { allow: 'GET' }).end();
    try {
      const { contentType, text } = await this.#metrics.scrape();
      response.writeHead(200, { 'content-type': contentType }).end(text);
    } catch (err) {
      this.#log.error({ err: describe(err) }, 'metrics cannot be collected');
      response.writeHead(500).end('metrics cannot be collected; see the log\n');
    }
  }
}

async function listening(server: Server, place: { path: string } | { host: string; port: number }): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  server.once('error', reject);
  server.listen(place, resolve);
  await promise;
}
