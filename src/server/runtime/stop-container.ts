import type { StopContainerRequest, StopContainerResponse } from '../../../proto/gen/cri/api.ts';
import type { Pods } from '../../pod/pods.ts';
import { toNumber } from '../convert/numbers.ts';
import type { Handler } from '../unary.ts';

/** The longest grace period in seconds that a timer can carry: 24 days. */
const MAX_TIMEOUT_S = 2_147_483;

/** StopContainer: idempotent; `timeout` is the grace period in seconds, and 0 kills at once. */
export function stopContainer(pods: Pods): Handler<StopContainerRequest, StopContainerResponse> {
  return async ({ containerId, timeout }, { signal }) => {
    const timeoutS = Math.min(toNumber(timeout, 'timeout', { min: 0 }), MAX_TIMEOUT_S);
    await pods.stopContainer(containerId, timeoutS * 1000, signal);
    return {};
  };
}
