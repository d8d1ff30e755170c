import type { LinuxResources } from './container-spec.ts';
import type { HostFacts } from './host-facts.ts';
import type { OciCpu, OciMemory, OciResources } from './oci-spec.ts';

type Abilities = Pick<HostFacts, 'swapAccounting' | 'hugepageSizes'>;

/**
 * The OCI form of a container's limits, for its creation and for an update: what is absent or zero stays as the kernel
 * or the last update has it, negative is "no limit". A memory limit without a swap limit leaves no swap on top, so that
 * the limit means what it says (as CRI-O does). Page sizes that the host cannot limit are left out: the kubelet names
 * all that the machine has. checkLimits() has said what the host cannot have.
 */
export function toOciResources(resources: LinuxResources, host: Abilities): OciResources {
  const cpu = toCpu(resources);
  const memory = toMemory(resources, host.swapAccounting);
  const hugepages = resources.hugepageLimits.filter((limit) => host.hugepageSizes.includes(limit.pageSize));
  const hasUnified = Object.keys(resources.unified).length > 0;
  return {
    ...(Object.keys(cpu).length > 0 ? { cpu } : {}),
    ...(Object.keys(memory).length > 0 ? { memory } : {}),
    ...(hugepages.length > 0
      ? { hugepageLimits: hugepages.map(({ pageSize, limitBytes }) => ({ pageSize, limit: limitBytes })) }
      : {}),
    ...(hasUnified ? { unified: resources.unified } : {}),
  };
}

function toCpu(resources: LinuxResources): OciCpu {
  return {
    ...(resources.cpuShares ? { shares: resources.cpuShares } : {}),
    ...(resources.cpuQuotaUs ? { quota: Math.max(resources.cpuQuotaUs, -1) } : {}),
    ...(resources.cpuPeriodUs ? { period: resources.cpuPeriodUs } : {}),
    ...(resources.cpusetCpus ? { cpus: resources.cpusetCpus } : {}),
    ...(resources.cpusetMems ? { mems: resources.cpusetMems } : {}),
  };
}

function toMemory(resources: LinuxResources, swapAccounting: boolean): OciMemory {
  const limit = resources.memoryLimitBytes;
  const swap = resources.memorySwapLimitBytes || limit;
  return {
    ...(limit ? { limit: Math.max(limit, -1) } : {}),
    ...(swapAccounting && swap ? { swap: Math.max(swap, -1) } : {}),
  };
}
