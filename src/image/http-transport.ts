/**
 * HTTP for the registry client: one request with its redirects, no retries, no authentication. Built on undici, which
 * is loaded at the first request: a node that pulls nothing does not pay for it.
 */

import { isIP } from 'node:net';

import type { Dispatcher } from 'undici';

import { raceSignal } from '../base/deadline.ts';
import { BerthError, findCause } from '../base/errors.ts';
import { type Authorities, HttpAgents, type HttpTimeouts } from './http-agents.ts';
import { bareHost, type IsLocal, isLocalHost } from './local-hosts.ts';
import { RegistryError } from './registry-error.ts';
import { endsSession, explainTls, isUnknownAuthority, plainHttpAfter } from './tls-failure.ts';
import type { TlsMaterial } from './tls-material.ts';

/** One request. */
export interface HttpRequest {
  readonly method: 'GET' | 'HEAD' | 'POST';
  readonly url: URL;
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: string;
  /** True when the certificate of this host need not be valid. */
  readonly insecure: boolean;
  /** Certificates for this host; what we show of ourselves goes to no other. */
  readonly tls?: TlsMaterial | undefined;
}

/** An answer. Its body must be read, or `discard`ed. */
export interface HttpResponse {
  readonly status: number;
  /** False when a redirect led to another scheme, host or port. */
  readonly sameOrigin: boolean;
  /** The value of a header, by its lower-case name; several are joined by commas. */
  header(name: string): string | undefined;
  /** The bytes as they arrive. Throws RegistryError when they stop coming. */
  body(): AsyncGenerator<Uint8Array, void, undefined>;
  discard(): Promise<void>;
}

/** What suits a registry on the internet. */
export const defaultHttpTimeouts: HttpTimeouts = Object.freeze({
  connectMs: 10_000,
  headersMs: 30_000,
  progressMs: 30_000,
});

/** Fewer bytes than this within the time for progress are none: somebody keeps the connection for its own sake. */
const PROGRESS_BYTES = 4096;
/** What is left of an answer that nobody wants is worth this long. */
const REST_MS = 1000;

