import type { CheckpointContainerRequest, CheckpointContainerResponse } from '../../../proto/gen/cri/api.ts';
import type { PodCheckpoints } from '../../pod/pod-checkpoints.ts';
import { toNumber } from '../convert/numbers.ts';
import type { Handler } from '../unary.ts';

/** No dump takes a day. */
const MAX_TIMEOUT_SECONDS = 86_400;

/** CheckpointContainer: a running container as an archive (KEP-2008). */
export function checkpointContainer(
  checkpoints: PodCheckpoints,
): Handler<CheckpointContainerRequest, CheckpointContainerResponse> {
  return async ({ containerId, location, timeout }, { signal }) => {
    const seconds = toNumber(timeout, 'timeout', { min: 0, max: MAX_TIMEOUT_SECONDS });
    await checkpoints.checkpointContainer(containerId, location, seconds * 1000, signal);
    return {};
  };
}
