import type { LinuxContainerResources } from '../../../proto/gen/cri/api.ts';
import { invalid } from '../../base/errors.ts';
import type { LinuxResources } from '../../runtime/container-spec.ts';
import { toNumber } from './numbers.ts';

/** No limits at all. */
export const NO_RESOURCES: LinuxResources = Object.freeze({ hugepageLimits: [], unified: {} });

/**
 * Limits from the wire, where 0 and '' mean "not said". `field` is the message's path, for errors. Throws `invalid` for
 * what no kernel takes.
 */
export function resourcesFromProto(proto: LinuxContainerResources | undefined, field: string): LinuxResources {
  if (!proto) return NO_RESOURCES;
  // -1 lifts a quota or a memory limit; there is no such value for the others.
  const cpuPeriodUs = said(toNumber(proto.cpuPeriod, `${field}.cpu_period`, { min: 0, max: 1_000_000 }));
  const cpuQuotaUs = said(toNumber(proto.cpuQuota, `${field}.cpu_quota`, { min: -1 }));
  const cpuShares = said(toNumber(proto.cpuShares, `${field}.cpu_shares`, { min: 0, max: 262_144 }));
  const memoryLimitBytes = said(toNumber(proto.memoryLimitInBytes, `${field}.memory_limit_in_bytes`, { min: -1 }));
  const memorySwapLimitBytes = said(
    toNumber(proto.memorySwapLimitInBytes, `${field}.memory_swap_limit_in_bytes`, { min: -1 }),
  );
  const oomScoreAdj = said(toNumber(proto.oomScoreAdj, `${field}.oom_score_adj`, { min: -1000, max: 1000 }));
  // The kernel takes 1 for 2, and runc takes that for a failure.
  if (cpuShares === 1) throw invalid(`${field}.cpu_shares`, '1 is less than 2');
  // The kernel's own bounds (Documentation/scheduler/sched-bwc.rst): 1 ms.
  if (cpuPeriodUs !== undefined && cpuPeriodUs < 1000)
    throw invalid(`${field}.cpu_period`, `${cpuPeriodUs} is less than 1000 microseconds`);
  if (cpuQuotaUs !== undefined && cpuQuotaUs > 0 && cpuQuotaUs < 1000)
    throw invalid(`${field}.cpu_quota`, `${cpuQuotaUs} is less than 1000 microseconds`);
  if (
    memorySwapLimitBytes !== undefined &&
    memorySwapLimitBytes > 0 &&
    memorySwapLimitBytes < (memoryLimitBytes ?? 0)
  ) {
    throw invalid(`${field}.memory_swap_limit_in_bytes`, 'is less than the memory limit that it includes');
  }
  return {
    ...(cpuPeriodUs !== undefined ? { cpuPeriodUs } : {}),
    ...(cpuQuotaUs !== undefined ? { cpuQuotaUs } : {}),
    ...(cpuShares !== undefined ? { cpuShares } : {}),
    ...(memoryLimitBytes !== undefined ? { memoryLimitBytes } : {}),
    ...(memorySwapLimitBytes !== undefined ? { memorySwapLimitBytes } : {}),
    ...(oomScoreAdj !== undefined ? { oomScoreAdj } : {}),
    ...cpuset('cpusetCpus', proto.cpusetCpus, `${field}.cpuset_cpus`),
    ...cpuset('cpusetMems', proto.cpusetMems, `${field}.cpuset_mems`),
    hugepageLimits: proto.hugepageLimits.map((limit, index) => ({
      pageSize: pageSize(limit.pageSize, `${field}.hugepage_limits[${index}].page_size`),
      // Beyond that nothing is limited.
      limitBytes: Math.min(Number(limit.limit), Number.MAX_SAFE_INTEGER),
    })),
    unified: checkUnified(proto.unified, `${field}.unified`),
  };
}

/** Limits for the wire, as ContainerStatus reports them. */
export function resourcesToProto(resources: LinuxResources): LinuxContainerResources {
  return {
    cpuPeriod: BigInt(resources.cpuPeriodUs ?? 0),
    cpuQuota: BigInt(resources.cpuQuotaUs ?? 0),
    cpuShares: BigInt(resources.cpuShares ?? 0),
    memoryLimitInBytes: BigInt(resources.memoryLimitBytes ?? 0),
    oomScoreAdj: BigInt(resources.oomScoreAdj ?? 0),
    cpusetCpus: resources.cpusetCpus ?? '',
    cpusetMems: resources.cpusetMems ?? '',
    hugepageLimits: resources.hugepageLimits.map(({ pageSize, limitBytes }) => ({
      pageSize,
      limit: BigInt(limitBytes),
    })),
    unified: { ...resources.unified },
    memorySwapLimitInBytes: BigInt(resources.memorySwapLimitBytes ?? 0),
  };
}

function said(value: number): number | undefined {
  return value === 0 ? undefined : value;
}

function cpuset<K extends 'cpusetCpus' | 'cpusetMems'>(key: K, value: string, field: string): { [P in K]?: string } {
  if (value === '') return {};
  // Linux numbers no more than some thousand processors and nodes, and takes a page of text.
  if (value.length > 4095) throw invalid(field, `has ${value.length} characters; 4095 are the limit`);
  if (!/^\d{1,5}(-\d{1,5})?(,\d{1,5}(-\d{1,5})?)*$/.test(value))
    throw invalid(field, `${JSON.stringify(value)} is not a list such as 0-3,8`);
  return { [key]: value } as { [P in K]: string };
}

function pageSize(value: string, field: string): string {
  if (!/^\d+[KMG]B$/.test(value)) throw invalid(field, `${JSON.stringify(value)} is not a page size such as 2MB`);
  return value;
}

function checkUnified(unified: Readonly<Record<string, string>>, field: string): Record<string, string> {
  for (const [file, value] of Object.entries(unified)) {
    if (!/^[a-z0-9_]+(\.[a-zA-Z0-9_]+)+$/.test(file))
      throw invalid(`${field}[${file}]`, 'is not a cgroup v2 file name');
    if (value.includes('\0')) throw invalid(`${field}[${file}]`, 'has a NUL byte in it');
  }
  return { ...unified };
}
