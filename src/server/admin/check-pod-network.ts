import type { CheckPodNetworkRequest, CheckPodNetworkResponse } from '../../../proto/gen/berth/admin.ts';
import type { Pods } from '../../pod/pods.ts';
import type { Handler } from '../unary.ts';

/** CheckPodNetwork: whether a pod's network is as the plugins made it. */
export function checkPodNetwork(pods: Pods): Handler<CheckPodNetworkRequest, CheckPodNetworkResponse> {
  return async ({ podSandboxId }, { signal }) => {
    const problem = await pods.networkProblem(podSandboxId, signal);
    return { checked: problem !== undefined, problem: problem ?? '' };
  };
}
