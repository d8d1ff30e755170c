import type {
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
      resources: resources && resourcesFromProto(resources, 'resources'),
    };
    await pods.updateSandbox(podSandboxId, update, signal);
    return {};
  };
}
