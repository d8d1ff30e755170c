import type {
  LinuxContainerResources,
  UpdatePodSandboxResourcesRequest,
  UpdatePodSandboxResourcesResponse,
} from '../../../proto/gen/cri/api.ts';
import type { Pods } from '../../pod/pods.ts';
import { resourcesFromProto } from '../convert/resources.ts';
import type { Handler } from '../unary.ts';

/** UpdatePodSandboxResources: what the pod may use as a whole, and what it costs beside its containers (KEP-2837). */
export function updatePodSandboxResources(
  pods: Pods,
): Handler<UpdatePodSandboxResourcesRequest, UpdatePodSandboxResourcesResponse> {
  return async ({ podSandboxId, overhead, resources }, { signal }) => {
    const update = {
      overhead: overhead && resourcesFromProto(overhead, 'overhead'),
      resources: resources && resourcesFromProto(withPlainQuota(resources), 'resources'),
    };
    await pods.updateSandbox(podSandboxId, update, signal);
    return {};
  };
}

/** No quota is shorter: a millisecond (Documentation/scheduler/sched-bwc.rst). */
const SHORTEST_QUOTA_US = 1000n;

// Kubelets up to 1.36 subtract the pod's overhead from its quota also when that is -1, no limit, and from quotas that
// are hardly more.
function withPlainQuota(resources: LinuxContainerResources): LinuxContainerResources {
  const { cpuQuota } = resources;
  if (cpuQuota < 0n) return { ...resources, cpuQuota: -1n };
  return cpuQuota > 0n && cpuQuota < SHORTEST_QUOTA_US ? { ...resources, cpuQuota: SHORTEST_QUOTA_US } : resources;
}
