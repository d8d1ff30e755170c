import type { UnixMicros } from '../../base/clock.ts';
import type { ContainersDisk } from '../../image/disk-usage.ts';
import type { WrittenUsage } from '../../image/writable-layers.ts';
import type { CgroupDetails, CgroupUsage } from '../../runtime/cgroups/cgroup-figures.ts';
import type { DeviceIo } from '../../runtime/cgroups/stats-text.ts';
import type { InterfaceUsage } from '../../runtime/network-usage.ts';
import type { ContainerRecord } from '../records.ts';
import { type LabelledValue, labelled, type MetricDefinition, single } from './metric.ts';

const NANOS_PER_SECOND = 1e9;
const MICROS_PER_SECOND = 1e6;
/** What the kernel has where nobody says anything else. */
const DEFAULT_SHARES = 1024;
const DEFAULT_PERIOD_US = 100_000;
/** The CRI's values are unsigned; cAdvisor says -1 for "no limit", which is this number there. */
const UNLIMITED = 2 ** 64 - 1;

/** What is known of a container when its metrics are made. */
export interface ContainerFacts {
  readonly record: ContainerRecord;
  readonly takenUs: UnixMicros;
  readonly usage: CgroupUsage;
  readonly details: CgroupDetails;
  readonly processes: number;
  readonly fileDescriptors: number;
  readonly sockets: number;
  /** Of the first process. */
  readonly openFilesLimit: number | undefined;
  readonly oomKills: number | undefined;
  readonly written: WrittenUsage | undefined;
  readonly disk: ContainersDisk;
  readonly deviceName: (major: number, minor: number) => string;
}

type Definition = MetricDefinition<ContainerFacts>;
type Value = (facts: ContainerFacts) => number | undefined;

const counter = (name: string, help: string, value: Value): Definition => single('counter', name, help, value);
const gauge = (name: string, help: string, value: Value): Definition => single('gauge', name, help, value);
const seconds = (nanos: number | undefined): number | undefined => nanos && nanos / NANOS_PER_SECOND;
const stalledSeconds = (micros: number | undefined): number | undefined => micros && micros / MICROS_PER_SECOND;
/** cAdvisor, and with it everybody's dashboards, says 0 where there is no limit. */
const orZero = (limit: number | undefined): number => (limit !== undefined && Number.isFinite(limit) ? limit : 0);

const CPU: readonly Definition[] = [
  counter('container_cpu_user_seconds_total', 'Processor time in user mode.', ({ details }) =>
    seconds(details.cpu?.userNanos),
  ),
  counter('container_cpu_system_seconds_total', 'Processor time in the kernel.', ({ details }) =>
    seconds(details.cpu?.systemNanos),
  ),
  labelled('counter', 'container_cpu_usage_seconds_total', 'Processor time over all cores.', ['cpu'], ({ usage }) =>
    usage.cpuNanos === undefined ? [] : [{ labels: ['total'], value: usage.cpuNanos / NANOS_PER_SECOND }],
  ),
  counter(
    'container_cpu_cfs_periods_total',
    'Periods of the processor quota that have passed.',
    ({ details }) => details.cpu?.periods,
  ),
  counter(
    'container_cpu_cfs_throttled_periods_total',
    'Periods in which the container had used up its processor quota.',
    ({ details }) => details.cpu?.throttledPeriods,
  ),
  counter(
    'container_cpu_cfs_throttled_seconds_total',
    'Time that the container had to wait for its processor quota.',
    ({ details }) => seconds(details.cpu?.throttledNanos),
  ),
];

const MEMORY: readonly Definition[] = [
  gauge('container_memory_cache', 'Page cache, in bytes.', ({ details }) => details.memory?.cacheBytes),
  gauge('container_memory_rss', 'Anonymous memory, in bytes.', ({ usage }) => usage.memory?.rssBytes),
  gauge(
    'container_memory_kernel_usage',
    'Memory of the kernel for the container, in bytes.',
    ({ details }) => details.memory?.kernelBytes,
  ),
  gauge('container_memory_mapped_file', 'Mapped files, in bytes.', ({ details }) => details.memory?.mappedFileBytes),
  gauge('container_memory_swap', 'Swap, in bytes.', ({ usage }) => usage.swap?.usageBytes ?? 0),
  counter(
    'container_memory_failcnt',
    'How often the memory limit was reached.',
    ({ details }) => details.memory?.limitHits,
  ),
  gauge('container_memory_usage_bytes', 'Memory of all kinds, in bytes.', ({ usage }) => usage.memory?.usageBytes),
  gauge(
    'container_memory_max_usage_bytes',
    'The most memory that was used at any time, in bytes.',
    ({ details }) => details.memory?.maxUsageBytes,
  ),
  gauge(
    'container_memory_working_set_bytes',
    'Memory without file cache that was not used for a while, in bytes.',
    ({ usage }) => usage.memory?.workingSetBytes,
  ),
  gauge(
    'container_memory_total_active_file_bytes',
    'Page cache that was used lately, in bytes.',
    ({ details }) => details.memory?.activeFileBytes,
  ),
  gauge(
    'container_memory_total_inactive_file_bytes',
    'Page cache that was not used for a while, in bytes.',
    ({ details }) => details.memory?.inactiveFileBytes,
  ),
  labelled(
    'counter',
    'container_memory_failures_total',
    'Page faults: pgmajfault needed a read from disk; hierarchy counts cgroups below too.',
    ['failure_type', 'scope'],
    pageFaults,
  ),
  counter('container_oom_events_total', 'Processes that were killed for lack of memory.', ({ oomKills }) => oomKills),
];

