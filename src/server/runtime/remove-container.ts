import type { RemoveContainerRequest, RemoveContainerResponse } from '../../../proto/gen/cri/api.ts';
import type { Pods } from '../../pod/pods.ts';
import type { Handler } from '../unary.ts';

/** RemoveContainer: idempotent; a running container is ended by force. */
export function removeContainer(pods: Pods): Handler<RemoveContainerRequest, RemoveContainerResponse> {
  return async ({ containerId }, { signal }) => {
    await pods.removeContainer(containerId, signal);
    return {};
  };
}
