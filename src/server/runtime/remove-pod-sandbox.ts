import type { RemovePodSandboxRequest, RemovePodSandboxResponse } from '../../../proto/gen/cri/api.ts';
import type { Pods } from '../../pod/pods.ts';
import type { Handler } from '../unary.ts';

/** RemovePodSandbox: idempotent; whatever still runs in the sandbox is ended by force. */
export function removePodSandbox(pods: Pods): Handler<RemovePodSandboxRequest, RemovePodSandboxResponse> {
  return async ({ podSandboxId }, { signal }) => {
    await pods.removeSandbox(podSandboxId, signal);
    return {};
  };
}
