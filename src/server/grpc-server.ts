import { Server, ServerCredentials, type ServiceDefinition, type UntypedServiceImplementation } from '@grpc/grpc-js';

import { bindForRoot } from '../base/socket-path.ts';
import { readingCarefully } from './request-bytes.ts';

/** As large as the largest list that peers allow. */
const MAX_SEND_BYTES = 80 * 1024 * 1024;
/** A client's requests are small; the largest carry a pod's annotations, 256 KiB by Kubernetes' rules. */
const MAX_RECEIVE_BYTES = 16 * 1024 * 1024;
/** How long calls in flight may go on when the daemon stops. */
const DRAIN_TIMEOUT_MS = 5_000;

/** A service's definition with what answers it. Methods without a handler answer Unimplemented. */
export interface ServedService {
  readonly definition: ServiceDefinition;
  readonly handlers: UntypedServiceImplementation;
}

/** The gRPC server on its unix socket. */
export class GrpcServer {
  readonly #server = new Server({
    'grpc.max_send_message_length': MAX_SEND_BYTES,
    'grpc.max_receive_message_length': MAX_RECEIVE_BYTES,
  });

  constructor(services: readonly ServedService[]) {
    for (const { definition, handlers } of services) this.#server.addService(readingCarefully(definition), handlers);
  }

  /**
   * Listens on a unix socket that root and its group may use. A socket that a dead process left is replaced; one that
   * answers is not. Throws `precondition` then, naming the path, and also where others could put a socket of theirs in
   * its place.
   */
  async listen(socketPath: string): Promise<void> {
    await bindForRoot(socketPath, async () => {
      const { promise, resolve, reject } = Promise.withResolvers<number>();
      this.#server.bindAsync(`unix://${socketPath}`, ServerCredentials.createInsecure(), (err, port) =>
        err ? reject(err) : resolve(port),
      );
      await promise;
    });
  }

  /** Takes no new calls, lets those in flight end for a while, then cuts them off. */
  async close(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(() => {
      this.#server.forceShutdown();
      // A connection that is being closed waits for its client to close it too (Node's http2), and one may never do so.
      resolve();
    }, DRAIN_TIMEOUT_MS);
    this.#server.tryShutdown(() => resolve());
    await promise;
    clearTimeout(timer);
  }
}
