import type { ImageFilesystems } from '../../image/disk-usage.ts';
import type { WritableLayers } from '../../image/writable-layers.ts';
import { BlockDevices } from '../../runtime/block-devices.ts';
import { readOpenFilesLimit, readProcessFigures } from '../../runtime/process-figures.ts';
import type { PodDeps } from '../pod-deps.ts';
import type { ContainerRecord, SandboxRecord } from '../records.ts';
import { CONTAINER_METRICS, NETWORK_METRICS } from './container-metrics.ts';
import { type Metric, type MetricDescriptor, metricsOf } from './metric.ts';
import type { SandboxSample } from './pod-figures.ts';
import type { UsageReaders } from './usage-readers.ts';

/** The metrics of a container at one moment. */
export interface ContainerMetrics {
  readonly takenUs: number;
  readonly metrics: readonly Metric[];
}

/** What metrics there are. It never changes while berthd runs. */
export const METRIC_DESCRIPTORS: readonly MetricDescriptor[] = [...CONTAINER_METRICS, ...NETWORK_METRICS].map(
  ({ descriptor }) => descriptor,
);

type Deps = Pick<PodDeps, 'containers' | 'sandboxes' | 'cgroups'> & {
  readonly written: WritableLayers;
  readonly filesystems: Pick<ImageFilesystems, 'containersDisk'>;
};

/** Makes metrics of containers and pods. */
export class MetricsReader {
  readonly #deps: Deps;
  readonly #readers: UsageReaders;
  readonly #devices = new BlockDevices();

  constructor(deps: Deps, readers: UsageReaders) {
    this.#deps = deps;
    this.#readers = readers;
  }

  /** All metrics of a running container; undefined when it is gone. */
  async container(id: string, breathe: () => Promise<void>): Promise<ContainerMetrics | undefined> {
    const record = this.#deps.containers.find(id);
    const sample = this.#readers.container(id);
    const figures = this.#readers.figures(id);
    if (!record || !sample || !figures) return undefined;
    const details = figures.details();
    const pids = figures.pids();
    const { fileDescriptors, sockets } = await readProcessFigures(pids, breathe);
    const facts = {
      record,
      takenUs: sample.takenUs,
      usage: sample.usage,
      details,
      processes: pids.length,
      fileDescriptors,
      sockets,
      openFilesLimit: record.init && readOpenFilesLimit(record.init.pid),
      oomKills: this.#oomKills(record),
      written: this.#deps.written.look(id, sample.usage.cpuNanos),
      disk: this.#deps.filesystems.containersDisk(),
      deviceName: (major: number, minor: number) => this.#devices.nameOf(major, minor),
    };
    return { takenUs: sample.takenUs, metrics: metricsOf(CONTAINER_METRICS, this.#labelsOf(record), facts) };
  }

  /** The metrics of a pod itself: its traffic. */
  sandbox({ id, name, spec }: SandboxRecord, { network }: SandboxSample): Metric[] {
    return metricsOf(NETWORK_METRICS, [id, name, '', spec.namespace, spec.name, 'POD'], network ?? []);
  }

  #labelsOf({ id, name, imageName, sandboxId, spec }: ContainerRecord): string[] {
    const pod = this.#deps.sandboxes.get(sandboxId).spec;
    return [id, name, imageName, pod.namespace, pod.name, spec.name];
  }

  #oomKills({ id, sandboxId }: ContainerRecord): number | undefined {
    const { spec } = this.#deps.sandboxes.get(sandboxId);
    try {
      return this.#deps.cgroups.container(spec.cgroupParent, id).oomKills();
    } catch {
      return undefined;
    }
  }
}
