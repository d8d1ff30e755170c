import type { CgroupFigures, CgroupUsage } from '../../runtime/cgroups/cgroup-figures.ts';
import { readNetworkUsage } from '../../runtime/network-usage.ts';
import type { PodDeps } from '../pod-deps.ts';
import type { ContainerRecord, SandboxRecord } from '../records.ts';
import { CpuRate } from './cpu-rate.ts';
import type { LivePods } from './live-pods.ts';
import type { SandboxSample, UsageSample } from './pod-figures.ts';

/** The open figures of a container, with what makes a rate of them. */
interface Reader {
  readonly figures: CgroupFigures;
  readonly rate: CpuRate;
}

/** Of a sandbox: its own cgroup holds pause and monitors. */
interface SandboxReader extends Reader {
  /** The cgroup of the whole pod, when there is one that is its alone. */
  whole: CgroupFigures | undefined;
  /** When that was found out. */
  generation: number;
}

/** Reads what containers and pods use from their cgroups, which it keeps open until it is told to forget them. */
export class UsageReaders {
  readonly #deps: Pick<PodDeps, 'containers' | 'sandboxes' | 'cgroups' | 'clock'>;
  readonly #live: LivePods;
  readonly #containers = new Map<string, Reader>();
  readonly #sandboxes = new Map<string, SandboxReader>();

  constructor(deps: Pick<PodDeps, 'containers' | 'sandboxes' | 'cgroups' | 'clock'>, live: LivePods) {
    this.#deps = deps;
    this.#live = live;
  }

  /** What a running container uses now; undefined when it is gone. */
  container(id: string): UsageSample | undefined {
    const reader = this.#containerReader(id);
    const usage = reader?.figures.usage();
    return reader && usage && this.#sample(reader.rate, usage);
  }

  /** What a ready pod uses now, with all its containers; undefined when it is gone. */
  sandbox(id: string): SandboxSample | undefined {
    const record = this.#deps.sandboxes.find(id);
    if (record?.state !== 'ready') return undefined;
    const reader = this.#sandboxReader(record);
    this.#findWhole(reader, record);
    const members = [...this.#live.containersOf(id)].flatMap((member) => this.#containerReader(member)?.figures ?? []);
    const all = [reader.figures, ...members];
    const usage = reader.whole ? reader.whole.usage() : sumOf(all.map((figures) => figures.usage()));
    if (!usage) return undefined;
    const ownsNetwork = record.spec.security.namespaces.network === 'pod';
    return {
      ...this.#sample(reader.rate, usage),
      network: ownsNetwork && record.pause ? readNetworkUsage(record.pause.pid) : undefined,
      processes: all.reduce((sum, figures) => sum + figures.pids().length, 0),
    };
  }

  /** The open figures of a running container, for whoever needs more of them. */
  figures(containerId: string): CgroupFigures | undefined {
    return this.#containerReader(containerId)?.figures;
  }

  /** Closes what was opened for a container; its rate goes on. */
  closeContainer(id: string): void {
    this.#containers.get(id)?.figures.close();
  }

  /** Closes what was opened for a container, and drops its rate. */
  forgetContainer(id: string): void {
    this.closeContainer(id);
    this.#containers.delete(id);
  }

  /** Closes what was opened for a sandbox and its containers, and drops its rate. */
  forgetSandbox(id: string): void {
    for (const containerId of this.#live.containersOf(id)) this.closeContainer(containerId);
    const reader = this.#sandboxes.get(id);
    reader?.figures.close();
    reader?.whole?.close();
    this.#sandboxes.delete(id);
  }

  #containerReader(id: string): Reader | undefined {
    const known = this.#containers.get(id);
    if (known) return known;
    const record = this.#deps.containers.find(id);
    if (record?.state !== 'running') return undefined;
    const reader = { figures: this.#deps.cgroups.figures(this.#pathOf(record)), rate: this.#rate(record.startedAtUs) };
    this.#containers.set(id, reader);
    return reader;
  }

  #sandboxReader(record: SandboxRecord): SandboxReader {
    const known = this.#sandboxes.get(record.id);
    if (known) return known;
    const { cgroups } = this.#deps;
    const { path } = record.cgroup ?? cgroups.sandboxCgroup(record.spec.cgroupParent, record.id);
    const reader: SandboxReader = {
      figures: cgroups.figures(path),
      rate: this.#rate(record.createdAtUs),
      whole: undefined,
      generation: -1,
    };
    this.#sandboxes.set(record.id, reader);
    return reader;
  }

  // The kubelet makes a cgroup for each pod, which counts what has ended too. Other clients give pods a common one.
  #findWhole(reader: SandboxReader, { id, spec }: SandboxRecord): void {
    if (reader.generation === this.#live.generation) return;
    reader.generation = this.#live.generation;
    const found = this.#deps.cgroups.podCgroup(spec.cgroupParent);
    const isAlone = found?.members.every((member) => this.#live.isPartOf(member, id)) ?? false;
    if (!found || !isAlone) {
      reader.whole?.close();
      reader.whole = undefined;
    } else {
      reader.whole ??= this.#deps.cgroups.figures(found.path);
    }
  }

  #pathOf({ id, sandboxId }: ContainerRecord): string {
    const { spec } = this.#deps.sandboxes.get(sandboxId);
    return this.#deps.cgroups.container(spec.cgroupParent, id).path;
  }

  // A cgroup's counter began with it, near enough.
  #rate(bornUs: number | undefined): CpuRate {
    const { clock } = this.#deps;
    const ageMs = bornUs === undefined ? Number.POSITIVE_INFINITY : (clock.nowUs() - bornUs) / 1000;
    return new CpuRate(clock.monotonicMs() - ageMs);
  }

