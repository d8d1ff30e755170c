import { Client, type ClientReadableStream, credentials, Metadata, type ServiceError } from '@grpc/grpc-js';

import { patient } from './patience.ts';

/** One method of a generated service definition. */
export interface Method<Request, Response> {
  readonly path: string;
  readonly requestSerialize: (request: Request) => Buffer;
  readonly responseDeserialize: (bytes: Buffer) => Response;
}

/** When a call ends before its answer. */
export interface CallOptions {
  readonly signal?: AbortSignal | undefined;
  readonly timeoutMs?: number | undefined;
}

const CALL_TIMEOUT_MS = patient(120_000);

/** A connection to a CRI server. */
export class CriConnection {
  readonly #client: Client;

  /** `endpoint` is `unix:///path`; nothing is sent before the first call. */
  constructor(endpoint: string) {
    this.#client = new Client(endpoint, credentials.createInsecure(), {
      'grpc.max_receive_message_length': -1,
      // Others to the same socket may have met a server that was gone, and wait before they look again.
      'grpc.use_local_subchannel_pool': 1,
    });
  }

  /** Sends a request. Throws grpc's ServiceError, also when the signal aborts: the server then hears of it. */
  async call<Request, Response>(
    method: Method<Request, Response>,
    request: Request,
    { signal, timeoutMs = CALL_TIMEOUT_MS }: CallOptions = {},
  ): Promise<Response> {
    const { promise, resolve, reject } = Promise.withResolvers<Response>();
    const call = this.#client.makeUnaryRequest(
      method.path,
      method.requestSerialize,
      method.responseDeserialize,
      request,
      new Metadata(),
      { deadline: Date.now() + timeoutMs },
      (err, response) => (response === undefined ? reject(err ?? new Error('empty answer')) : resolve(response)),
    );
    const cancel = (): void => call.cancel();
    signal?.addEventListener('abort', cancel, { once: true });
    try {
      return await promise;
    } finally {
      signal?.removeEventListener('abort', cancel);
    }
  }

  /** The error that a request ends with. Throws when it succeeds. */
  async fails<Request, Response>(
    method: Method<Request, Response>,
    request: Request,
    options?: CallOptions,
  ): Promise<ServiceError> {
    try {
      await this.call(method, request, options);
    } catch (err) {
      return err as ServiceError;
    }
    throw new Error(`${method.path} succeeded`);
  }

  /** Opens a stream of answers. Its caller listens to errors, and cancels it when it has no end of its own. */
  open<Request, Response>(method: Method<Request, Response>, request: Request): ClientReadableStream<Response> {
    const { path, requestSerialize, responseDeserialize } = method;
    return this.#client.makeServerStreamRequest(path, requestSerialize, responseDeserialize, request, new Metadata());
  }

  close(): void {
    this.#client.close();
  }
}
