import { withDeadline } from '../base/deadline.ts';
import type { ImageFilesystems } from '../image/disk-usage.ts';
import type { WritableLayers } from '../image/writable-layers.ts';
import {
  type ContainerFilter,
  matchesContainer,
  matchesSandbox,
  newestFirst,
  type SandboxFilter,
  visible,
} from './filters.ts';
import type { PodDeps } from './pod-deps.ts';
import type { ContainerRecord, SandboxRecord } from './records.ts';
import { LivePods } from './stats/live-pods.ts';
import type { Metric, MetricDescriptor } from './stats/metric.ts';
import { type ContainerMetrics, METRIC_DESCRIPTORS, MetricsReader } from './stats/metrics-reader.ts';
import type { ContainerStats, SandboxSample, SandboxStats, UsageSample } from './stats/pod-figures.ts';
import { Sampler } from './stats/sampler.ts';
import { UsageReaders } from './stats/usage-readers.ts';

/** A single answer may wait so long for what its container has written. */
const FIRST_WALK_MS = 500;

/** The metrics of a pod, and those of its running containers. */
export interface SandboxMetrics {
  readonly record: SandboxRecord;
  readonly takenUs: number;
  readonly metrics: readonly Metric[];
  readonly containers: readonly (ContainerMetrics & { readonly id: string })[];
}

type Deps = Pick<PodDeps, 'log' | 'clock' | 'containers' | 'sandboxes' | 'cgroups'> & {
  readonly written: WritableLayers;
  readonly filesystems: Pick<ImageFilesystems, 'mountpoint' | 'containersDisk'>;
};

/**
 * What pods and containers use. Lists are answered from samples that are taken in the background as long as somebody
 * asks (see Sampler); they name what runs at this moment, and one that cannot be read costs the others nothing.
 */
export class PodStats {
  readonly #deps: Deps;
  readonly #live: LivePods;
  readonly #containers: Sampler<UsageSample>;
  readonly #sandboxes: Sampler<SandboxSample>;
  readonly #metrics: Sampler<ContainerMetrics>;
  readonly #metricsReader: MetricsReader;

