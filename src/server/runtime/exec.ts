import type { ExecRequest, ExecResponse } from '../../../proto/gen/cri/api.ts';
import type { PodStreams } from '../../pod/pod-streams.ts';
import { commandFromProto, wantedStreams } from '../convert/streams.ts';
import type { StreamServer } from '../streaming/stream-server.ts';
import type { Handler } from '../unary.ts';

/** Exec: nothing runs yet. Answers the URL at which the client finds the command's streams. */
export function exec(
  pods: Pick<PodStreams, 'checkExec'>,
  server: Pick<StreamServer, 'urlFor'>,
): Handler<ExecRequest, ExecResponse> {
  return async (request) => {
    const command = commandFromProto(request.cmd);
    const streams = wantedStreams(request);
    const { containerId } = pods.checkExec(request.containerId);
    return { url: await server.urlFor({ kind: 'exec', containerId, command, ...streams }) };
  };
}
