import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';

import type { Meter } from '../base/meter.ts';

/** From 1 ms, where a list call is, to the minutes of a large pull. */
const LATENCY_BUCKETS_S = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300];

/** Figures that are read when somebody scrapes, not counted as they happen. */
export interface LiveFigures {
  /** Sandboxes by state, in the states' own words. */
  sandboxes(): ReadonlyMap<string, number>;
  containers(): ReadonlyMap<string, number>;
  images(): number;
  /** Pulls that run. */
  pulls(): readonly PullInFlight[];
  /** Layers that are unpacked, and what they take on disk. */
  layers(): { readonly count: number; readonly bytes: number };
}

/** What is shown of a pull that runs. */
interface PullInFlight {
  readonly layers: readonly { readonly phase: string; readonly bytesTotal: number; readonly bytesDone: number }[];
}

/** The Prometheus registry of one berthd. Label sets are bounded: methods, steps, programs, outcomes, states. */
export class PrometheusMetrics {
  readonly meter: Meter;
  readonly #registry = new Registry();

  constructor() {
    collectDefaultMetrics({ register: this.#registry, prefix: 'berth_' });
    this.meter = buildMeter(this.#registry);
  }

  /** Adds the gauges that need the other rooms; call it once, when those are there. */
  watch(live: LiveFigures): void {
    stateGauge(this.#registry, 'berth_sandboxes', 'Pod sandboxes by state.', () => live.sandboxes());
    stateGauge(this.#registry, 'berth_containers', 'Containers by state.', () => live.containers());
    const gauge = (name: string, help: string, read: () => number): void => liveGauge(this.#registry, name, help, read);
    gauge('berth_images', 'Images that are present.', () => live.images());
    gauge('berth_image_layers', 'Layers that are unpacked.', () => live.layers().count);
    gauge('berth_image_layers_bytes', 'What unpacked layers take on disk.', () => live.layers().bytes);
    gauge('berth_image_pulls_in_flight', 'Image pulls that run.', () => live.pulls().length);
    const layers = () => live.pulls().flatMap((pull) => pull.layers);
    gauge('berth_image_pull_bytes_left', 'Compressed bytes that pulls which run still wait for.', () =>
      layers().reduce((sum, layer) => sum + layer.bytesTotal - layer.bytesDone, 0),
    );
    const phases = 'Layers of pulls that run, by phase; those unpacked while they come are downloading.';
    stateGauge(this.#registry, 'berth_image_layers_in_flight', phases, () => countPhases(layers()));
  }

  /** Everything in Prometheus' text format, with the content type to answer with. */
  async scrape(): Promise<{ contentType: string; text: string }> {
    return { contentType: this.#registry.contentType, text: await this.#registry.metrics() };
  }
}

function countPhases(layers: readonly { readonly phase: string }[]): Map<string, number> {
  // Named also when there are none, so that graphs fall to zero.
  const counts = new Map(['waiting', 'downloading', 'unpacking'].map((phase) => [phase, 0]));
  for (const { phase } of layers) if (counts.has(phase)) counts.set(phase, (counts.get(phase) ?? 0) + 1);
  return counts;
}

function liveGauge(registry: Registry, name: string, help: string, read: () => number): void {
  const gauge: Gauge = new Gauge({
    name,
    help,
    registers: [registry],
    collect(): void {
      gauge.set(read());
    },
  });
}

function stateGauge(registry: Registry, name: string, help: string, read: () => ReadonlyMap<string, number>): void {
  const gauge = new Gauge({
    name,
    help,
    labelNames: ['state'],
    registers: [registry],
    collect() {
      gauge.reset();
      for (const [state, count] of read()) gauge.set({ state }, count);
    },
  });
}

function buildMeter(registry: Registry): Meter {
  const counter = <L extends string>(name: string, help: string, labelNames: L[]) =>
    new Counter({ name, help, labelNames, registers: [registry] });
  const histogram = <L extends string>(name: string, help: string, labelNames: L[]) =>
    new Histogram({ name, help, labelNames, buckets: LATENCY_BUCKETS_S, registers: [registry] });

  const rpcTotal = counter('berth_rpc_total', 'CRI and admin calls answered.', ['method']);
  const rpcErrors = counter('berth_rpc_errors_total', 'Calls answered with an error, by its kind.', ['method', 'kind']);
  const rpcSeconds = histogram('berth_rpc_duration_seconds', 'Time from a call to its answer.', ['method']);
  const stepSeconds = histogram('berth_step_duration_seconds', 'Time of one step of a pipeline.', ['pipeline', 'step']);
  const stepErrors = counter('berth_step_errors_total', 'Steps that failed.', ['pipeline', 'step', 'kind']);
  const processSeconds = histogram('berth_process_duration_seconds', 'Time of one external process.', ['program']);
  const processErrors = counter('berth_process_errors_total', 'External processes that failed.', ['program', 'kind']);
  const pulls = counter('berth_image_pulls_total', 'Image pulls that ended.', ['outcome']);
  const pullBytes = counter('berth_image_pull_bytes_total', 'Bytes that pulls transferred from registries.', []);
  const pullSeconds = histogram('berth_image_pull_duration_seconds', 'Time of one image pull.', []);
  const pullFailures = counter('berth_image_pull_failures_total', 'Image pulls that failed, by reason.', ['reason']);
  const pullStepSeconds = histogram('berth_image_pull_step_duration_seconds', 'Time of one step of a pull.', ['step']);
  const layers = counter('berth_image_layers_total', 'Layers of pulls: from a registry, or on disk before.', [
    'source',
  ]);
  const layerBytes = counter(
    'berth_image_layer_bytes_total',
    'Bytes of layers from registries: compressed there, unpacked on disk.',
    ['form'],
  );
  const layerSeconds = histogram(
    'berth_image_layer_duration_seconds',
    'Time of one layer: its download, and what unpacking took beyond that.',
    ['step'],
  );
  const cniSeconds = histogram('berth_cni_duration_seconds', 'Time of one CNI verb over all plugins.', ['verb']);
  const cniErrors = counter('berth_cni_errors_total', 'CNI verbs that failed.', ['verb', 'kind']);
  const oomKilled = counter('berth_containers_oom_killed_total', 'Containers found killed for lack of memory.', []);
  const stalled = counter('berth_stalled_total', 'Requests whose time was over at a step.', ['pipeline', 'step']);
  const eventsDropped = counter(
    'berth_events_dropped_total',
    'Events of pods that a subscriber of GetContainerEvents was too slow for.',
    [],
  );

  return {
    rpc(method, outcome, seconds) {
      rpcTotal.inc({ method });
      rpcSeconds.observe({ method }, seconds);
      if (outcome !== 'ok') rpcErrors.inc({ method, kind: outcome });
    },
    step(pipeline, step, outcome, seconds) {
      stepSeconds.observe({ pipeline, step }, seconds);
      if (outcome !== 'ok') stepErrors.inc({ pipeline, step, kind: outcome });
    },
    process(program, outcome, seconds) {
      processSeconds.observe({ program }, seconds);
      if (outcome !== 'ok') processErrors.inc({ program, kind: outcome });
    },
    pull(outcome, bytes, seconds) {
      pulls.inc({ outcome });
      pullBytes.inc(bytes);
      pullSeconds.observe(seconds);
    },
    pullFailed: (reason) => pullFailures.inc({ reason }),
    pullStep: (step, seconds) => pullStepSeconds.observe({ step }, seconds),
    layersPresent: (count) => layers.inc({ source: 'disk' }, count),
    layerPulled(bytes, seconds) {
      layers.inc({ source: 'registry' });
      for (const form of ['compressed', 'unpacked'] as const) layerBytes.inc({ form }, bytes[form]);
      for (const step of ['download', 'unpack'] as const) layerSeconds.observe({ step }, seconds[step]);
    },
    cni(verb, outcome, seconds) {
      cniSeconds.observe({ verb }, seconds);
      if (outcome !== 'ok') cniErrors.inc({ verb, kind: outcome });
    },
    oomKilled: () => oomKilled.inc(),
    stalled: (pipeline, step) => stalled.inc({ pipeline, step }),
    eventDropped: () => eventsDropped.inc(),
  };
}