  #sample(rate: CpuRate, usage: CgroupUsage): UsageSample {
    const { clock } = this.#deps;
    const { cpuNanos } = usage;
    const nanoCores = cpuNanos === undefined ? undefined : rate.update(clock.monotonicMs(), cpuNanos);
    return { takenUs: clock.nowUs(), usage, nanoCores };
  }
}

/** What cgroups use together. Pressure cannot be added up, and a sum of limits is none. */
function sumOf(usages: readonly (CgroupUsage | undefined)[]): CgroupUsage | undefined {
  const known = usages.filter((usage) => usage !== undefined);
  if (known.length === 0) return undefined;
  const memories = known.flatMap(({ memory }) => memory ?? []);
  const swaps = known.flatMap(({ swap }) => swap ?? []);
  const noLimit = { limitBytes: Number.POSITIVE_INFINITY };
  return {
    cpuNanos: sum(known, ({ cpuNanos }) => cpuNanos),
    memory:
      memories.length === 0
        ? undefined
        : {
            ...noLimit,
            usageBytes: sum(memories, ({ usageBytes }) => usageBytes) ?? 0,
            workingSetBytes: sum(memories, ({ workingSetBytes }) => workingSetBytes) ?? 0,
            rssBytes: sum(memories, ({ rssBytes }) => rssBytes) ?? 0,
            pageFaults: sum(memories, ({ pageFaults }) => pageFaults) ?? 0,
            majorPageFaults: sum(memories, ({ majorPageFaults }) => majorPageFaults) ?? 0,
          },
    swap: swaps.length === 0 ? undefined : { ...noLimit, usageBytes: sum(swaps, ({ usageBytes }) => usageBytes) ?? 0 },
    tasks: sum(known, ({ tasks }) => tasks),
    cpuPressure: undefined,
    memoryPressure: undefined,
    ioPressure: undefined,
  };
}

/** Undefined when none of them is known. */
function sum<T>(items: readonly T[], value: (item: T) => number | undefined): number | undefined {
  const known = items.flatMap((item) => value(item) ?? []);
  return known.length === 0 ? undefined : known.reduce((total, one) => total + one, 0);
}
