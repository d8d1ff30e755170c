import {
  type ListPodSandboxRequest,
  type ListPodSandboxResponse,
  PodSandboxState,
} from '../../../proto/gen/cri/api.ts';
import type { Pods } from '../../pod/pods.ts';
import { sandboxToProto } from '../convert/sandbox-status.ts';
import type { Handler } from '../unary.ts';

/** ListPodSandbox: all conditions of the filter hold together. */
export function listPodSandbox(pods: Pods): Handler<ListPodSandboxRequest, ListPodSandboxResponse> {
  return ({ filter }) => {
    const sandboxes = pods.listSandboxes({
      ...(filter && filter.id !== '' ? { id: filter.id } : {}),
      ...(filter?.state ? { ready: filter.state.state === PodSandboxState.SANDBOX_READY } : {}),
      ...(filter ? { labels: filter.labelSelector } : {}),
    });
    return { items: sandboxes.map(sandboxToProto) };
  };
}
