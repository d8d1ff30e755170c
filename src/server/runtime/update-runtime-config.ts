import { isIP } from 'node:net';

import type { UpdateRuntimeConfigRequest, UpdateRuntimeConfigResponse } from '../../../proto/gen/cri/api.ts';
import { invalid } from '../../base/errors.ts';
import type { Logger } from '../../base/log.ts';
import type { Handler } from '../unary.ts';

/**
 * UpdateRuntimeConfig: the kubelet tells the node's pod addresses. Berth's network comes from the CNI configuration,
 * which its owner writes; the range is checked and logged, so that a mismatch can be found.
 */
export function updateRuntimeConfig(log: Logger): Handler<UpdateRuntimeConfigRequest, UpdateRuntimeConfigResponse> {
  return ({ runtimeConfig }) => {
    const podCidr = runtimeConfig?.networkConfig?.podCidr ?? '';
    const ranges = podCidr === '' ? [] : podCidr.split(',');
    for (const range of ranges) {
      if (!isCidr(range))
        throw invalid(
          'runtime_config.network_config.pod_cidr',
          `${JSON.stringify(range)} is not a range such as 10.1.0.0/16`,
        );
    }
    log.info({ podCidr }, 'the kubelet named the pod address range; the CNI configuration decides');
    return {};
  };
}

function isCidr(range: string): boolean {
  const [address = '', bits = '', ...rest] = range.split('/');
  const family = isIP(address);
  return family !== 0 && rest.length === 0 && /^\d{1,3}$/.test(bits) && Number(bits) <= (family === 4 ? 32 : 128);
}
