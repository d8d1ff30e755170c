import { isDeepStrictEqual } from 'node:util';

import type { Logger } from '../base/log.ts';
import { TlsFiles } from '../base/tls-files.ts';
import { parseAddress } from '../config/check-value.ts';
import type { Config } from '../config/load-config.ts';
import { MetricsServer } from '../metrics/metrics-server.ts';
import type { PrometheusMetrics } from '../metrics/prometheus.ts';

type MetricsConfig = Config['metrics'];

/** The places where metrics are served, which may change while berthd runs. */
export class ServedMetrics {
  readonly #metrics: PrometheusMetrics;
  readonly #log: Logger;
  #server: MetricsServer | undefined;
  #config: MetricsConfig | undefined;
  #tls: TlsFiles | undefined;

  constructor(metrics: PrometheusMetrics, log: Logger) {
    this.#metrics = metrics;
    this.#log = log;
  }

  /** When the certificate in use ends; undefined without TLS. */
  get certificateEndsAt(): Date | undefined {
    return this.#tls?.endsAt;
  }

  /**
   * Serves where the configuration says, in place of where it was before. When that fails, it is served where it was
   * before, and the failure is thrown.
   */
  async serve(config: MetricsConfig): Promise<void> {
    const before = this.#config;
    if (isDeepStrictEqual(config, before)) return;
    await this.close();
    try {
      await this.#open(config);
      this.#config = config;
    } catch (err) {
      await this.close();
      if (before) await this.#open(before);
      throw err;
    }
  }

  /** Serves no more. */
  async close(): Promise<void> {
    await this.#server?.close();
    this.#server = undefined;
    this.#tls = undefined;
  }

  async #open({ listen, socket, tlsCert, tlsKey, tlsClientCa }: MetricsConfig): Promise<void> {
    const server = new MetricsServer(this.#metrics, this.#log);
    this.#server = server;
    const address = parseAddress(listen);
    if (address) {
      const { host } = address;
      if (tlsCert !== '')
        this.#tls = new TlsFiles('metrics', { cert: tlsCert, key: tlsKey, clientCa: tlsClientCa }, this.#log);
      const port = await server.listen(host, address.port, this.#tls);
      this.#log.info({ tls: this.#tls !== undefined, host, port }, 'metrics are served');
    }
    if (socket === '') return;
    await server.listenOn(socket);
    this.#log.info({ socket }, 'metrics are served on a socket');
  }
}
