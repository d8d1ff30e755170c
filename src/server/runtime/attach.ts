import type { AttachRequest, AttachResponse } from '../../../proto/gen/cri/api.ts';
import type { PodStreams } from '../../pod/pod-streams.ts';
import { wantedStreams } from '../convert/streams.ts';
import type { StreamServer } from '../streaming/stream-server.ts';
import type { Handler } from '../unary.ts';

/** Attach: answers the URL at which the client finds the streams of the container's own program. */
export function attach(
  pods: Pick<PodStreams, 'checkAttach'>,
  server: Pick<StreamServer, 'urlFor'>,
): Handler<AttachRequest, AttachResponse> {
  return async (request) => {
    const streams = wantedStreams(request);
    const { containerId } = pods.checkAttach(request.containerId, streams);
    return { url: await server.urlFor({ kind: 'attach', containerId, command: [], ...streams }) };
  };
}
