import type { UnixMicros } from '../../base/clock.ts';
import type { WrittenUsage } from '../../image/writable-layers.ts';
import type { CgroupUsage } from '../../runtime/cgroups/cgroup-figures.ts';
import type { InterfaceUsage } from '../../runtime/network-usage.ts';
import type { ContainerRecord, SandboxRecord } from '../records.ts';

/** What a container used at one moment. */
export interface UsageSample {
  readonly takenUs: UnixMicros;
  readonly usage: CgroupUsage;
  /** Nanoseconds of processor time per second; undefined as long as there is only one sample. */
  readonly nanoCores: number | undefined;
}

/** What a whole pod used at one moment. */
export interface SandboxSample extends UsageSample {
  /** Undefined for a pod on the host's network: it has no traffic of its own. */
  readonly network: readonly InterfaceUsage[] | undefined;
  readonly processes: number;
}

/** A container's record with its figures; those that are not known are undefined. */
export interface ContainerStats {
  readonly record: ContainerRecord;
  readonly sample: UsageSample | undefined;
  readonly written: WrittenUsage | undefined;
  /** Of the disk that it writes to. */
  readonly mountpoint: string;
}

/** A sandbox's record with its figures and those of its running containers. */
export interface SandboxStats {
  readonly record: SandboxRecord;
  readonly sample: SandboxSample | undefined;
  readonly containers: readonly ContainerStats[];
}
