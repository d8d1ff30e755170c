import {
  type ContainerStats as ContainerStatsProto,
  type CpuUsage,
  type FilesystemUsage,
  type ContainerStatsFilter as FilterProto,
  type IoUsage,
  type LinuxPodSandboxStats,
  type MemoryUsage,
  type MetricDescriptor as MetricDescriptorProto,
  type Metric as MetricProto,
  MetricType,
  type NetworkInterfaceUsage,
  type NetworkUsage,
  type PodSandboxMetrics,
  type PodSandboxStatsFilter,
  type PodSandboxStats as PodSandboxStatsProto,
  type PsiData,
  type PsiStats,
  type SwapUsage,
  type UInt64Value,
} from '../../../proto/gen/cri/api.ts';
import type { ContainerFilter, SandboxFilter } from '../../pod/filters.ts';
import { POD_INTERFACE } from '../../pod/names.ts';
import type { SandboxMetrics } from '../../pod/pod-stats.ts';
import type { Metric, MetricDescriptor } from '../../pod/stats/metric.ts';
import type { ContainerStats, SandboxSample, SandboxStats, UsageSample } from '../../pod/stats/pod-figures.ts';
import type { Pressure, PressureLine } from '../../runtime/cgroups/stats-text.ts';
import type { InterfaceUsage } from '../../runtime/network-usage.ts';
import { toNanos } from './numbers.ts';

const MAX_UINT64 = 0xffff_ffff_ffff_ffffn;

/** Which containers' figures are asked for. */
export function containerStatsFilterFromProto(filter: FilterProto | undefined): ContainerFilter {
  if (!filter) return {};
  return {
    ...(filter.id === '' ? {} : { id: filter.id }),
    ...(filter.podSandboxId === '' ? {} : { sandboxId: filter.podSandboxId }),
    labels: filter.labelSelector,
  };
}

/** Which sandboxes' figures are asked for. */
export function sandboxStatsFilterFromProto(filter: PodSandboxStatsFilter | undefined): SandboxFilter {
  if (!filter) return {};
  return { ...(filter.id === '' ? {} : { id: filter.id }), labels: filter.labelSelector };
}

/** A container's figures; what is not known is unset. */
export function containerStatsToProto(stats: ContainerStats): ContainerStatsProto {
  const { record, sample } = stats;
  const { id, spec } = record;
  return {
    attributes: {
      id,
      metadata: { name: spec.name, attempt: spec.attempt },
      labels: spec.labels,
      annotations: spec.annotations,
    },
    cpu: sample && cpuToProto(sample),
    memory: sample && memoryToProto(sample),
    writableLayer: writtenToProto(stats),
    swap: sample && swapToProto(sample),
    io: sample && ioToProto(sample),
  };
}

/** A sandbox's figures with those of its running containers. */
export function sandboxStatsToProto({ record, sample, containers }: SandboxStats): PodSandboxStatsProto {
  const { id, spec } = record;
  const linux: LinuxPodSandboxStats = {
    cpu: sample && cpuToProto(sample),
    memory: sample && memoryToProto(sample),
    network: sample && networkToProto(sample),
    process: sample && { timestamp: toNanos(sample.takenUs), processCount: uint64(sample.processes) },
    containers: containers.map(containerStatsToProto),
    io: sample && ioToProto(sample),
  };
  return {
    attributes: {
      id,
      metadata: { name: spec.name, uid: spec.uid, namespace: spec.namespace, attempt: spec.attempt },
      labels: spec.labels,
      annotations: spec.annotations,
    },
    linux,
    windows: undefined,
  };
}

/** What a metric is. */
export function metricDescriptorToProto({ name, help, labelKeys }: MetricDescriptor): MetricDescriptorProto {
  return { name, help, labelKeys: [...labelKeys] };
}

/** A pod's metrics with those of its containers. */
export function sandboxMetricsToProto({ record, takenUs, metrics, containers }: SandboxMetrics): PodSandboxMetrics {
  return {
    podSandboxId: record.id,
    metrics: metrics.map((metric) => metricToProto(metric, toNanos(takenUs))),
    containerMetrics: containers.map((container) => {
      const timestamp = toNanos(container.takenUs);
      return {
        containerId: container.id,
        metrics: container.metrics.map((metric) => metricToProto(metric, timestamp)),
      };
    }),
  };
}

