import type { StartContainerRequest, StartContainerResponse } from '../../../proto/gen/cri/api.ts';
import type { Pods } from '../../pod/pods.ts';
import type { Handler } from '../unary.ts';

/** StartContainer: only a container that was created and never started. */
export function startContainer(pods: Pods): Handler<StartContainerRequest, StartContainerResponse> {
  return async ({ containerId }, { signal }) => {
    await pods.startContainer(containerId, signal);
    return {};
  };
}
