import { type ClientUnaryCall, credentials, Metadata, status } from '@grpc/grpc-js';

import {
  type ExportTraceServiceRequest,
  type ExportTraceServiceResponse,
  type KeyValue,
  type Span,
  TraceServiceClient,
} from '../../../proto/gen/otlp/trace.ts';
import { describe } from '../../base/errors.ts';
import type { Logger } from '../../base/log.ts';
import type { SpanFacts } from '../../base/tracing.ts';
import type { EndedSpan, SpanSink } from './tracer.ts';

/** What the receiver is told of where spans come from, and how it is reached. */
export interface OtlpOptions {
  /** `host:port`. */
  readonly endpoint: string;
  /** PEM of authorities, certificate and key, empty where there is none; undefined: no TLS. */
  readonly tls: { readonly ca: Buffer; readonly cert: Buffer; readonly key: Buffer } | undefined;
  readonly resource: SpanFacts;
  readonly log: Logger;
  /** What became of spans. */
  readonly count: (outcome: 'exported' | 'dropped' | 'failed', spans: number) => void;
  /** How long spans wait for others to be sent with. */
  readonly collectMs?: number;
}

/** As OpenTelemetry's batch processors have them by default. */
const MAX_WAITING = 2048;
const MAX_BATCH = 512;
const COLLECT_MS = 5_000;
const ANSWER_TIMEOUT_MS = 10_000;
const CLOSE_TIMEOUT_MS = 2_000;
/** The longest pause after a failure; the first is COLLECT_MS. */
const LONGEST_PAUSE_MS = 60_000;
/** What the OTLP specification calls retryable. */
const PASSING: readonly number[] = [
  status.CANCELLED,
  status.DEADLINE_EXCEEDED,
  status.RESOURCE_EXHAUSTED,
  status.ABORTED,
  status.OUT_OF_RANGE,
  status.UNAVAILABLE,
  status.DATA_LOSS,
];
const KINDS = Object.freeze({ internal: 1, server: 2, client: 3 });
const STATUS_OK = 1;
const STATUS_ERROR = 2;
const NS_PER_MS = 1_000_000n;

/**
 * Sends spans by OTLP over gRPC, in batches, one at a time. What does not fit into its queue is dropped and counted: no call
 * waits for it or fails by it.
 */
export class OtlpSender implements SpanSink {
  readonly #options: OtlpOptions;
  readonly #client: TraceServiceClient;
  readonly #collectMs: number;
  #queue: EndedSpan[] = [];
  #timer: NodeJS.Timeout | undefined;
  #sending: Promise<void> | undefined;
  #call: ClientUnaryCall | undefined;
  #pauseMs: number;
  #isFailing = false;
  #isClosed = false;

  constructor(options: OtlpOptions) {
    this.#options = options;
    this.#collectMs = options.collectMs ?? COLLECT_MS;
    this.#pauseMs = this.#collectMs;
    const { tls } = options;
    const orNone = (pem: Buffer): Buffer | null => (pem.length > 0 ? pem : null);
    const channel = tls
      ? credentials.createSsl(orNone(tls.ca), orNone(tls.key), orNone(tls.cert))
      : credentials.createInsecure();
    // A proxy in the environment is for registries; gRPC would also ask it for a collector on this node.
    this.#client = new TraceServiceClient(options.endpoint, channel, { 'grpc.enable_http_proxy': 0 });
  }

  get waiting(): number {
    return this.#queue.length;
  }

