import type {
  CgroupDetails,
  CgroupFigures,
  CgroupUsage,
  CpuDetails,
  FigurePlace,
  HugepageUsage,
  LimitedBytes,
  MemoryDetails,
  MemoryUsage,
} from './cgroup-figures.ts';
import { parseBlkio, parseCount, parseField, parseLimit, parsePressure } from './stats-text.ts';

/** Figures from cgroup v1's files (Documentation/admin-guide/cgroup-v1); PSI from the cgroup2 mount of hybrid hosts. */
export class FiguresV1 implements CgroupFigures {
  readonly #place: FigurePlace;

  constructor(place: FigurePlace) {
    this.#place = place;
  }

  usage(): CgroupUsage | undefined {
    const cpuNanos = parseCount(this.#place.read('cpuacct', 'cpuacct.usage'));
    const stat = this.#place.read('memory', 'memory.stat');
    const memory = this.#memory(stat);
    const tasks = parseCount(this.#place.read('pids', 'pids.current'));
    if (cpuNanos === undefined && !memory && tasks === undefined) return undefined;
    return {
      cpuNanos,
      memory,
      swap: memory && this.#swap(stat, memory.limitBytes),
      tasks,
      cpuPressure: parsePressure(this.#place.readUnified('cpu.pressure')),
      memoryPressure: parsePressure(this.#place.readUnified('memory.pressure')),
      ioPressure: parsePressure(this.#place.readUnified('io.pressure')),
    };
  }

  details(): CgroupDetails {
    return {
      cpu: this.#cpuDetails(),
      memory: this.#memoryDetails(),
      maxTasks: parseLimit(this.#place.read('pids', 'pids.max')),
      devices: parseBlkio(this.#readBlkio('io_service_bytes'), this.#readBlkio('io_serviced')),
      hugepages: this.#place.pageSizes.flatMap((pageSize) => this.#hugepages(pageSize) ?? []),
    };
  }

  pids(): number[] {
    return this.#place.pids();
  }

  close(): void {
    this.#place.close();
  }

  #memory(stat: string | undefined): MemoryUsage | undefined {
    const usageBytes = parseCount(this.#place.read('memory', 'memory.usage_in_bytes'));
    if (usageBytes === undefined || stat === undefined) return undefined;
    return {
      usageBytes,
      workingSetBytes: Math.max(0, usageBytes - (parseField(stat, 'total_inactive_file') ?? 0)),
      rssBytes: parseField(stat, 'total_rss') ?? 0,
      limitBytes: parseLimit(this.#place.read('memory', 'memory.limit_in_bytes')) ?? Number.POSITIVE_INFINITY,
      pageFaults: parseField(stat, 'total_pgfault') ?? 0,
      majorPageFaults: parseField(stat, 'total_pgmajfault') ?? 0,
    };
  }

  // v1 limits memory and swap together. Kernels that do not count swap have no such line and no such file.
  #swap(stat: string | undefined, memoryLimitBytes: number): LimitedBytes | undefined {
    const usageBytes = parseField(stat, 'total_swap');
    const bothBytes = parseLimit(this.#place.read('memory', 'memory.memsw.limit_in_bytes'));
    if (usageBytes === undefined || bothBytes === undefined) return undefined;
    const isLimited = Number.isFinite(bothBytes) && Number.isFinite(memoryLimitBytes);
    return { usageBytes, limitBytes: isLimited ? Math.max(0, bothBytes - memoryLimitBytes) : Number.POSITIVE_INFINITY };
  }

  #cpuDetails(): CpuDetails | undefined {
    const userNanos = parseCount(this.#place.read('cpuacct', 'cpuacct.usage_user'));
    const systemNanos = parseCount(this.#place.read('cpuacct', 'cpuacct.usage_sys'));
    if (userNanos === undefined || systemNanos === undefined) return undefined;
    const stat = this.#place.read('cpu', 'cpu.stat');
    return {
      userNanos,
      systemNanos,
      periods: parseField(stat, 'nr_periods') ?? 0,
      throttledPeriods: parseField(stat, 'nr_throttled') ?? 0,
      throttledNanos: parseField(stat, 'throttled_time') ?? 0,
    };
  }

  #memoryDetails(): MemoryDetails | undefined {
    const stat = this.#place.read('memory', 'memory.stat');
    if (stat === undefined) return undefined;
    return {
      cacheBytes: parseField(stat, 'total_cache') ?? 0,
      kernelBytes: parseCount(this.#place.read('memory', 'memory.kmem.usage_in_bytes')) ?? 0,
      mappedFileBytes: parseField(stat, 'total_mapped_file') ?? 0,
      activeFileBytes: parseField(stat, 'total_active_file') ?? 0,
      inactiveFileBytes: parseField(stat, 'total_inactive_file') ?? 0,
      maxUsageBytes: parseCount(this.#place.read('memory', 'memory.max_usage_in_bytes')),
      limitHits: parseCount(this.#place.read('memory', 'memory.failcnt')),
      ownPageFaults: parseField(stat, 'pgfault') ?? 0,
      ownMajorPageFaults: parseField(stat, 'pgmajfault') ?? 0,
    };
  }

  // Newer kernels count for throttling only where a limit was ever set; disks that BFQ schedules have counts of its own.
  // Those with what is below the cgroup came with Linux 4.17.
  #readBlkio(what: 'io_service_bytes' | 'io_serviced'): string | undefined {
    const scheduled = this.#place.read('blkio', `blkio.bfq.${what}_recursive`);
    if (scheduled !== undefined && /^\d/.test(scheduled)) return scheduled;
    return (
      this.#place.read('blkio', `blkio.throttle.${what}_recursive`) ??
      this.#place.read('blkio', `blkio.throttle.${what}`)
    );
  }

  #hugepages(pageSize: string): HugepageUsage | undefined {
    const usageBytes = parseCount(this.#place.read('hugetlb', `hugetlb.${pageSize}.usage_in_bytes`));
    if (usageBytes !== undefined) {
      const maxUsageBytes = parseCount(this.#place.read('hugetlb', `hugetlb.${pageSize}.max_usage_in_bytes`));
      return { pageSize, usageBytes, maxUsageBytes };
    }
    // A hybrid host may have the controller in its cgroup2 mount.
    const unified = parseCount(this.#place.readUnified(`hugetlb.${pageSize}.current`));
    return unified === undefined ? undefined : { pageSize, usageBytes: unified, maxUsageBytes: undefined };
  }
}
