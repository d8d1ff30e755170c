import { type handleServerStreamingCall, type handleUnaryCall, type Metadata, status } from '@grpc/grpc-js';

import { describe, type ErrorKind, kindOf } from '../base/errors.ts';
import type { LogFields, Logger } from '../base/log.ts';
import type { Meter } from '../base/meter.ts';
import type { SpanFacts } from '../base/tracing.ts';
import { type Call, ClientCall } from './client-call.ts';
import { checkRequiredIds } from './convert/required-ids.ts';
import { BadRequest } from './request-bytes.ts';
import { sendStream } from './send-stream.ts';
import { parseTraceContext } from './tracing/trace-context.ts';
import type { Tracer } from './tracing/tracer.ts';

/** Answers one RPC. Throws BerthError; the boundary turns it into a status. */
export type Handler<Request, Response> = (request: Request, call: Call) => Promise<Response> | Response;

/**
 * Answers one RPC with a stream of messages, asked for one at a time and only as fast as the client takes them. It must
 * end soon when the call's signal aborts. Throws BerthError, before the first message or between two.
 */
export type StreamHandler<Request, Response> = (request: Request, call: Call) => AsyncIterable<Response>;

const STATUS_OF: Readonly<Record<ErrorKind, status>> = Object.freeze({
  invalid: status.INVALID_ARGUMENT,
  notFound: status.NOT_FOUND,
  alreadyExists: status.ALREADY_EXISTS,
  precondition: status.FAILED_PRECONDITION,
  permission: status.PERMISSION_DENIED,
  exhausted: status.RESOURCE_EXHAUSTED,
  unavailable: status.UNAVAILABLE,
  deadline: status.DEADLINE_EXCEEDED,
  cancelled: status.CANCELLED,
  unimplemented: status.UNIMPLEMENTED,
  internal: status.INTERNAL,
});

/** Calls that only read: one line each would bury everything else, as the kubelet polls them. */
const QUIET = /^(List|Stream|Version|Status|.*Status|.*Stats|ImageFsInfo|RuntimeConfig|PodSteps)/;

/**
 * What the kubelet tells its user of a failed pull, in its own words (k8s.io/cri-api/pkg/errors). It looks for them at the
 * beginning of the text, and finds them only where the code is Unknown: before all others it puts the code (kubelet,
 * pullImageV1() of remote_image.go, evalCRIPullErr() of image_manager.go).
 */
const KUBELET_WORD = /^(?:RegistryUnavailable|SignatureValidationFailed): /;

/** HTTP/2 headers carry the text of an error; beyond this, clients drop the whole answer. */
const MAX_DETAILS_CHARS = 4096;
/** Of an id or a name that a client sent; valid ones are shorter. */
const MAX_LOGGED_CHARS = 300;

/** Wraps every handler: the only place where calls are logged and counted, and where an error becomes a status. */
export class RpcBoundary {
  readonly #log: Logger;
  readonly #meter: Meter;
  readonly #tracer: Tracer | undefined;

  constructor(log: Logger, meter: Meter, tracer?: Tracer) {
    this.#log = log;
    this.#meter = meter;
    this.#tracer = tracer;
  }

  /** The gRPC form of a handler. `method` is the RPC's name without its service. */
  unary<Request, Response>(method: string, handler: Handler<Request, Response>): handleUnaryCall<Request, Response> {
    return (call, answer) => {
      const handle = (): Promise<Response> => this.#handle(method, handler, call.request, new ClientCall(method, call));
      (this.#tracer?.isOn ? this.#traced(this.#tracer, method, call, handle) : handle())
        .then(
          (response) => answer(null, response),
          (err: unknown) => answer(toStatus(method, err)),
        )
        .catch((err: unknown) => this.#log.error({ rpc: method, err: describe(err) }, 'answer could not be sent'));
    };
  }

  /**
   * The gRPC form of a handler that streams. A client that leaves is no failure: it is how a stream without an end is
   * left, and nobody is there to be told of one.
   */
  serverStream<Request, Response>(
    method: string,
    handler: StreamHandler<Request, Response>,
  ): handleServerStreamingCall<Request, Response> {
    return (call) => {
      const startedMs = performance.now();
      this.#meter.rpcBegan(method);
      const clientCall = new ClientCall(method, call);
      const { signal } = clientCall;
      let messages = 0;
      const send = async (): Promise<void> => {
        using open = clientCall;
        refuseBad(call.request);
        await sendStream(call, handler(call.request, open), signal, () => {
          messages += 1;
        });
      };
      send().then(
        () => {
          this.#succeeded(method, call.request, { messages }, startedMs);
          call.end();
        },
        (err: unknown) => {
          if (signal.aborted) return this.#succeeded(method, call.request, { messages, clientLeft: true }, startedMs);
          this.#failed(method, call.request, err, startedMs);
          // Not destroy(): the messages before it and the status still have to go out.
          call.emit('error', toStatus(method, err));
        },
      );
    };
  }

  async #traced<Request, Response>(
    tracer: Tracer,
    method: string,
    { metadata, request }: { readonly metadata: Metadata; readonly request: Request },
    handle: () => Promise<Response>,
  ): Promise<Response> {
    const header = (name: string): string | undefined => metadata.get(name).at(-1)?.toString();
    const parent = parseTraceContext(header('traceparent'), header('tracestate'));
    const facts = { 'rpc.system': 'grpc', 'rpc.method': method, ...factsOf(request) };
    return await tracer.inCall({ method, parent, isPoll: QUIET.test(method), facts }, handle, factsOf);
  }

  async #handle<Request, Response>(
    method: string,
    handler: Handler<Request, Response>,
    request: Request,
    clientCall: ClientCall,
  ): Promise<Response> {
    const startedMs = performance.now();
    this.#meter.rpcBegan(method);
    using call = clientCall;
    try {
      refuseBad(request);
      const response = await handler(request, call);
      this.#succeeded(method, request, subjectOf(response), startedMs);
      return response;
    } catch (err) {
      this.#failed(method, request, err, startedMs);
      throw err;
    }
  }

