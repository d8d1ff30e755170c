import type { IncomingMessage, Server, ServerResponse } from 'node:http';

import { describe, wrap } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import { nodeHttp } from '../base/node-http.ts';
import type { PrometheusMetrics } from './prometheus.ts';

/** Serves `GET /metrics` in Prometheus' text format on a TCP address, and nothing else. */
export class MetricsServer {
  readonly #metrics: PrometheusMetrics;
  readonly #log: Logger;
  readonly #server: Server;

  constructor(metrics: PrometheusMetrics, log: Logger) {
    this.#metrics = metrics;
    this.#log = log;
    this.#server = nodeHttp().createServer((request, response) => void this.#answer(request, response));
  }

  /** Starts to listen and returns the port, the one the kernel chose for port 0. Throws when the address is taken. */
  async listen(host: string, port: number): Promise<number> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.#server.once('error', reject);
    this.#server.listen({ host, port }, resolve);
    try {
      await promise;
    } catch (err) {
      throw wrap(`[metrics] listen ${host}:${port}`, err);
    }
    const address = this.#server.address();
    return typeof address === 'object' && address !== null ? address.port : port;
  }

  /** Ends all connections and stops. Safe when it never listened. */
  async close(): Promise<void> {
    if (!this.#server.listening) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#server.close(() => resolve());
    this.#server.closeAllConnections();
    await promise;
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
