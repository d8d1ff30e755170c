import type {
  ListPodSandboxRequest,
  ListPodSandboxResponse,
  StreamPodSandboxesRequest,
  StreamPodSandboxesResponse,
} from '../../../proto/gen/cri/api.ts';
import type { Pods } from '../../pod/pods.ts';
import { sandboxFilterFromProto } from '../convert/filters.ts';
import { sandboxToProto } from '../convert/sandbox-status.ts';
import { inChunks } from '../in-chunks.ts';
import type { Handler, StreamHandler } from '../unary.ts';

/** ListPodSandbox: all conditions of the filter hold together. */
export function listPodSandbox(pods: Pods): Handler<ListPodSandboxRequest, ListPodSandboxResponse> {
  return ({ filter }) => ({ items: pods.listSandboxes(sandboxFilterFromProto(filter)).map(sandboxToProto) });
}

/** StreamPodSandboxes: what ListPodSandbox gives at this moment, in parts. */
export function streamPodSandboxes(pods: Pods): StreamHandler<StreamPodSandboxesRequest, StreamPodSandboxesResponse> {
  return async function* ({ filter }) {
    const found = pods.listSandboxes(sandboxFilterFromProto(filter));
    for (const podSandboxes of inChunks(found, sandboxToProto)) yield { podSandboxes };
  };
}
