import type { RunPodSandboxRequest, RunPodSandboxResponse } from '../../../proto/gen/cri/api.ts';
import type { Pods } from '../../pod/pods.ts';
import { sandboxSpecFromProto } from '../convert/sandbox-config.ts';
import type { Handler } from '../unary.ts';

/** RunPodSandbox. A retry of the same request joins the first one, whose work a client's cancel does not reach. */
export function runPodSandbox(pods: Pods): Handler<RunPodSandboxRequest, RunPodSandboxResponse> {
  return async ({ config, runtimeHandler }, { patience }) => {
    const sandbox = await pods.runSandbox(sandboxSpecFromProto(config, runtimeHandler), patience);
    return { podSandboxId: sandbox.id };
  };
}