function pageFaults({ usage: { memory }, details }: ContainerFacts): LabelledValue[] {
  const own = details.memory;
  if (!memory || !own) return [];
  return [
    { labels: ['pgfault', 'container'], value: own.ownPageFaults },
    { labels: ['pgfault', 'hierarchy'], value: memory.pageFaults },
    { labels: ['pgmajfault', 'container'], value: own.ownMajorPageFaults },
    { labels: ['pgmajfault', 'hierarchy'], value: memory.majorPageFaults },
  ];
}

const DISK: readonly Definition[] = [
  gauge('container_fs_inodes_free', 'Free inodes of the disk.', ({ disk }) => disk.freeInodes),
  gauge('container_fs_inodes_total', 'Inodes of the disk.', ({ disk }) => disk.totalInodes),
  gauge('container_fs_limit_bytes', 'Size of the disk.', ({ disk }) => disk.totalBytes),
  gauge('container_fs_usage_bytes', 'What the container has written to its root.', ({ written }) => written?.usedBytes),
  onDevices('container_fs_reads_bytes_total', 'Bytes read from a device.', ({ readBytes }) => readBytes),
  onDevices('container_fs_reads_total', 'Reads from a device.', ({ reads }) => reads),
  onDevices('container_fs_writes_bytes_total', 'Bytes written to a device.', ({ writtenBytes }) => writtenBytes),
  onDevices('container_fs_writes_total', 'Writes to a device.', ({ writes }) => writes),
  labelled(
    'counter',
    'container_blkio_device_usage_total',
    'Bytes read from and written to a device.',
    ['device', 'major', 'minor', 'operation'],
    ({ details, deviceName }) =>
      details.devices.flatMap(({ major, minor, readBytes, writtenBytes }) => {
        const device = [deviceName(major, minor), `${major}`, `${minor}`];
        return [
          { labels: [...device, 'Read'], value: readBytes },
          { labels: [...device, 'Write'], value: writtenBytes },
        ];
      }),
  ),
];

function onDevices(name: string, help: string, value: (device: DeviceIo) => number): Definition {
  return labelled('counter', name, help, ['device'], ({ details, deviceName }) =>
    details.devices.map((device) => ({ labels: [deviceName(device.major, device.minor)], value: value(device) })),
  );
}

const PROCESSES: readonly Definition[] = [
  gauge('container_processes', 'Processes in the container.', ({ processes }) => processes),
  gauge('container_threads', 'Threads in the container.', ({ usage }) => usage.tasks),
  gauge('container_threads_max', 'Threads that the container may have; 0 is no limit.', ({ details }) =>
    orZero(details.maxTasks),
  ),
  gauge('container_file_descriptors', 'Open files of all processes.', ({ fileDescriptors }) => fileDescriptors),
  gauge('container_sockets', 'Open sockets of all processes.', ({ sockets }) => sockets),
  labelled(
    'gauge',
    'container_ulimits_soft',
    'Soft limits of the first process.',
    ['ulimit'],
    ({ openFilesLimit: limit }) =>
      limit === undefined ? [] : [{ labels: ['max_open_files'], value: Number.isFinite(limit) ? limit : UNLIMITED }],
  ),
];

