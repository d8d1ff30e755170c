import { type ContainerEventResponse, ContainerEventType, type GetEventsRequest } from '../../../proto/gen/cri/api.ts';
import type { PodEvents, PodEventType } from '../../pod/pod-events.ts';
import { containerStatusToProto } from '../convert/container-status.ts';
import { toNanos } from '../convert/numbers.ts';
import { sandboxStatusToProto } from '../convert/sandbox-status.ts';
import type { StreamHandler } from '../unary.ts';

const TYPES: Readonly<Record<PodEventType, ContainerEventType>> = Object.freeze({
  created: ContainerEventType.CONTAINER_CREATED_EVENT,
  started: ContainerEventType.CONTAINER_STARTED_EVENT,
  stopped: ContainerEventType.CONTAINER_STOPPED_EVENT,
  deleted: ContainerEventType.CONTAINER_DELETED_EVENT,
});

/** GetContainerEvents: from now on, until the client leaves. A client that has the headers misses nothing after them. */
export function getContainerEvents(events: PodEvents): StreamHandler<GetEventsRequest, ContainerEventResponse> {
  return async function* (_request, { signal }) {
    for await (const { type, id, atUs, sandbox, containers } of events.subscribe(signal)) {
      yield {
        containerId: id,
        containerEventType: TYPES[type],
        createdAt: toNanos(atUs),
        podSandboxStatus: sandboxStatusToProto(sandbox),
        containersStatuses: containers.map(containerStatusToProto),
      };
    }
  };
}
