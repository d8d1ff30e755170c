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
  pulls(): number;
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
    const images: Gauge = new Gauge({
      name: 'berth_images',
      help: 'Images that are present.',
      registers: [this.#registry],
      collect(): void {
        images.set(live.images());
      },
    });
    const pulls: Gauge = new Gauge({
      name: 'berth_image_pulls_in_flight',
      help: 'Image pulls that run.',
      registers: [this.#registry],
      collect(): void {
        pulls.set(live.pulls());
      },
    });
  }

  /** Everything in Prometheus' text format, with the content type to answer with. */
  async scrape(): Promise<{ contentType: string; text: string }> {
    return { contentType: this.#registry.contentType, text: await this.#registry.metrics() };
  }
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
    cni(verb, outcome, seconds) {
      cniSeconds.observe({ verb }, seconds);
      if (outcome !== 'ok') cniErrors.inc({ verb, kind: outcome });
    },
    oomKilled: () => oomKilled.inc(),
    stalled: (pipeline, step) => stalled.inc({ pipeline, step }),
    eventDropped: () => eventsDropped.inc(),
  };
}
