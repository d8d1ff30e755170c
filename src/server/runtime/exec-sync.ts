import type { ExecSyncRequest, ExecSyncResponse } from '../../../proto/gen/cri/api.ts';
import type { Pods } from '../../pod/pods.ts';
import { toNumber } from '../convert/numbers.ts';
import { commandFromProto } from '../convert/streams.ts';
import type { Handler } from '../unary.ts';

/** ExecSync: `timeout` is in seconds, and 0 is no limit. Past it the command is killed and the answer is an error. */
export function execSync(pods: Pods): Handler<ExecSyncRequest, ExecSyncResponse> {
  return async ({ containerId, cmd, timeout }, { signal }) => {
    const command = commandFromProto(cmd);
    const timeoutS = toNumber(timeout, 'timeout', { min: 0 });
    const { stdout, stderr, exitCode } = await pods.execSync(containerId, command, timeoutS * 1000, signal);
    return { stdout, stderr, exitCode };
  };
}