function cpuToProto({ takenUs, usage, nanoCores }: UsageSample): CpuUsage {
  return {
    timestamp: toNanos(takenUs),
    usageCoreNanoSeconds: uint64(usage.cpuNanos),
    usageNanoCores: uint64(nanoCores),
    psi: psiToProto(usage.cpuPressure),
  };
}

function memoryToProto({ takenUs, usage: { memory, memoryPressure } }: UsageSample): MemoryUsage {
  return {
    timestamp: toNanos(takenUs),
    workingSetBytes: uint64(memory?.workingSetBytes),
    availableBytes: uint64(memory && available(memory.limitBytes, memory.workingSetBytes)),
    usageBytes: uint64(memory?.usageBytes),
    rssBytes: uint64(memory?.rssBytes),
    pageFaults: uint64(memory?.pageFaults),
    majorPageFaults: uint64(memory?.majorPageFaults),
    psi: psiToProto(memoryPressure),
  };
}

function swapToProto({ takenUs, usage: { swap } }: UsageSample): SwapUsage | undefined {
  if (!swap) return undefined;
  return {
    timestamp: toNanos(takenUs),
    swapAvailableBytes: uint64(available(swap.limitBytes, swap.usageBytes)),
    swapUsageBytes: uint64(swap.usageBytes),
  };
}

function ioToProto({ takenUs, usage: { ioPressure } }: UsageSample): IoUsage | undefined {
  return ioPressure && { timestamp: toNanos(takenUs), psi: psiToProto(ioPressure) };
}

function networkToProto({ takenUs, network }: SandboxSample): NetworkUsage | undefined {
  if (!network) return undefined;
  const primary = network.find(({ name }) => name === POD_INTERFACE);
  return {
    timestamp: toNanos(takenUs),
    defaultInterface: primary && interfaceToProto(primary),
    interfaces: network.filter((usage) => usage !== primary).map(interfaceToProto),
  };
}

function interfaceToProto(usage: InterfaceUsage): NetworkInterfaceUsage {
  return {
    name: usage.name,
    rxBytes: uint64(usage.receivedBytes),
    rxErrors: uint64(usage.receiveErrors),
    txBytes: uint64(usage.sentBytes),
    txErrors: uint64(usage.sendErrors),
  };
}

function writtenToProto({ written, mountpoint }: ContainerStats): FilesystemUsage | undefined {
  if (!written) return undefined;
  return {
    timestamp: toNanos(written.takenUs),
    fsId: { mountpoint },
    usedBytes: uint64(written.usedBytes),
    inodesUsed: uint64(written.inodesUsed),
  };
}

function metricToProto({ name, type, labelValues, value }: Metric, timestamp: bigint): MetricProto {
  return {
    name,
    timestamp,
    metricType: type === 'counter' ? MetricType.COUNTER : MetricType.GAUGE,
    labelValues,
    value: uint64(value),
  };
}

function psiToProto(pressure: Pressure | undefined): PsiStats | undefined {
  return pressure && { Full: psiDataToProto(pressure.full), Some: psiDataToProto(pressure.some) };
}

// The kernel counts microseconds.
function psiDataToProto({ totalUs, avg10, avg60, avg300 }: PressureLine): PsiData {
  return { Total: toNanos(totalUs), Avg10: avg10, Avg60: avg60, Avg300: avg300 };
}

/** What is left below a limit; 0 without one, as all runtimes say it. */
function available(limitBytes: number, usedBytes: number): number {
  return Number.isFinite(limitBytes) ? Math.max(0, limitBytes - usedBytes) : 0;
}

function uint64(value: number | undefined): UInt64Value | undefined {
  if (value === undefined) return undefined;
  const whole = BigInt(Math.floor(value));
  return { value: whole > MAX_UINT64 ? MAX_UINT64 : whole };
}
