import type { CheckpointPodRequest, CheckpointPodResponse } from '../../../proto/gen/cri/api.ts';
import { invalid } from '../../base/errors.ts';
import type { PodCheckpoints } from '../../pod/pod-checkpoints.ts';
import type { Handler } from '../unary.ts';

/** CheckpointPod: all running containers of a pod, paused together, as a folder of archives (KEP-5823). */
export function checkpointPod(checkpoints: PodCheckpoints): Handler<CheckpointPodRequest, CheckpointPodResponse> {
  return async ({ podSandboxId, outputPath, containerIds, options }, { signal }) => {
    refuseOptions(options);
    await checkpoints.checkpointPod(podSandboxId, { outputPath, containerIds }, signal);
    return {};
  };
}

/** No option is known yet, and one that is asked for must not be dropped in silence. Throws `invalid`. */
export function refuseOptions(options: Readonly<Record<string, string>>): void {
  const [name] = Object.keys(options);
  if (name !== undefined) throw invalid(`options[${name}]`, 'is not known');
}
