import { isDeepStrictEqual } from 'node:util';

import type { Logger } from '../base/log.ts';
import { TlsFiles } from '../base/tls-files.ts';
import { parseAddress } from '../config/check-value.ts';
import type { Config } from '../config/load-config.ts';
import { MetricsServer } from '../metrics/metrics-server.ts';
import type { PrometheusMetrics } from '../metrics/prometheus.ts';
import { nothingToPrepare, type Prepared } from './prepared.ts';

type MetricsConfig = Config['metrics'];

/** Metrics are served at one of each kind at most. */
const KINDS = ['tcp', 'socket'] as const;
type Kind = (typeof KINDS)[number];

/** A place as the configuration wants it. */
type Wanted =
  | {
      readonly host: string;
      readonly port: number;
      readonly tls: Pick<MetricsConfig, 'tlsCert' | 'tlsKey' | 'tlsClientCa'>;
    }
  | { readonly socket: string };

/** A place where metrics are served. */
interface Place {
  readonly wanted: Wanted;
  readonly server: MetricsServer;
  /** The one that the kernel chose where any was wanted. */
  readonly port: number;
  readonly tls: TlsFiles | undefined;
}

/** The places where metrics are served, which may change while berthd runs. */
export class ServedMetrics {
  readonly #metrics: PrometheusMetrics;
  readonly #log: Logger;
  readonly #places = new Map<Kind, Place>();

  constructor(metrics: PrometheusMetrics, log: Logger) {
    this.#metrics = metrics;
    this.#log = log;
  }

  /** When the certificate in use ends; undefined without TLS. */
  get certificateEndsAt(): Date | undefined {
    return this.#places.get('tcp')?.tls?.endsAt;
  }

  /** Serves where the configuration says. Throws when that fails, and serves nowhere. */
  async serve(config: MetricsConfig): Promise<void> {
    const { take } = await this.prepare(config);
    await take();
  }

  /**
   * Serves also where the configuration says, until the old places are left or all is as before. A place that stays is
   * not disturbed; only one that stays and gets another certificate is left for a moment. Throws when it cannot be
   * served there, and serves where it did before.
   */
  async prepare(config: MetricsConfig): Promise<Prepared> {
    const wanted = wantedPlaces(config);
    const changed = KINDS.filter((kind) => !isDeepStrictEqual(this.#places.get(kind)?.wanted, wanted[kind]));
    if (changed.length === 0) return nothingToPrepare;
    const opened = new Map<Kind, Place>();
    const drop = async (): Promise<void> => {
      for (const { server } of opened.values()) await server.close();
      await this.#reopen(changed);
    };
    try {
      for (const kind of changed) {
        const [before, next] = [this.#places.get(kind), wanted[kind]];
        if (before && next && isInTheWay(before, next)) await before.server.close();
        if (next) opened.set(kind, await this.#open(next));
      }
    } catch (err) {
      await drop();
      throw err;
    }
    return { take: async () => await this.#take(changed, opened), drop };
  }

  /** Serves no more. */
  async close(): Promise<void> {
    for (const { server } of this.#places.values()) await server.close();
    this.#places.clear();
  }

  async #take(changed: readonly Kind[], opened: ReadonlyMap<Kind, Place>): Promise<void> {
    for (const kind of changed) {
      const [before, next] = [this.#places.get(kind), opened.get(kind)];
      if (next) this.#places.set(kind, next);
      else this.#places.delete(kind);
      await before?.server.close();
    }
  }

  /** Serves again at the places that were left. */
  async #reopen(kinds: readonly Kind[]): Promise<void> {
    for (const kind of kinds) {
      const place = this.#places.get(kind);
      if (!place || place.server.isListening) continue;
      const { wanted, port } = place;
      const again = await this.#open('host' in wanted ? { ...wanted, port } : wanted);
      this.#places.set(kind, { ...again, wanted });
    }
  }

  async #open(wanted: Wanted): Promise<Place> {
    const server = new MetricsServer(this.#metrics, this.#log);
    try {
      if ('socket' in wanted) {
        await server.listenOn(wanted.socket);
        this.#log.info({ socket: wanted.socket }, 'metrics are served on a socket');
        return { wanted, server, port: 0, tls: undefined };
      }
      const { host, tls: files } = wanted;
      const paths = { cert: files.tlsCert, key: files.tlsKey, clientCa: files.tlsClientCa };
      const tls = paths.cert === '' ? undefined : new TlsFiles('metrics', paths, this.#log);
      const port = await server.listen(host, wanted.port, tls);
      this.#log.info({ tls: tls !== undefined, host, port }, 'metrics are served');
      return { wanted, server, port, tls };
    } catch (err) {
      await server.close();
      throw err;
    }
  }
}

function wantedPlaces({
  listen,
  socket,
  tlsCert,
  tlsKey,
  tlsClientCa,
}: MetricsConfig): Record<Kind, Wanted | undefined> {
  const address = parseAddress(listen);
  return {
    tcp: address && { ...address, tls: { tlsCert, tlsKey, tlsClientCa } },
    socket: socket === '' ? undefined : { socket },
  };
}

/** Two addresses with one port may be the same, or one of them may be all addresses. */
function isInTheWay(before: Place, next: Wanted): boolean {
  return 'port' in next && next.port !== 0 && next.port === before.port;
}
