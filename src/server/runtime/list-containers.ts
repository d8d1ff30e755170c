import type {
  ListContainersRequest,
  ListContainersResponse,
  StreamContainersRequest,
  StreamContainersResponse,
} from '../../../proto/gen/cri/api.ts';
import type { Pods } from '../../pod/pods.ts';
import { containerToProto } from '../convert/container-status.ts';
import { containerFilterFromProto } from '../convert/filters.ts';
import { inChunks } from '../in-chunks.ts';
import type { Handler, StreamHandler } from '../unary.ts';

/** ListContainers: all conditions of the filter hold together. */
export function listContainers(pods: Pods): Handler<ListContainersRequest, ListContainersResponse> {
  return ({ filter }) => ({
    containers: pods.listContainers(containerFilterFromProto(filter)).map(containerToProto),
  });
}

/** StreamContainers: what ListContainers gives at this moment, in parts. */
export function streamContainers(pods: Pods): StreamHandler<StreamContainersRequest, StreamContainersResponse> {
  return async function* ({ filter }) {
    const found = pods.listContainers(containerFilterFromProto(filter));
    for (const containers of inChunks(found, containerToProto)) yield { containers };
  };
}
