import type { ContainerStatusRequest, ContainerStatusResponse } from '../../../proto/gen/cri/api.ts';
import type { Pods } from '../../pod/pods.ts';
import { containerStatusToProto } from '../convert/container-status.ts';
import { infoToProto } from '../convert/info.ts';
import type { Handler } from '../unary.ts';

/** ContainerStatus: NotFound for an id that nobody knows, since the kubelet tests for that code. */
export function containerStatus(pods: Pods): Handler<ContainerStatusRequest, ContainerStatusResponse> {
  return async ({ containerId, verbose }) => {
    const container = pods.getContainer(containerId);
    return {
      status: containerStatusToProto(container),
      info: verbose ? infoToProto(await pods.containerInfo(container)) : {},
    };
  };
}
