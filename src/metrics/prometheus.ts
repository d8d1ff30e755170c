import { collectDefaultMetrics, Registry } from 'prom-client';

import type { Meter } from '../base/meter.ts';
import { CATALOG, type MetricName } from './catalog.ts';
import { Instruments, type Reading } from './instruments.ts';

/** Figures that are read when somebody scrapes, not counted as they happen. */
export type LiveFigures = Partial<Record<MetricName, () => Reading | Promise<Reading>>>;

/** The Prometheus registry of one berthd. What labels may say is bounded by the catalog. */
export class PrometheusMetrics {
  readonly meter: Meter;
  /** Counts a reload of the configuration. */
  readonly configReloaded: (outcome: 'ok' | 'refused') => void;
  /** Counts spans of traces. */
  readonly spans: (outcome: 'exported' | 'dropped' | 'failed', count: number) => void;
  readonly #registry = new Registry();
  readonly #instruments = new Instruments(this.#registry);

  constructor() {
    collectDefaultMetrics({ register: this.#registry, prefix: 'berth_' });
    this.meter = buildMeter(this.#instruments);
    const reloads = this.#instruments.counter('berth_config_reloads_total');
    this.configReloaded = (outcome) => reloads({ outcome });
    const spans = this.#instruments.counter('berth_trace_spans_total');
    this.spans = (outcome, count) => spans({ outcome }, count);
  }

  /** Adds what is read from other rooms, each once, when those are there. */
  watch(live: LiveFigures): void {
    for (const [name, read] of Object.entries(live)) {
      if (isMetricName(name)) this.#instruments.live(name, read);
    }
  }

  /** The names of all metrics that a scrape has, also those without a value so far. */
  names(): string[] {
    return this.#registry.getMetricsAsArray().map(({ name }) => name);
  }

  /** Everything in Prometheus' text format, with the content type to answer with. */
  async scrape(): Promise<{ contentType: string; text: string }> {
    return { contentType: this.#registry.contentType, text: await this.#registry.metrics() };
  }
}

function isMetricName(name: string): name is MetricName {
  return Object.hasOwn(CATALOG, name);
}

/** A reading by the values of one label. */
export function by(label: string, counts: Iterable<readonly [string, number]>): Reading {
  return [...counts].map(([value, count]) => [{ [label]: value }, count] as const);
}

function buildMeter(instruments: Instruments): Meter {
  const counter = (name: MetricName) => instruments.counter(name);
  const histogram = (name: MetricName) => instruments.histogram(name);
  const inFlight = new Map<string, number>();
  instruments.live('berth_rpc_in_flight', () => by('method', inFlight));

  const rpcTotal = counter('berth_rpc_total');
  const rpcErrors = counter('berth_rpc_errors_total');
  const rpcSeconds = histogram('berth_rpc_duration_seconds');
  const stepSeconds = histogram('berth_step_duration_seconds');
  const stepErrors = counter('berth_step_errors_total');
  const stepsUndone = counter('berth_step_undone_total');
  const processSeconds = histogram('berth_process_duration_seconds');
  const processErrors = counter('berth_process_errors_total');
  const runtimeSeconds = histogram('berth_runtime_duration_seconds');
  const runtimeErrors = counter('berth_runtime_errors_total');
  const pluginSeconds = histogram('berth_cni_plugin_duration_seconds');
  const pluginErrors = counter('berth_cni_plugin_errors_total');
  const cniSeconds = histogram('berth_cni_duration_seconds');
  const cniErrors = counter('berth_cni_errors_total');
  const created = counter('berth_containers_created_total');
  const exits = counter('berth_container_exits_total');
  const oomKilled = counter('berth_containers_oom_killed_total');
  const monitorsLost = counter('berth_container_monitors_lost_total');
  const stalled = counter('berth_stalled_total');
  const eventsDropped = counter('berth_events_dropped_total');

  return {
    ...buildPullMeter(instruments),
    rpcBegan: (method) => void inFlight.set(method, (inFlight.get(method) ?? 0) + 1),
    rpc(method, outcome, seconds) {
      inFlight.set(method, Math.max(0, (inFlight.get(method) ?? 0) - 1));
      rpcTotal({ method });
      rpcSeconds({ method }, seconds);
      if (outcome !== 'ok') rpcErrors({ method, kind: outcome });
    },
    step(pipeline, step, outcome, seconds) {
      stepSeconds({ pipeline, step }, seconds);
      if (outcome !== 'ok') stepErrors({ pipeline, step, kind: outcome });
    },
    stepUndone: (pipeline, step) => stepsUndone({ pipeline, step }),
    process(program, outcome, seconds) {
      processSeconds({ program }, seconds);
      if (outcome !== 'ok') processErrors({ program, kind: outcome });
    },
    errand({ of, ...labels }, outcome, seconds) {
      const [duration, errors] = of === 'runtime' ? [runtimeSeconds, runtimeErrors] : [pluginSeconds, pluginErrors];
      duration(labels, seconds);
      if (outcome !== 'ok') errors({ ...labels, kind: outcome });
    },
    cni(verb, outcome, seconds) {
      cniSeconds({ verb }, seconds);
      if (outcome !== 'ok') cniErrors({ verb, kind: outcome });
    },
    containerCreated: (handler) => created({ handler }),
    containerExited(how) {
      exits({ class: how });
      if (how === 'oom') oomKilled();
      if (how === 'unseen') monitorsLost();
    },
    stalled: (pipeline, step) => stalled({ pipeline, step }),
    eventDropped: () => eventsDropped(),
  };
}

type PullMeter = Pick<Meter, 'pull' | 'pullFailed' | 'pullStep' | 'layersPresent' | 'layerPulled'>;

function buildPullMeter(instruments: Instruments): PullMeter {
  const pulls = instruments.counter('berth_image_pulls_total');
  const pullBytes = instruments.counter('berth_image_pull_bytes_total');
  const skippedBytes = instruments.counter('berth_image_pull_skipped_bytes_total');
  const pullSeconds = instruments.histogram('berth_image_pull_duration_seconds');
  const pullFailures = instruments.counter('berth_image_pull_failures_total');
  const pullStepSeconds = instruments.histogram('berth_image_pull_step_duration_seconds');
  const layers = instruments.counter('berth_image_layers_total');
  const layerBytes = instruments.counter('berth_image_layer_bytes_total');
  const layerSizes = instruments.histogram('berth_image_layer_size_bytes');
  const layerSeconds = instruments.histogram('berth_image_layer_duration_seconds');
  return {
    pull(outcome, bytes, seconds) {
      pulls({ outcome });
      pullBytes({}, bytes);
      pullSeconds({}, seconds);
    },
    pullFailed: (reason) => pullFailures({ reason }),
    pullStep: (step, seconds) => pullStepSeconds({ step }, seconds),
    layersPresent(count, bytes) {
      layers({ source: 'disk' }, count);
      skippedBytes({}, bytes);
    },
    layerPulled({ compression, compressedBytes, unpackedBytes, downloadSeconds, unpackSeconds }) {
      layers({ source: 'registry' });
      layerBytes({ form: 'compressed' }, compressedBytes);
      layerBytes({ form: 'unpacked' }, unpackedBytes);
      layerSizes({ compression }, compressedBytes);
      layerSeconds({ step: 'download' }, downloadSeconds);
      layerSeconds({ step: 'unpack' }, unpackSeconds);
    },
  };
}
