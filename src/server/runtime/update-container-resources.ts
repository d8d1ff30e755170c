import type { UpdateContainerResourcesRequest, UpdateContainerResourcesResponse } from '../../../proto/gen/cri/api.ts';
import { invalid } from '../../base/errors.ts';
import type { Pods } from '../../pod/pods.ts';
import { resourcesFromProto } from '../convert/resources.ts';
import type { Handler } from '../unary.ts';

/** UpdateContainerResources: what the request does not say stays as it is. */
export function updateContainerResources(
  pods: Pods,
): Handler<UpdateContainerResourcesRequest, UpdateContainerResourcesResponse> {
  return async ({ containerId, linux }, { signal }) => {
    if (!linux) throw invalid('linux', 'is missing');
    await pods.updateContainer(containerId, resourcesFromProto(linux, 'linux'), signal);
    return {};
  };
}
