import type { PortForwardRequest, PortForwardResponse } from '../../../proto/gen/cri/api.ts';
import type { PodStreams } from '../../pod/pod-streams.ts';
import { portsFromProto } from '../convert/streams.ts';
import type { StreamServer } from '../streaming/stream-server.ts';
import type { Handler } from '../unary.ts';

/** PortForward: answers the URL through which the client connects to ports in the sandbox. */
export function portForward(
  pods: Pick<PodStreams, 'checkPortForward'>,
  server: Pick<StreamServer, 'urlFor'>,
): Handler<PortForwardRequest, PortForwardResponse> {
  return async (request) => {
    const ports = portsFromProto(request);
    const { sandboxId } = pods.checkPortForward(request.podSandboxId);
    return { url: await server.urlFor({ kind: 'portforward', sandboxId, ports }) };
  };
}
