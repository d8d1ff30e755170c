import { Client, credentials, Metadata, type StatusObject, status } from '@grpc/grpc-js';

/** How a call has ended. */
export interface RawAnswer {
  readonly code: status;
  readonly details: string;
  /** The bytes of each message that came. */
  readonly messages: readonly Buffer[];
  readonly tookMs: number;
}

/** How a call is made. */
export interface RawCall {
  readonly timeoutMs: number;
  /** Leaves after so many messages, or when a stream has its headers and stays silent for `quietMs`. */
  readonly leaveAfter?: { readonly messages: number; readonly quietMs: number };
}

const asIs = (bytes: Buffer): Buffer => bytes;

/** A client that sends bytes as they are, valid messages or not. */
export class RawClient implements Disposable {
  readonly #client: Client;

  constructor(endpoint: string) {
    this.#client = new Client(endpoint, credentials.createInsecure(), {
      'grpc.max_receive_message_length': -1,
      'grpc.max_send_message_length': -1,
    });
  }

  /**
   * Calls `path` with as many messages as given, where a right call has one, and returns how it ended, whatever it ended
   * with. A stream that is left ends with OK.
   */
  async call(path: string, requests: readonly Buffer[], { timeoutMs, leaveAfter }: RawCall): Promise<RawAnswer> {
    const startedMs = performance.now();
    const { promise, resolve } = Promise.withResolvers<StatusObject>();
    const options = { deadline: Date.now() + timeoutMs };
    // A call with streams both ways is the only one that may send none or several.
    const call = this.#client.makeBidiStreamRequest(path, asIs, asIs, new Metadata(), options);
    const messages: Buffer[] = [];
    let left = false;
    const leave = (): void => {
      left = true;
      call.cancel();
    };
    let quiet: NodeJS.Timeout | undefined;
    call.on('metadata', () => {
      if (leaveAfter) quiet = setTimeout(leave, leaveAfter.quietMs);
    });
    call.on('data', (message: Buffer) => {
      messages.push(message);
      if (leaveAfter && messages.length === leaveAfter.messages) leave();
    });
    call.on('status', resolve);
    // Comes with the status too.
    call.on('error', () => {});
    for (const request of requests) call.write(request);
    call.end();
    const { code, details } = await promise;
    clearTimeout(quiet);
    return { code: left ? status.OK : code, details, messages, tookMs: performance.now() - startedMs };
  }

  [Symbol.dispose](): void {
    this.#client.close();
  }
}