const SPEC: readonly Definition[] = [
  gauge(
    'container_last_seen',
    'When the container was seen, in seconds since 1970.',
    ({ takenUs }) => takenUs / MICROS_PER_SECOND,
  ),
  gauge(
    'container_start_time_seconds',
    'When the container was started, in seconds since 1970.',
    ({ record }) => (record.startedAtUs ?? record.createdAtUs) / MICROS_PER_SECOND,
  ),
  gauge(
    'container_spec_cpu_period',
    'Period of the processor quota, in microseconds.',
    ({ record }) => record.resources.cpuPeriodUs || DEFAULT_PERIOD_US,
  ),
  gauge('container_spec_cpu_quota', 'Processor quota of each period, in microseconds.', ({ record }) => {
    const { cpuQuotaUs = 0 } = record.resources;
    return cpuQuotaUs > 0 ? cpuQuotaUs : undefined;
  }),
  gauge(
    'container_spec_cpu_shares',
    'Share of the processors when they are scarce.',
    ({ record }) => record.resources.cpuShares || DEFAULT_SHARES,
  ),
  gauge('container_spec_memory_limit_bytes', 'Memory limit; 0 is none.', ({ record }) =>
    orZero(record.resources.memoryLimitBytes),
  ),
  gauge(
    'container_spec_memory_reservation_limit_bytes',
    'Memory that is kept for the container; 0 is none.',
    ({ record }) => orZero(Number(record.resources.unified['memory.min'] ?? 0)),
  ),
  gauge('container_spec_memory_swap_limit_bytes', 'Limit of memory and swap together; 0 is none.', ({ record }) =>
    orZero(record.resources.memorySwapLimitBytes),
  ),
];

const HUGEPAGES: readonly Definition[] = [
  labelled('gauge', 'container_hugetlb_usage_bytes', 'Huge pages in use.', ['pagesize'], ({ details }) =>
    details.hugepages.map(({ pageSize, usageBytes }) => ({ labels: [pageSize], value: usageBytes })),
  ),
  labelled(
    'gauge',
    'container_hugetlb_max_usage_bytes',
    'The most huge pages at any time.',
    ['pagesize'],
    ({ details }) =>
      // v2 does not remember the most: what is in use is the most that is known.
      details.hugepages.map(({ pageSize, usageBytes, maxUsageBytes = usageBytes }) => ({
        labels: [pageSize],
        value: maxUsageBytes,
      })),
  ),
];

const PRESSURE: readonly Definition[] = [
  counter('container_pressure_cpu_stalled_seconds_total', 'Time that all tasks waited for a processor.', ({ usage }) =>
    stalledSeconds(usage.cpuPressure?.full.totalUs),
  ),
  counter('container_pressure_cpu_waiting_seconds_total', 'Time that any task waited for a processor.', ({ usage }) =>
    stalledSeconds(usage.cpuPressure?.some.totalUs),
  ),
  counter('container_pressure_memory_stalled_seconds_total', 'Time that all tasks waited for memory.', ({ usage }) =>
    stalledSeconds(usage.memoryPressure?.full.totalUs),
  ),
  counter('container_pressure_memory_waiting_seconds_total', 'Time that any task waited for memory.', ({ usage }) =>
    stalledSeconds(usage.memoryPressure?.some.totalUs),
  ),
  counter(
    'container_pressure_io_stalled_seconds_total',
    'Time that all tasks waited for input or output.',
    ({ usage }) => stalledSeconds(usage.ioPressure?.full.totalUs),
  ),
  counter(
    'container_pressure_io_waiting_seconds_total',
    'Time that any task waited for input or output.',
    ({ usage }) => stalledSeconds(usage.ioPressure?.some.totalUs),
  ),
];

/** All metrics of a container. */
export const CONTAINER_METRICS: readonly Definition[] = [
  ...CPU,
  ...MEMORY,
  ...DISK,
  ...PROCESSES,
  ...SPEC,
  ...HUGEPAGES,
  ...PRESSURE,
];

const onInterfaces = (
  name: string,
  help: string,
  value: (usage: InterfaceUsage) => number,
): MetricDefinition<readonly InterfaceUsage[]> =>
  labelled('counter', name, help, ['interface'], (interfaces) =>
    interfaces.map((usage) => ({ labels: [usage.name], value: value(usage) })),
  );

/** All metrics of a pod: its containers share its interfaces. */
export const NETWORK_METRICS: readonly MetricDefinition<readonly InterfaceUsage[]>[] = [
  onInterfaces('container_network_receive_bytes_total', 'Bytes received.', (usage) => usage.receivedBytes),
  onInterfaces('container_network_receive_packets_total', 'Packets received.', (usage) => usage.receivedPackets),
  onInterfaces(
    'container_network_receive_packets_dropped_total',
    'Packets dropped on receipt.',
    (usage) => usage.receiveDrops,
  ),
  onInterfaces('container_network_receive_errors_total', 'Errors on receipt.', (usage) => usage.receiveErrors),
  onInterfaces('container_network_transmit_bytes_total', 'Bytes sent.', (usage) => usage.sentBytes),
  onInterfaces('container_network_transmit_packets_total', 'Packets sent.', (usage) => usage.sentPackets),
  onInterfaces(
    'container_network_transmit_packets_dropped_total',
    'Packets dropped instead of sent.',
    (usage) => usage.sendDrops,
  ),
  onInterfaces('container_network_transmit_errors_total', 'Errors on sending.', (usage) => usage.sendErrors),
];
