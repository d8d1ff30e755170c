import { readFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { isDeepStrictEqual } from 'node:util';

import { wrap } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import type { Config } from '../config/load-config.ts';
import type { PrometheusMetrics } from '../metrics/prometheus.ts';
import type { SpanSink, Tracer } from '../server/tracing/tracer.ts';
import { nothingToPrepare, type Prepared } from './prepared.ts';

type TracingConfig = Config['tracing'];

/** Where traces are sent, which may change while berthd runs. What sends them is loaded when there is such a place. */
export class SentTraces {
  readonly #tracer: Tracer;
  readonly #version: string;
  readonly #metrics: Pick<PrometheusMetrics, 'spans'>;
  readonly #log: Logger;
  #config: TracingConfig | undefined;

  constructor(parts: {
    readonly tracer: Tracer;
    readonly version: string;
    readonly metrics: Pick<PrometheusMetrics, 'spans'>;
    readonly log: Logger;
  }) {
    this.#tracer = parts.tracer;
    this.#version = parts.version;
    this.#metrics = parts.metrics;
    this.#log = parts.log;
  }

  /** Sends where the configuration says from now on. Throws for a certificate that cannot be used, and changes nothing. */
  async follow(config: TracingConfig): Promise<void> {
    const { take } = await this.prepare(config);
    await take();
  }

  /** Makes ready to send where the configuration says. Throws for a certificate that cannot be used. */
  async prepare(config: TracingConfig): Promise<Prepared> {
    if (isDeepStrictEqual(config, this.#config)) return nothingToPrepare;
    const sink = config.endpoint === '' ? undefined : await this.#open(config);
    return { take: async () => await this.#take(config, sink), drop: async () => await sink?.close() };
  }

  /** Sends what waits, for a short while, and traces no more. */
  async close(): Promise<void> {
    await this.#tracer.sendTo(undefined, 0)?.close();
  }

  async #take(config: TracingConfig, sink: SpanSink | undefined): Promise<void> {
    this.#config = config;
    const before = this.#tracer.sendTo(sink, config.samplingRatePerMillion);
    if (sink) this.#log.info({ endpoint: config.endpoint, tls: config.tls }, 'traces are sent');
    await before?.close();
  }

  async #open({ endpoint, tls, tlsCa, tlsCert, tlsKey }: TracingConfig): Promise<SpanSink> {
    const { OtlpSender } = await import('../server/tracing/otlp-sender.ts');
    const read = async (key: string, path: string): Promise<Buffer> => {
      try {
        return path === '' ? Buffer.alloc(0) : await readFile(path);
      } catch (err) {
        throw wrap(`tracing.${key}: ${path}`, err);
      }
    };
    const material = tls
      ? { ca: await read('tls_ca', tlsCa), cert: await read('tls_cert', tlsCert), key: await read('tls_key', tlsKey) }
      : undefined;
    try {
      return new OtlpSender({
        endpoint,
        tls: material,
        resource: {
          'service.name': 'berthd',
          'service.version': this.#version,
          'host.name': hostname(),
          'process.pid': process.pid,
        },
        log: this.#log,
        count: this.#metrics.spans,
      });
    } catch (err) {
      throw wrap('tracing.tls_ca, tracing.tls_cert and tracing.tls_key cannot be used', err);
    }
  }
}
