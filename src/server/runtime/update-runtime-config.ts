import type { UpdateRuntimeConfigRequest, UpdateRuntimeConfigResponse } from '../../../proto/gen/cri/api.ts';
import type { PodRanges } from '../../cni/pod-ranges.ts';
import type { Handler } from '../unary.ts';

const FIELD = 'runtime_config.network_config.pod_cidr';

/**
 * UpdateRuntimeConfig: the kubelet tells the node's addresses for pods. They fill the template of the CNI configuration,
 * if there is one; otherwise the network comes from what the node's owner wrote.
 */
export function updateRuntimeConfig(
  podRanges: PodRanges,
): Handler<UpdateRuntimeConfigRequest, UpdateRuntimeConfigResponse> {
  return async ({ runtimeConfig }, { signal }) => {
    const podCidr = runtimeConfig?.networkConfig?.podCidr ?? '';
    await podRanges.write(FIELD, podCidr === '' ? [] : podCidr.split(','), signal);
    return {};
  };
}
