import type { ListContainersRequest, ListContainersResponse } from '../../../proto/gen/cri/api.ts';
import type { Pods } from '../../pod/pods.ts';
import { containerToProto, stateFromProto } from '../convert/container-status.ts';
import type { Handler } from '../unary.ts';

/** ListContainers: all conditions of the filter hold together. */
export function listContainers(pods: Pods): Handler<ListContainersRequest, ListContainersResponse> {
  return ({ filter }) => {
    const containers = pods.listContainers({
      ...(filter && filter.id !== '' ? { id: filter.id } : {}),
      ...(filter && filter.podSandboxId !== '' ? { sandboxId: filter.podSandboxId } : {}),
      ...(filter?.state ? { state: stateFromProto(filter.state.state, 'filter.state.state') } : {}),
      ...(filter ? { labels: filter.labelSelector } : {}),
    });
    return { containers: containers.map(containerToProto) };
  };
}
