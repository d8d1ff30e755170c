import {
  type ContainerConfig,
  ImageSpec,
  type RestorePodRequest,
  type RestorePodResponse,
} from '../../../proto/gen/cri/api.ts';
import { invalid } from '../../base/errors.ts';
import type { PodCheckpoints } from '../../pod/pod-checkpoints.ts';
import { containerSpecFromProto } from '../convert/container-config.ts';
import { sandboxSpecFromProto } from '../convert/sandbox-config.ts';
import type { Handler } from '../unary.ts';
import { refuseOptions } from './checkpoint-pod.ts';

/** RestorePod: a pod made from a checkpoint, its containers created and ready to go on (KEP-5823). */
export function restorePod(checkpoints: PodCheckpoints): Handler<RestorePodRequest, RestorePodResponse> {
  return async ({ checkpointPath, config, runtimeHandler, options, containerConfigs }, { signal }) => {
    refuseOptions(options);
    if (!config) throw invalid('config', 'is missing');
    const wish = {
      path: checkpointPath,
      sandbox: sandboxSpecFromProto(config, runtimeHandler),
      containers: containerConfigs.map((container) => containerSpecFromProto(withImage(container, checkpointPath))),
    };
    const { sandbox, containers } = await checkpoints.restorePod(wish, signal);
    return {
      podSandboxId: sandbox.id,
      restoredContainers: containers.map(({ id, spec }) => ({ name: spec.name, containerId: id })),
    };
  };
}

// Its image is the checkpoint's, so a client need not name any.
function withImage(container: ContainerConfig, checkpointPath: string): ContainerConfig {
  const image = ImageSpec.create(container.image);
  return { ...container, image: { ...image, image: image.image || checkpointPath } };
}
