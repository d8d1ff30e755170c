import { CgroupDriver, type RuntimeConfigRequest, type RuntimeConfigResponse } from '../../../proto/gen/cri/api.ts';
import type { Handler } from '../unary.ts';

/** RuntimeConfig: the kubelet takes over the cgroup driver that Berth uses. */
export function runtimeConfig(driver: 'cgroupfs' | 'systemd'): Handler<RuntimeConfigRequest, RuntimeConfigResponse> {
  return () => ({ linux: { cgroupDriver: driver === 'systemd' ? CgroupDriver.SYSTEMD : CgroupDriver.CGROUPFS } });
}