  constructor(deps: Deps) {
    this.#deps = deps;
    const live = new LivePods(deps);
    const readers = new UsageReaders(deps, live);
    this.#live = live;
    this.#metricsReader = new MetricsReader(deps, readers);
    const { clock, log } = deps;
    const containers = {
      ids: () => live.containers(),
      read: (id: string) => this.#readContainer(readers, id),
      forget: (id: string) => readers.forgetContainer(id),
      inBackground: true,
    };
    this.#containers = new Sampler<UsageSample>(containers, clock, log);
    const sandboxes = {
      ids: () => live.sandboxes(),
      read: (id: string) => readers.sandbox(id),
      forget: (id: string) => readers.forgetSandbox(id),
      inBackground: true,
    };
    this.#sandboxes = new Sampler<SandboxSample>(sandboxes, clock, log);
    const metrics = {
      ids: () => live.containers(),
      read: (id: string, breathe: () => Promise<void>) => this.#metricsReader.container(id, breathe),
      forget: (id: string) => readers.closeContainer(id),
      inBackground: false,
    };
    this.#metrics = new Sampler<ContainerMetrics>(metrics, clock, log);
    live.onEnd = (id) => {
      for (const sampler of [this.#containers, this.#sandboxes, this.#metrics]) sampler.forget(id);
    };
    live.onGone = (id) => deps.written.forget(id);
  }

  /** Stops sampling. */
  close(): void {
    for (const sampler of [this.#containers, this.#sandboxes, this.#metrics]) sampler.close();
  }

  /** The figures of one container, taken now. One that does not run has none but what it wrote. Throws `notFound`. */
  async container(id: string, signal: AbortSignal): Promise<ContainerStats> {
    const record = visible(this.#deps.containers.getByPrefix(id), 'container');
    const sample = record.state === 'running' ? await this.#containers.one(record.id) : undefined;
    using limited = withDeadline(`size of what container ${record.id} wrote`, FIRST_WALK_MS, signal);
    await this.#deps.written.wait(record.id, limited);
    return this.#containerStats(record, sample);
  }

  /** The figures of running containers that match, newest first. */
  async listContainers(filter: ContainerFilter): Promise<ContainerStats[]> {
    const samples = await this.#containers.all();
    return this.#statsOf(this.#running(this.#live.containers()), samples, filter);
  }

  /** The figures of one sandbox, taken now. One that is not ready has none. Throws `notFound`. */
  async sandbox(id: string): Promise<SandboxStats> {
    const record = visible(this.#deps.sandboxes.getByPrefix(id), 'sandbox');
    const members = [...this.#live.containersOf(record.id)];
    const own = new Map<string, UsageSample>();
    for (const member of members) {
      const sample = await this.#containers.one(member);
      if (sample) own.set(member, sample);
    }
    const sample = record.state === 'ready' ? await this.#sandboxes.one(record.id) : undefined;
    return { record, sample, containers: this.#statsOf(this.#running(members), own, {}) };
  }

  /** The figures of ready sandboxes that match, newest first. */
  async listSandboxes(filter: SandboxFilter): Promise<SandboxStats[]> {
    const containers = await this.#containers.all();
    const sandboxes = await this.#sandboxes.all();
    return this.#ready(filter).flatMap((record) => {
      const sample = sandboxes.get(record.id);
      // Its pause may have died a moment ago.
      if (!sample) return [];
      const members = this.#running(this.#live.containersOf(record.id));
      return { record, sample, containers: this.#statsOf(members, containers, {}) };
    });
  }

  /** What metrics there are; always the same. */
  metricDescriptors(): readonly MetricDescriptor[] {
    return METRIC_DESCRIPTORS;
  }

  /** The metrics of ready sandboxes and their running containers, newest first. */
  async listMetrics(): Promise<SandboxMetrics[]> {
    const containers = await this.#metrics.all();
    const sandboxes = await this.#sandboxes.all();
    return this.#ready({}).flatMap((record) => {
      const sample = sandboxes.get(record.id);
      if (!sample) return [];
      const members = this.#running(this.#live.containersOf(record.id)).flatMap(({ id }) => {
        const metrics = containers.get(id);
        return metrics ? { id, ...metrics } : [];
      });
      const { takenUs } = sample;
      return { record, takenUs, metrics: this.#metricsReader.sandbox(record, sample), containers: members };
    });
  }

  #readContainer(readers: UsageReaders, id: string): UsageSample | undefined {
    const sample = readers.container(id);
    if (sample) this.#deps.written.look(id, sample.usage.cpuNanos);
    return sample;
  }

  // A container that has no sample is about to be recorded as ended.
  #statsOf(
    records: readonly ContainerRecord[],
    samples: ReadonlyMap<string, UsageSample>,
    filter: ContainerFilter,
  ): ContainerStats[] {
    return records.flatMap((record) => {
      const sample = samples.get(record.id);
      return sample && matchesContainer(record, filter) ? this.#containerStats(record, sample) : [];
    });
  }

  #containerStats(record: ContainerRecord, sample: UsageSample | undefined): ContainerStats {
    const { written, filesystems } = this.#deps;
    return { record, sample, written: written.known(record.id), mountpoint: filesystems.mountpoint };
  }

  #running(ids: Iterable<string>): ContainerRecord[] {
    return newestFirst([...ids].flatMap((id) => this.#deps.containers.find(id) ?? []));
  }

  #ready(filter: SandboxFilter): SandboxRecord[] {
    const records = [...this.#live.sandboxes()].flatMap((id) => this.#deps.sandboxes.find(id) ?? []);
    return newestFirst(records.filter((record) => matchesSandbox(record, filter)));
  }
}
