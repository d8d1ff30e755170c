import type { DeviceIo, Pressure } from './stats-text.ts';

/**
 * What one cgroup uses, with all below it. A part that the host does not count is undefined. Everything is synchronous:
 * reads of kernel files that stay open, a few hundredths of a millisecond for a cgroup.
 */
export interface CgroupFigures {
  /** What changes from moment to moment; undefined when the cgroup is gone. */
  usage(): CgroupUsage | undefined;
  /** What only detailed metrics ask for. */
  details(): CgroupDetails;
  /** All processes in it and below, by the pids that berthd knows them by. Empty when it is gone. */
  pids(): number[];
  /** Lets go of the open files. It may be asked again. */
  close(): void;
}

export interface CgroupUsage {
  /** Processor time since the cgroup was made, over all cores. */
  readonly cpuNanos: number | undefined;
  readonly memory: MemoryUsage | undefined;
  readonly swap: LimitedBytes | undefined;
  /** Threads. */
  readonly tasks: number | undefined;
  /** Undefined where the kernel does not tell (PSI is off, or the host has cgroup v1 alone). */
  readonly cpuPressure: Pressure | undefined;
  readonly memoryPressure: Pressure | undefined;
  readonly ioPressure: Pressure | undefined;
}

/** A limit of Infinity is none. */
export interface LimitedBytes {
  readonly usageBytes: number;
  readonly limitBytes: number;
}

export interface MemoryUsage extends LimitedBytes {
  /** What cannot be given back at once: usage without the file cache that was not used for a while. */
  readonly workingSetBytes: number;
  readonly rssBytes: number;
  readonly pageFaults: number;
  readonly majorPageFaults: number;
}

export interface CgroupDetails {
  readonly cpu: CpuDetails | undefined;
  readonly memory: MemoryDetails | undefined;
  /** Infinity is no limit. */
  readonly maxTasks: number | undefined;
  readonly devices: readonly DeviceIo[];
  readonly hugepages: readonly HugepageUsage[];
}

export interface CpuDetails {
  readonly userNanos: number;
  readonly systemNanos: number;
  /** Of a cgroup with a quota: periods that have passed, and those in which it had to wait. */
  readonly periods: number;
  readonly throttledPeriods: number;
  readonly throttledNanos: number;
}

export interface MemoryDetails {
  readonly cacheBytes: number;
  readonly kernelBytes: number;
  readonly mappedFileBytes: number;
  readonly activeFileBytes: number;
  readonly inactiveFileBytes: number;
  /** v2 tells since Linux 5.19. */
  readonly maxUsageBytes: number | undefined;
  /** How often it ran into its limit. */
  readonly limitHits: number | undefined;
  /** Of the cgroup without those below it; v2 does not tell them apart. */
  readonly ownPageFaults: number;
  readonly ownMajorPageFaults: number;
}

export interface HugepageUsage {
  /** As in the names of the kernel's files: `2MB`. */
  readonly pageSize: string;
  readonly usageBytes: number;
  /** v2 does not tell. */
  readonly maxUsageBytes: number | undefined;
}

/** What the readers of figures need of one cgroup. */
export interface FigurePlace {
  /** The text of a file of a controller; undefined where the host does not have it, or the cgroup is gone. */
  read(controller: string, file: string): string | undefined;
  /** The text of a file in the cgroup2 mount, on a hybrid host too. */
  readUnified(file: string): string | undefined;
  pids(): number[];
  /** The sizes of huge pages that the host has, `2MB`. */
  readonly pageSizes: readonly string[];
  close(): void;
}
