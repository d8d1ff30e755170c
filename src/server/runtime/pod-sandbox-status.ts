import type { PodSandboxStatusRequest, PodSandboxStatusResponse } from '../../../proto/gen/cri/api.ts';
import type { Pods } from '../../pod/pods.ts';
import { containerStatusToProto } from '../convert/container-status.ts';
import { infoToProto } from '../convert/info.ts';
import { sandboxStatusToProto } from '../convert/sandbox-status.ts';
import type { Handler } from '../unary.ts';

/** PodSandboxStatus: NotFound for an id that nobody knows, since the kubelet tests for that code. */
export function podSandboxStatus(pods: Pods): Handler<PodSandboxStatusRequest, PodSandboxStatusResponse> {
  return ({ podSandboxId, verbose }) => {
    const sandbox = pods.getSandbox(podSandboxId);
    return {
      status: sandboxStatusToProto(sandbox),
      info: verbose ? infoToProto(pods.sandboxInfo(sandbox)) : {},
      containersStatuses: pods.listContainers({ sandboxId: sandbox.id }).map(containerStatusToProto),
      timestamp: BigInt(Date.now()) * 1_000_000n,
    };
  };
}
