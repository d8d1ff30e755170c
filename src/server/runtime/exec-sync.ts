import type { ExecSyncRequest, ExecSyncResponse } from '../../../proto/gen/cri/api.ts';
import type { Pods } from '../../pod/pods.ts';
import { toNumber } from '../convert/numbers.ts';
import { commandFromProto } from '../convert/streams.ts';
import type { Handler } from '../unary.ts';

/** The longest answer that the kubelet and crictl take: 16 MiB (maxMsgSize), less what is around the bytes. */
const MAX_OUTPUT_BYTES = 16 * 1024 * 1024 - 64;

/** ExecSync: `timeout` is in seconds, and 0 is no limit. Past it the command is killed and the answer is an error. */
export function execSync(pods: Pods): Handler<ExecSyncRequest, ExecSyncResponse> {
  return async ({ containerId, cmd, timeout }, { signal }) => {
    const command = commandFromProto(cmd);
    const timeoutS = toNumber(timeout, 'timeout', { min: 0 });
    const { stdout, stderr, exitCode } = await pods.execSync(containerId, command, timeoutS * 1000, signal);
    return { ...fitted(stdout, stderr), exitCode };
  };
}

/**
 * Cuts what does not fit into one answer: the client would get none of it. The shorter of both is kept whole if it needs
 * no more than half of the room.
 */
export function fitted(stdout: Buffer, stderr: Buffer): { stdout: Buffer; stderr: Buffer } {
  const half = MAX_OUTPUT_BYTES / 2;
  const [outBytes, errBytes] = [stdout.length, stderr.length];
  return {
    stdout: stdout.subarray(0, Math.max(half, MAX_OUTPUT_BYTES - errBytes)),
    stderr: stderr.subarray(0, Math.max(half, MAX_OUTPUT_BYTES - outBytes)),
  };
}