  #succeeded(method: string, request: unknown, facts: LogFields, startedMs: number): void {
    const ms = performance.now() - startedMs;
    this.#meter.rpc(method, 'ok', ms / 1000);
    if (!QUIET.test(method))
      this.#log.info({ rpc: method, ...subjectOf(request), ...facts, ms: round(ms) }, 'rpc done');
  }

  #failed(method: string, request: unknown, err: unknown, startedMs: number): void {
    const ms = performance.now() - startedMs;
    const kind = kindOf(err);
    this.#meter.rpc(method, kind, ms / 1000);
    const fields = {
      rpc: method,
      ...subjectOf(request),
      kind,
      err: shorten(describe(err), MAX_DETAILS_CHARS),
      ms: round(ms),
    };
    // An internal error is a bug: its stack says where.
    if (kind === 'internal')
      this.#log.error({ ...fields, stack: err instanceof Error ? err.stack : undefined }, 'rpc failed');
    // The kubelet asks for what it has just removed, to see that it has gone: this answer is the one that it wants.
    else if (kind === 'notFound' && QUIET.test(method)) this.#log.debug(fields, 'rpc failed');
    else this.#log.warn(fields, 'rpc failed');
  }
}

function refuseBad(request: unknown): void {
  if (request instanceof BadRequest) throw request.error;
  checkRequiredIds(request);
}

function toStatus(method: string, err: unknown): { readonly code: status; readonly details: string } {
  const details = toDetails(err);
  const isForKubelet = method === 'PullImage' && KUBELET_WORD.test(details);
  return { code: isForKubelet ? status.UNKNOWN : STATUS_OF[kindOf(err)], details };
}

// Status text travels in a header: what is not printable ASCII is percent-encoded by gRPC and counts threefold.
function toDetails(err: unknown): string {
  // gRPC throws on half a surrogate pair, which the cut makes, and any registry or plugin can put into its JSON.
  return shorten(describe(err), MAX_DETAILS_CHARS).toWellFormed();
}

// From the middle: what it is about stands at the beginning, what is wrong at the end.
function shorten(text: string, maxChars: number): string {
  if (text.length <= maxChars) return text;
  return `${text.slice(0, maxChars / 2)} ... (cut) ... ${text.slice(-maxChars / 2)}`;
}

/** What a request or an answer is about: ids, and the names of what has no id yet. */
function subjectOf(message: unknown): Record<string, string> {
  const metadata = at(at(message, 'config'), 'metadata');
  const [name, namespace] = [textAt(metadata, 'name'), textAt(metadata, 'namespace')];
  const isPod = name !== undefined && namespace !== undefined;
  const subject = {
    sandbox: textAt(message, 'podSandboxId'),
    container: textAt(message, 'containerId'),
    pod: isPod ? `${namespace}/${name}` : undefined,
    containerName: isPod ? undefined : name,
    image: textAt(at(message, 'image'), 'image'),
  };
  const said = Object.entries(subject).filter((entry): entry is [string, string] => entry[1] !== undefined);
  return Object.fromEntries(said);
}

/** The same for spans, with OpenTelemetry's names where it has some. */
function factsOf(message: unknown): SpanFacts {
  const metadata = at(at(message, 'config'), 'metadata');
  const { sandbox, container, pod, containerName, image } = subjectOf(message);
  const [namespace, name] = pod?.split('/') ?? [];
  const facts = {
    'k8s.namespace.name': namespace,
    'k8s.pod.name': name,
    'k8s.pod.uid': textAt(metadata, 'uid'),
    'berth.sandbox.id': sandbox,
    'container.id': container,
    'k8s.container.name': containerName,
    'container.image.name': image ?? textAt(at(at(message, 'config'), 'image'), 'image'),
    'container.runtime.handler': textAt(message, 'runtimeHandler'),
  };
  return Object.fromEntries(Object.entries(facts).filter(([, fact]) => fact !== undefined));
}

function at(value: unknown, key: string): unknown {
  return typeof value === 'object' && value !== null ? Reflect.get(value, key) : undefined;
}

function textAt(value: unknown, key: string): string | undefined {
  const text = at(value, key);
  return typeof text === 'string' && text !== '' ? text.slice(0, MAX_LOGGED_CHARS) : undefined;
}

function round(ms: number): number {
  return Math.round(ms * 100) / 100;
}
