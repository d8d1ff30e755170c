import { type handleUnaryCall, Server, ServerCredentials, type sendUnaryData, status } from '@grpc/grpc-js';

import {
  type ExportTraceServiceRequest,
  type ExportTraceServiceResponse,
  TraceServiceService,
} from '../../proto/gen/otlp/trace.ts';

type Export = handleUnaryCall<ExportTraceServiceRequest, ExportTraceServiceResponse>;

/** A span as it came over the wire. */
export interface ReceivedSpan {
  readonly traceId: string;
  readonly spanId: string;
  readonly parentId: string;
  readonly name: string;
  readonly kind: number;
  readonly startNs: bigint;
  readonly endNs: bigint;
  readonly attributes: ReadonlyMap<string, string | bigint | boolean | undefined>;
  readonly status: { readonly code: number; readonly message: string } | undefined;
  readonly service: string;
}

/** A collector of traces that keeps them in memory. */
export class OtlpReceiver {
  readonly #server: Server;
  readonly #spans: ReceivedSpan[] = [];
  readonly #waiting: { readonly isDone: () => boolean; readonly resolve: () => void }[] = [];
  #refused = 0;
  readonly endpoint: string;
  /** Whether it says that it is away. */
  refuse = false;

  private constructor(server: Server, port: number) {
    this.#server = server;
    this.endpoint = `127.0.0.1:${port}`;
  }

  static async start(): Promise<OtlpReceiver> {
    const server = new Server();
    let receiver: OtlpReceiver | undefined;
    server.addService(TraceServiceService, {
      export: ((call, answer) => receiver?.export(call.request, answer)) satisfies Export,
    });
    const { promise, resolve, reject } = Promise.withResolvers<number>();
    server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (err, port) =>
      err ? reject(err) : resolve(port),
    );
    receiver = new OtlpReceiver(server, await promise);
    return receiver;
  }

  /** All that has come, as soon as it is so many. */
  async spans(count: number): Promise<readonly ReceivedSpan[]> {
    await this.#until(() => this.#spans.length >= count);
    return this.#spans;
  }

  /** The span of that name, as soon as it is there. */
  async span(name: string): Promise<ReceivedSpan> {
    const find = (): ReceivedSpan | undefined => this.#spans.find((span) => span.name === name);
    await this.#until(() => find() !== undefined);
    const found = find();
    if (!found) throw new Error(`no span ${name}`);
    return found;
  }

  /** Resolves when so many requests have been refused. */
  async refused(count: number): Promise<void> {
    await this.#until(() => this.#refused >= count);
  }

  close(): void {
    this.#server.forceShutdown();
  }

  async #until(isDone: () => boolean): Promise<void> {
    if (isDone()) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#waiting.push({ isDone, resolve });
    await promise;
  }

  /** Answers a request of berthd. */
  export(request: ExportTraceServiceRequest, answer: sendUnaryData<ExportTraceServiceResponse>): void {
    if (this.refuse) {
      this.#refused += 1;
      answer({ code: status.UNAVAILABLE, details: 'away' });
    } else {
      this.#spans.push(...received(request));
      answer(null, { partialSuccess: undefined });
    }
    for (const { isDone, resolve } of this.#waiting) if (isDone()) resolve();
  }
}

function received({ resourceSpans }: ExportTraceServiceRequest): ReceivedSpan[] {
  const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
  return resourceSpans.flatMap(({ resource, scopeSpans }) => {
    const service = resource?.attributes.find(({ key }) => key === 'service.name')?.value?.stringValue ?? '';
    return scopeSpans.flatMap(({ spans }) =>
      spans.map((span) => ({
        traceId: hex(span.traceId),
        spanId: hex(span.spanId),
        parentId: hex(span.parentSpanId),
        name: span.name,
        kind: span.kind,
        startNs: span.startTimeUnixNano,
        endNs: span.endTimeUnixNano,
        attributes: new Map(
          span.attributes.map(({ key, value }) => [key, value?.stringValue ?? value?.intValue ?? value?.boolValue]),
        ),
        status: span.status,
        service,
      })),
    );
  });
}
