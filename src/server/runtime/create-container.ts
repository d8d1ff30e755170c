import type { CreateContainerRequest, CreateContainerResponse } from '../../../proto/gen/cri/api.ts';
import type { Pods } from '../../pod/pods.ts';
import { containerSpecFromProto } from '../convert/container-config.ts';
import type { Handler } from '../unary.ts';

/** CreateContainer. The sandbox's own record counts, not the copy of its configuration that comes with the request. */
export function createContainer(pods: Pods): Handler<CreateContainerRequest, CreateContainerResponse> {
  return async ({ podSandboxId, config }, { patience }) => {
    const container = await pods.createContainer(podSandboxId, containerSpecFromProto(config), patience);
    return { containerId: container.id };
  };
}
