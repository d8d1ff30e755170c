import { Counter, Gauge, Histogram, type Metric, type Registry } from 'prom-client';

import { CATALOG, type LabelValues, type MetricName, type MetricSpec } from './catalog.ts';

/** What a gauge shows: a number, or numbers by the values of its labels. */
export type Reading = number | undefined | Iterable<readonly [Readonly<Record<string, string>>, number]>;

/** Counters that can have no more series than this have all of them from the beginning. */
const MAX_AT_ZERO = 20;
/** Where label values go that are more than a metric may have. */
const OTHER = 'other';

/** Makes the metrics of the catalog; each at most once. */
export class Instruments {
  readonly #registry: Registry;

  constructor(registry: Registry) {
    this.#registry = registry;
  }

  /**
   * Counts up, by one if nothing else is said. What can be counted is there with 0 where it is known, as Prometheus
   * advises ("Avoid missing metrics"): of a series that begins with its first event, increase() sees none.
   */
  counter(name: MetricName): (labels?: Record<string, string>, by?: number) => void {
    const bound = boundedLabels(CATALOG[name]);
    const counter = this.#register(new Counter(this.#options(name)));
    for (const labels of knownLabels(CATALOG[name])) counter.inc(labels, 0);
    return (labels = {}, by = 1) => counter.inc(bound(labels), by);
  }

  /** Notes one duration or size, in the unit of the name. */
  histogram(name: MetricName): (labels: Record<string, string>, value: number) => void {
    const spec: MetricSpec = CATALOG[name];
    const bound = boundedLabels(spec);
    const histogram = this.#register(new Histogram({ ...this.#options(name), buckets: [...(spec.buckets ?? [])] }));
    return (labels, value) => histogram.observe(bound(labels), value);
  }

  /** What is read when somebody scrapes: a gauge, or a counter that another room keeps. */
  live(name: MetricName, read: () => Reading | Promise<Reading>): void {
    if (CATALOG[name].type === 'counter') this.#kept(name, read);
    else this.#gauge(name, read);
  }

  #kept(name: MetricName, read: () => Reading | Promise<Reading>): void {
    const counter: Counter = this.#register(
      new Counter({
        ...this.#options(name),
        async collect(): Promise<void> {
          const total = await read();
          counter.reset();
          if (typeof total === 'number') counter.inc(total);
        },
      }),
    );
  }

  /** What is not there any more leaves it. */
  #gauge(name: MetricName, read: () => Reading | Promise<Reading>): void {
    const bound = boundedLabels(CATALOG[name]);
    const hasNoLabels = Object.keys(CATALOG[name].labels).length === 0;
    const gauge: Gauge = this.#register(
      new Gauge({
        ...this.#options(name),
        async collect(): Promise<void> {
          const reading = await read();
          gauge.reset();
          if (typeof reading === 'number') gauge.set(reading);
          else for (const [labels, value] of reading ?? []) gauge.inc(bound(labels), value);
          // Without a label, reset() says 0, which is not what nobody knows.
          if (reading === undefined && hasNoLabels) gauge.remove();
        },
      }),
    );
  }

  #options(name: MetricName): { name: string; help: string; labelNames: string[]; registers: [] } {
    const { help, labels } = CATALOG[name];
    return { name, help, labelNames: Object.keys(labels), registers: [] };
  }

  #register<M extends Metric>(metric: M): M {
    this.#registry.registerMetric(metric);
    return metric;
  }
}

/** All that the labels of a metric can say, if that is known and not too much; else nothing. */
function knownLabels({ labels }: MetricSpec): Record<string, string>[] {
  let known: Record<string, string>[] = [{}];
  for (const [label, said] of Object.entries(labels)) {
    if (!('values' in said)) return [];
    known = known.flatMap((before) => said.values.map((value) => ({ ...before, [label]: value })));
  }
  return known.length > MAX_AT_ZERO ? [] : known;
}

/** Replaces values of labels that have had as many different ones as they may have. */
function boundedLabels(spec: MetricSpec): (labels: Readonly<Record<string, string>>) => Record<string, string> {
  const open = Object.entries(spec.labels).map(([label, values]) => ({ label, admit: admission(values) }));
  return (labels) => {
    const bound: Record<string, string> = {};
    for (const { label, admit } of open) bound[label] = admit(labels[label] ?? '');
    return bound;
  };
}

function admission(values: LabelValues): (value: string) => string {
  const known = new Set('values' in values ? values.values : []);
  const free = 'values' in values ? 0 : values.upTo;
  return (value) => {
    if (known.has(value)) return value;
    if (known.size >= free) return OTHER;
    known.add(value);
    return value;
  };
}
