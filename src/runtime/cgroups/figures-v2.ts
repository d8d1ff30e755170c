import type {
  CgroupDetails,
  CgroupFigures,
  CgroupUsage,
  FigurePlace,
  HugepageUsage,
  MemoryDetails,
  MemoryUsage,
} from './cgroup-figures.ts';
import { parseCount, parseField, parseIoStat, parseLimit, parsePressure } from './stats-text.ts';

const NANOS_PER_MICRO = 1000;

/** Figures from cgroup v2's files (Documentation/admin-guide/cgroup-v2.rst). */
export class FiguresV2 implements CgroupFigures {
  readonly #place: FigurePlace;

  constructor(place: FigurePlace) {
    this.#place = place;
  }

  usage(): CgroupUsage | undefined {
    // Every cgroup has it, whatever controllers it has.
    const cpu = this.#place.readUnified('cpu.stat');
    if (cpu === undefined) return undefined;
    const usageUs = parseField(cpu, 'usage_usec');
    const swapBytes = parseCount(this.#place.readUnified('memory.swap.current'));
    return {
      cpuNanos: usageUs === undefined ? undefined : usageUs * NANOS_PER_MICRO,
      memory: this.#memory(),
      swap:
        swapBytes === undefined
          ? undefined
          : {
              usageBytes: swapBytes,
              limitBytes: parseLimit(this.#place.readUnified('memory.swap.max')) ?? Number.POSITIVE_INFINITY,
            },
      tasks: parseCount(this.#place.readUnified('pids.current')),
      cpuPressure: parsePressure(this.#place.readUnified('cpu.pressure')),
      memoryPressure: parsePressure(this.#place.readUnified('memory.pressure')),
      ioPressure: parsePressure(this.#place.readUnified('io.pressure')),
    };
  }

  details(): CgroupDetails {
    const cpu = this.#place.readUnified('cpu.stat');
    return {
      cpu:
        parseField(cpu, 'user_usec') === undefined
          ? undefined
          : {
              userNanos: (parseField(cpu, 'user_usec') ?? 0) * NANOS_PER_MICRO,
              systemNanos: (parseField(cpu, 'system_usec') ?? 0) * NANOS_PER_MICRO,
              periods: parseField(cpu, 'nr_periods') ?? 0,
              throttledPeriods: parseField(cpu, 'nr_throttled') ?? 0,
              throttledNanos: (parseField(cpu, 'throttled_usec') ?? 0) * NANOS_PER_MICRO,
            },
      memory: this.#memoryDetails(),
      maxTasks: parseLimit(this.#place.readUnified('pids.max')),
      devices: parseIoStat(this.#place.readUnified('io.stat')),
      hugepages: this.#place.pageSizes.flatMap((pageSize) => this.#hugepages(pageSize) ?? []),
    };
  }

  pids(): number[] {
    return this.#place.pids();
  }

  close(): void {
    this.#place.close();
  }

  #memory(): MemoryUsage | undefined {
    const usageBytes = parseCount(this.#place.readUnified('memory.current'));
    const stat = this.#place.readUnified('memory.stat');
    if (usageBytes === undefined || stat === undefined) return undefined;
    return {
      usageBytes,
      workingSetBytes: Math.max(0, usageBytes - (parseField(stat, 'inactive_file') ?? 0)),
      rssBytes: parseField(stat, 'anon') ?? 0,
      limitBytes: parseLimit(this.#place.readUnified('memory.max')) ?? Number.POSITIVE_INFINITY,
      pageFaults: parseField(stat, 'pgfault') ?? 0,
      majorPageFaults: parseField(stat, 'pgmajfault') ?? 0,
    };
  }

  #memoryDetails(): MemoryDetails | undefined {
    const stat = this.#place.readUnified('memory.stat');
    if (stat === undefined) return undefined;
    const field = (key: string): number => parseField(stat, key) ?? 0;
    return {
      cacheBytes: field('file'),
      // The sum came with Linux 5.18; before, its largest parts stand for it.
      kernelBytes: parseField(stat, 'kernel') ?? field('kernel_stack') + field('slab') + field('pagetables'),
      mappedFileBytes: field('file_mapped'),
      activeFileBytes: field('active_file'),
      inactiveFileBytes: field('inactive_file'),
      maxUsageBytes: parseCount(this.#place.readUnified('memory.peak')),
      limitHits: parseField(this.#place.readUnified('memory.events'), 'max'),
      ownPageFaults: field('pgfault'),
      ownMajorPageFaults: field('pgmajfault'),
    };
  }

  #hugepages(pageSize: string): HugepageUsage | undefined {
    const usageBytes = parseCount(this.#place.readUnified(`hugetlb.${pageSize}.current`));
    return usageBytes === undefined ? undefined : { pageSize, usageBytes, maxUsageBytes: undefined };
  }
}