  offer(span: EndedSpan): void {
    if (this.#isClosed || this.#queue.length >= MAX_WAITING) return void this.#options.count('dropped', 1);
    this.#queue.push(span);
    // While the receiver fails, a full batch is no reason to try again.
    this.#schedule(this.#queue.length >= MAX_BATCH && !this.#isFailing ? 0 : this.#pauseMs);
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    clearTimeout(this.#timer);
    const giveUpAtMs = Date.now() + CLOSE_TIMEOUT_MS;
    const timer = setTimeout(() => this.#call?.cancel(), CLOSE_TIMEOUT_MS);
    await this.#sending;
    clearTimeout(timer);
    while (this.#queue.length > 0 && Date.now() < giveUpAtMs && !this.#isFailing)
      await this.#send(giveUpAtMs - Date.now());
    this.#options.count('dropped', this.#queue.splice(0).length);
    this.#client.close();
  }

  #schedule(afterMs: number): void {
    if (this.#sending || this.#isClosed) return;
    if (afterMs > 0 && this.#timer) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.#sending = this.#send(ANSWER_TIMEOUT_MS).finally(() => {
        this.#sending = undefined;
        if (this.#queue.length > 0) this.#schedule(this.#pauseMs);
      });
    }, afterMs).unref();
  }

  async #send(timeoutMs: number): Promise<void> {
    const { count, log, endpoint } = this.#options;
    const batch = this.#queue.splice(0, MAX_BATCH);
    try {
      const { partialSuccess } = await this.#export(this.#request(batch), timeoutMs);
      const rejected = Number(partialSuccess?.rejectedSpans ?? 0n);
      count('exported', batch.length - rejected);
      if (rejected > 0) count('failed', rejected);
      if (this.#isFailing) log.info({ endpoint }, 'traces are taken again');
      this.#isFailing = false;
      this.#pauseMs = this.#collectMs;
    } catch (err) {
      const isPassing = err instanceof Error && 'code' in err && PASSING.includes(Number(err.code));
      // Those that came meanwhile have their place; the newest are dropped when there is none.
      const kept = isPassing ? batch.slice(0, MAX_WAITING - this.#queue.length) : [];
      this.#queue = [...kept, ...this.#queue];
      count(isPassing ? 'dropped' : 'failed', batch.length - kept.length);
      if (!this.#isFailing) log.warn({ endpoint, err: describe(err) }, 'traces are not taken');
      this.#isFailing = true;
      this.#pauseMs = Math.min(this.#pauseMs * 2, LONGEST_PAUSE_MS);
    }
  }

  async #export(request: ExportTraceServiceRequest, timeoutMs: number): Promise<ExportTraceServiceResponse> {
    const { promise, resolve, reject } = Promise.withResolvers<ExportTraceServiceResponse>();
    this.#call = this.#client.export(request, new Metadata(), { deadline: Date.now() + timeoutMs }, (err, answer) =>
      err ? reject(err) : resolve(answer),
    );
    return await promise;
  }

  #request(batch: readonly EndedSpan[]): ExportTraceServiceRequest {
    const { resource } = this.#options;
    return {
      resourceSpans: [
        {
          resource: { attributes: toAttributes(resource) },
          scopeSpans: [{ scope: { name: 'berth', version: '' }, spans: batch.map(toSpan) }],
        },
      ],
    };
  }
}

function toSpan({ traceId, spanId, parentId, state, name, kind, startMs, endMs, facts, problem }: EndedSpan): Span {
  return {
    traceId: Buffer.from(traceId, 'hex'),
    spanId: Buffer.from(spanId, 'hex'),
    parentSpanId: Buffer.from(parentId, 'hex'),
    traceState: state,
    name,
    kind: KINDS[kind],
    startTimeUnixNano: toNs(startMs),
    endTimeUnixNano: toNs(endMs),
    attributes: toAttributes(facts),
    status: problem === undefined ? { code: STATUS_OK, message: '' } : { code: STATUS_ERROR, message: problem },
    flags: 1,
  };
}

function toAttributes(facts: SpanFacts): KeyValue[] {
  return Object.entries(facts).flatMap(([key, fact]) => {
    if (fact === undefined) return [];
    const value = {
      stringValue: typeof fact === 'string' ? fact : undefined,
      boolValue: typeof fact === 'boolean' ? fact : undefined,
      intValue: typeof fact === 'number' ? BigInt(Math.round(fact)) : undefined,
    };
    return [{ key, value }];
  });
}

/** Exact to the microsecond: the fraction of a number this large is no more than that. */
function toNs(ms: number): bigint {
  const whole = Math.floor(ms);
  return BigInt(whole) * NS_PER_MS + BigInt(Math.round((ms - whole) * 1000)) * 1000n;
}