const MAX_REDIRECTS = 5;
const REDIRECTS: ReadonlySet<number> = new Set([301, 302, 303, 307, 308]);
const MAX_VOUCHED = 1000;
/** What another origin than the first may see; the rest may be a password, however it is called. */
const PUBLIC_HEADERS: ReadonlySet<string> = new Set([
  'accept',
  'accept-encoding',
  'content-type',
  'if-range',
  'range',
  'user-agent',
]);
/** RFC 9110, section 5.5. */
const HEADER_NAME = /^[A-Za-z0-9!#$%&'*+.^_`|~-]+$/;
const HEADER_VALUE = /^[\t\x20-\x7e\x80-\xff]*$/;
/** What is about the connection, and so the client library's own. */
const OWN_HEADERS: ReadonlySet<string> = new Set([
  'connection',
  'content-length',
  'expect',
  'keep-alive',
  'proxy-connection',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
]);

/** Keeps the connections. Close it when done. */
export class HttpTransport {
  readonly #agents: HttpAgents;
  /** Hosts that the machine's own authorities vouch for, beside those built in or named. */
  readonly #vouchedByMachine = new Set<string>();

  readonly #progressMs: number;
  readonly #isLocal: IsLocal;

  constructor(timeouts: HttpTimeouts = defaultHttpTimeouts, isLocal: IsLocal = isLocalHost) {
    this.#agents = new HttpAgents(timeouts);
    this.#progressMs = timeouts.progressMs;
    this.#isLocal = isLocal;
  }

  /**
   * Sends a request and follows its redirects, without anything that is meant for the first host as soon as they lead to
   * another origin, never from HTTPS to HTTP, and never from elsewhere to this machine. Throws RegistryError (`unavailable`) when no answer comes.
   */
  async send(request: HttpRequest, signal: AbortSignal): Promise<HttpResponse> {
    let { url, headers, insecure, tls } = request;
    for (let redirects = 0; ; redirects += 1) {
      const response = await this.#sendVouched({ ...request, url, headers, insecure, tls }, signal);
      const location = response.header('location');
      if (!REDIRECTS.has(response.status) || location === undefined) {
        return { ...response, sameOrigin: url.origin === request.url.origin };
      }
      await response.discard();
      if (redirects === MAX_REDIRECTS) throw failure(request, `more than ${MAX_REDIRECTS} redirects`);
      const next = URL.parse(location, url.href);
      if (!next || !/^https?:$/.test(next.protocol)) throw failure(request, 'redirect to something that is no URL');
      if (url.protocol === 'https:' && next.protocol === 'http:') throw failure(request, 'redirect from HTTPS to HTTP');
      // Credentials in a URL would become a header by another road.
      [next.username, next.password] = ['', ''];
      if (next.origin !== url.origin) {
        // Services that listen here trust who asks from here.
        if ((await this.leadsHere(next, signal)) && !(await this.leadsHere(request.url, signal))) {
          throw failure(request, `redirect to ${next.host}, which is this machine or its link`);
        }
        // What is sent is a credential.
        if (request.body !== undefined)
          throw failure(request, `redirect to ${next.host} of what is for the first host only`);
        headers = withoutPrivate(headers);
        insecure = false;
        // Its storage is often signed by the same authority.
        tls = tls && { ...tls, clients: [], id: `${tls.id} without ours` };
      }
      url = next;
    }
  }

  /**
   * True when a URL leads to this machine. A name that a proxy connects to in our place is not looked up: it may be the
   * only one that can, and the look-up may hold a thread for many seconds.
   */
  async leadsHere({ hostname }: Pick<URL, 'hostname'>, signal: AbortSignal): Promise<boolean> {
    if (!this.#agents.goesDirect(hostname) && isIP(bareHost(hostname)) === 0) return false;
    return await raceSignal(this.#isLocal(hostname), signal);
  }

  /** Ends all connections. */
  async close(): Promise<void> {
    await this.#agents.close();
  }

  /**
   * Sends trusting the authorities built into Node, or those named for the host; when these do not know the certificate,
   * the machine's own as well, which take some milliseconds to read.
   */
  async #sendVouched(request: HttpRequest, signal: AbortSignal): Promise<HttpResponse> {
    const key = `${request.url.origin} ${request.tls?.id ?? ''}`;
    if (this.#vouchedByMachine.has(key)) return await this.#sendOnce(request, 'machine', signal);
    try {
      return await this.#sendOnce(request, 'quick', signal);
    } catch (err) {
      const failure = findCause(err, RegistryError);
      if (request.insecure || !failure || !isUnknownAuthority(codeOf(failure.cause))) throw err;
    }
    const response = await this.#sendOnce(request, 'machine', signal);
    if (this.#vouchedByMachine.size >= MAX_VOUCHED) this.#vouchedByMachine.clear();
    this.#vouchedByMachine.add(key);
    return response;
  }

  async #sendOnce(request: HttpRequest, authorities: Authorities, signal: AbortSignal): Promise<HttpResponse> {
    const undici = await this.#agents.undici();
    const { url, method, headers, body } = request;
    checkHeaders(request);
    const choice = { authorities, insecure: request.insecure, tls: request.tls };
    const dispatcher = await this.#agents.get(choice, url.hostname);
    const toError = (err: unknown): Error => transportError(request, err, signal);
    let response: Dispatcher.ResponseData;
    try {
      const { origin, pathname, search } = url;
      const options = { origin, path: `${pathname}${search}`, method, headers, body: body ?? null, signal };
      // One that waits for a connection does not hear that its signal has aborted.
      response = await orDiscarded(undici.request(dispatcher, options), signal);
    } catch (err) {
      // A server may refuse us after the handshake (TLS 1.3): undici would use its HTTP/2 session again.
      if (endsSession(codeOf(err), err)) await this.#agents.forget(dispatcher);
      throw toError(err);
    }
    const stream = response.body;
    const progressMs = this.#progressMs;
    // An error after the last read, or one that nobody reads any more, must not end the process.
    stream.on('error', () => {});
    return {
      status: response.statusCode,
      sameOrigin: true,
      header(name) {
        const value = response.headers[name];
        return Array.isArray(value) ? value.join(', ') : value;
      },
      async *body() {
        try {
          yield* atLeast(PROGRESS_BYTES, progressMs, request, stream as AsyncIterable<Uint8Array>);
        } catch (err) {
          throw toError(err);
        }
      },
      async discard() {
        // A short rest is read so that the connection can be used again; a long one is cut off.
        await stream.dump({ limit: 16_384, signal: AbortSignal.timeout(REST_MS) }).catch(() => {});
      },
    };
  }
}

/**
 * Throws RegistryError, without its value, for a header that cannot be sent. The client would refuse it too, but only once
 * it has chosen a connection, which then counts as busy: all that follow for the same host would wait for it.
 */
function checkHeaders(request: HttpRequest): void {
  for (const [name, value] of Object.entries(request.headers)) {
    if (HEADER_NAME.test(name) && !OWN_HEADERS.has(name.toLowerCase()) && HEADER_VALUE.test(value)) continue;
    throw new RegistryError('precondition', `${nameOf(request)}: header ${JSON.stringify(name)} cannot be sent`);
  }
}

/** An answer, or the signal's reason; an answer that comes too late is thrown away. */
async function orDiscarded(
  asked: Promise<Dispatcher.ResponseData>,
  signal: AbortSignal,
): Promise<Dispatcher.ResponseData> {
  try {
    return await raceSignal(asked, signal);
  } catch (err) {
    void asked.then(
      ({ body }) => {
        body.on('error', () => {});
        body.destroy();
      },
      () => {},
    );
    throw err;
  }
}

/** The bytes of a body, as long as so many of them come in each period; its last one may be short. */
async function* atLeast(
  bytes: number,
  periodMs: number,
  request: HttpRequest,
  body: AsyncIterable<Uint8Array>,
): AsyncGenerator<Uint8Array, void, undefined> {
  let sinceMs = performance.now();
  let came = 0;
  for await (const chunk of body) {
    came += chunk.length;
    yield chunk;
    // Asked for again just now: the time that the reader took does not count against the registry.
    const nowMs = performance.now();
    if (came >= bytes) [sinceMs, came] = [nowMs, 0];
    else if (nowMs - sinceMs > periodMs) {
      const problem = `only ${came} bytes of the answer came in ${Math.round(nowMs - sinceMs)} ms`;
      throw new RegistryError('unavailable', `${nameOf(request)}: ${problem}`, { retryable: true });
    }
  }
}

/** Reads a whole body of at most `limitBytes`. Throws RegistryError when there is more. */
export async function readCapped(response: HttpResponse, limitBytes: number, what: string): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of response.body()) {
    bytes += chunk.length;
    if (bytes > limitBytes)
      throw new RegistryError('unavailable', `${what}: answer is larger than ${limitBytes} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

/** `GET https://host/path`, without the query: signed URLs carry secrets there. */
function nameOf(request: HttpRequest): string {
  return `${request.method} ${request.url.origin}${request.url.pathname}`;
}

function failure(request: HttpRequest, problem: string): RegistryError {
  return new RegistryError('unavailable', `${nameOf(request)}: ${problem}`);
}

function withoutPrivate(headers: Readonly<Record<string, string>>): Record<string, string> {
  return Object.fromEntries(Object.entries(headers).filter(([name]) => PUBLIC_HEADERS.has(name.toLowerCase())));
}

function transportError(request: HttpRequest, err: unknown, signal: AbortSignal): Error {
  if (signal.aborted) {
    return signal.reason instanceof Error ? signal.reason : new BerthError('cancelled', 'cancelled', { cause: err });
  }
  if (err instanceof BerthError) return err;
  const code = codeOf(err);
  const aboutTls = explainTls(code, err, request.url.host, request.tls);
  return new RegistryError('unavailable', `${nameOf(request)}: ${aboutTls ?? explain(code, err)}`, {
    // The libraries' own text is about their sources and options, which nobody here can change.
    cause: aboutTls === undefined ? err : Object.assign(new Error(code), { code }),
    // A name that does not exist, or a certificate that is not trusted, will not be better in a second.
    retryable:
      /^(?:ECONNRESET|ECONNREFUSED|EPIPE|EAI_AGAIN|ETIMEDOUT|ERR_HTTP2_INVALID_SESSION|UND_ERR_(?:SOCKET|RES_CONTENT_LENGTH_MISMATCH|BODY_TIMEOUT))$/.test(
        code,
      ),
    plainHttp: plainHttpAfter(code, err),
  });
}

function codeOf(err: unknown): string {
  // Connecting to a name with several addresses fails with one error for each of them.
  const first: unknown = err instanceof AggregateError && !('code' in err) ? err.errors[0] : err;
  if (first instanceof Error && 'code' in first && typeof first.code === 'string') return first.code;
  return first instanceof Error && first.cause !== undefined ? codeOf(first.cause) : '';
}

function explain(code: string, err: unknown): string {
  const known: Readonly<Record<string, string>> = {
    UND_ERR_CONNECT_TIMEOUT: 'no connection in time',
    UND_ERR_HEADERS_TIMEOUT: 'no answer in time',
    UND_ERR_BODY_TIMEOUT: 'the answer stopped coming',
    ECONNREFUSED: 'connection refused',
    ECONNRESET: 'connection reset',
    ENOTFOUND: 'the host name is unknown',
    EAI_AGAIN: 'the host name could not be looked up',
  };
  return known[code] ?? (err instanceof Error ? err.message : String(err));
}
