import type { ExecSyncRequest, ExecSyncResponse } from '../../../proto/gen/cri/api.ts';
import { invalid } from '../../base/errors.ts';
import type { Pods } from '../../pod/pods.ts';
import { toNumber } from '../convert/numbers.ts';
import type { Handler } from '../unary.ts';

/** ExecSync: `timeout` is in seconds, and 0 is no limit. Past it the command is killed and the answer is an error. */
export function execSync(pods: Pods): Handler<ExecSyncRequest, ExecSyncResponse> {
  return async ({ containerId, cmd, timeout }, { signal }) => {
    if (cmd.length === 0 || cmd[0] === '') throw invalid('cmd', 'is empty');
    if (cmd.some((word) => word.includes('\0'))) throw invalid('cmd', 'has a NUL byte in it');
    const timeoutS = toNumber(timeout, 'timeout', { min: 0 });
    const { stdout, stderr, exitCode } = await pods.execSync(containerId, cmd, timeoutS * 1000, signal);
    return { stdout, stderr, exitCode };
  };
}
