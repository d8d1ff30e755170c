import type { ReopenContainerLogRequest, ReopenContainerLogResponse } from '../../../proto/gen/cri/api.ts';
import type { Pods } from '../../pod/pods.ts';
import type { Handler } from '../unary.ts';

/** ReopenContainerLog: answers when the new file is written to, as the kubelet compresses the old one next. */
export function reopenContainerLog(pods: Pods): Handler<ReopenContainerLogRequest, ReopenContainerLogResponse> {
  return async ({ containerId }, { signal }) => {
    await pods.reopenLog(containerId, signal);
    return {};
  };
}
