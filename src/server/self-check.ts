import { Client, credentials, Metadata } from '@grpc/grpc-js';

import { RuntimeServiceService } from '../../proto/gen/cri/api.ts';
import { raceSignal } from '../base/deadline.ts';
import { because } from '../base/errors.ts';

/**
 * Asks berthd over its own socket, as a kubelet that has just come does: the answer to a Version call shows that the
 * socket is there, that connections and calls are taken and answered, and that the event loop turns. `address` is
 * `unix:///path`. Throws `unavailable` when there is no answer, the signal's reason on abort.
 */
export async function askSelf(address: string, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted();
  const { path, requestSerialize, responseDeserialize } = RuntimeServiceService.version;
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  // Not one that is kept: it would go on working when the socket's file is gone.
  const client = new Client(address, credentials.createInsecure(), {
    'grpc.enable_retries': 0,
    'grpc.use_local_subchannel_pool': 1,
  });
  const call = client.makeUnaryRequest(
    path,
    requestSerialize,
    responseDeserialize,
    { version: '' },
    new Metadata(),
    (err) => {
      if (err) reject(because('unavailable', 'no answer to a Version call over the own socket', err));
      else resolve();
    },
  );
  try {
    await raceSignal(promise, signal);
  } finally {
    call.cancel();
    client.close();
  }
}
