import type { StopPodSandboxRequest, StopPodSandboxResponse } from '../../../proto/gen/cri/api.ts';
import type { Pods } from '../../pod/pods.ts';
import type { Handler } from '../unary.ts';

/** StopPodSandbox: idempotent; a sandbox that is unknown or stopped is a success. */
export function stopPodSandbox(pods: Pods): Handler<StopPodSandboxRequest, StopPodSandboxResponse> {
  return async ({ podSandboxId }, { signal }) => {
    await pods.stopSandbox(podSandboxId, signal);
    return {};
  };
}
