/**
 * Talks to registries: OCI distribution spec, "Pulling manifests" and "Pulling blobs". Here is where requests are
 * authenticated and tried again; nobody above retries.
 */

import { type BerthError, findCause } from '../base/errors.ts';
import type { Credential } from './auth.ts';
import { type Challenge, parseChallenges } from './challenge.ts';
import { type Digest, digestOf, isDigest, verifyDigest } from './digest.ts';
import { type Endpoint, formatEndpoint } from './endpoints.ts';
import type { HttpTimeouts } from './http-agents.ts';
import { defaultHttpTimeouts, type HttpResponse, HttpTransport, readCapped } from './http-transport.ts';
import { MAX_DOCUMENT_BYTES } from './manifest.ts';
import { MANIFEST_ACCEPT, mediaTypeOf } from './media-types.ts';
import { RegistryError } from './registry-error.ts';
import { defaultRetryPolicy, type RetryPolicy, retryAfterMs, retrying } from './retry.ts';
import { ifWantsClient } from './tls-failure.ts';
import { basicHeader, TokenSource } from './token-source.ts';

/** An endpoint with the credential to use there. */
export interface Access {
  readonly endpoint: Endpoint;
  readonly credential: Credential | undefined;
}

/** A manifest or index as it came. */
export interface FetchedDocument {
  readonly bytes: Buffer;
  readonly digest: Digest;
  /** From Content-Type; empty when the registry gave none. */
  readonly mediaType: string;
}

/** The registries' client; keeps connections and tokens. Close it when done. */
export class RegistryClient {
  readonly #transport: HttpTransport;
  readonly #tokens: TokenSource;
  readonly #retry: RetryPolicy;
  /** Which scheme an insecure host was found to speak, by the host and the certificates that were in use then. */
  readonly #schemes = new Map<string, 'https:' | 'http:'>();
  /** The challenge that a registry answered with, so that later requests bring their token at once. */
  readonly #challenges = new Map<string, readonly Challenge[]>();

  constructor(options: {
    readonly monotonicMs: () => number;
    readonly timeouts?: HttpTimeouts;
    readonly retry?: RetryPolicy;
  }) {
    this.#transport = new HttpTransport(options.timeouts ?? defaultHttpTimeouts);
    this.#tokens = new TokenSource(this.#transport, options.monotonicMs);
    this.#retry = options.retry ?? defaultRetryPolicy;
  }

  /**
   * A manifest or index by tag or digest; by digest it is verified. Throws `notFound`, `permission`, `exhausted` (429)
   * or `unavailable`, naming the registry and repository.
   */
  async manifest(access: Access, tagOrDigest: string, signal: AbortSignal): Promise<FetchedDocument> {
    return await retrying(this.#retry, signal, async () => await this.#manifest(access, tagOrDigest, signal));
  }

  /**
   * As `manifest`; but where the tag still leads to one of the digests that are `known`, that digest alone. Registries
   * that count pulls do not count the question. Where it is not answered, the manifest is.
   */
  async manifestUnless(
    access: Access,
    tag: string,
    known: ReadonlySet<Digest>,
    signal: AbortSignal,
  ): Promise<FetchedDocument | { readonly digest: Digest; readonly bytes: undefined }> {
    return await retrying(this.#retry, signal, async () => {
      const digest = known.size > 0 ? await this.#digestNow(access, tag, signal) : undefined;
      if (digest !== undefined && known.has(digest)) return { digest, bytes: undefined };
      return await this.#manifest(access, tag, signal);
    });
  }

  /**
   * Hands the bytes of a blob to `consume`, which verifies them. When the connection breaks, `consume` is called again
   * with the bytes from `have()` on, or from the beginning if the registry knows no ranges (RFC 9110, section 14). Throws
   * as `manifest` does, and what `consume` throws.
   */
  async blob<T>(
    access: Access,
    digest: Digest,
    signal: AbortSignal,
    consume: (body: { from: number; bytes: AsyncIterable<Uint8Array> }) => Promise<T>,
    have: () => number = () => 0,
  ): Promise<T> {
    const what = `blob ${digest} of ${formatEndpoint(access.endpoint)}`;
    return await retrying(
      this.#retry,
      signal,
      async () => {
        const { from, response } = await this.#getFrom(have(), access, `blobs/${digest}`, what, signal);
        try {
          return await consume({ from, bytes: response.body() });
        } finally {
          await response.discard();
        }
      },
      have,
    );
  }

  /** The bytes of a blob of at most `limitBytes`, verified. Throws as `manifest` does. */
  async smallBlob(access: Access, digest: Digest, limitBytes: number, signal: AbortSignal): Promise<Buffer> {
    const what = `blob ${digest} of ${formatEndpoint(access.endpoint)}`;
    return await this.#document(access, `blobs/${digest}`, what, limitBytes, signal, (bytes) =>
      verifyDigest(bytes, digest, what),
    );
  }

  /** What refers to a manifest: an index, OCI distribution spec, "Listing Referrers". Throws as `manifest` does. */
  async referrers(access: Access, digest: string, artifactType: string, signal: AbortSignal): Promise<Buffer> {
    const path = `referrers/${digest}?artifactType=${encodeURIComponent(artifactType)}`;
    const what = `referrers of ${digest} in ${formatEndpoint(access.endpoint)}`;
    return await this.#document(access, path, what, MAX_DOCUMENT_BYTES, signal);
  }

  /**
   * The signatures that a registry itself keeps for a manifest, by the API of OpenShift's registry; undefined when it
   * does not say that it does. Throws as `manifest` does.
   */
  async signatureDocument(access: Access, digest: string, signal: AbortSignal): Promise<Buffer | undefined> {
    const ping = await this.#send(access.endpoint, '/', {}, signal);
    await ping.discard();
    if (ping.header('x-registry-supports-signatures') !== '1') return undefined;
    const usual = { scheme: undefined, namespace: '', resolves: true, pulls: true, headers: {} };
    const special = { tls: { authorities: [], clients: [] }, ...usual, ...access.endpoint.special };
    const endpoint = { ...access.endpoint, special: { ...special, basePath: '/extensions/v2' } };
    const what = `signatures of ${digest} in ${formatEndpoint(endpoint)}`;
    return await this.#document({ ...access, endpoint }, `signatures/${digest}`, what, MAX_DOCUMENT_BYTES, signal);
  }

  /** What is at a URL that needs no credentials, of at most `limitBytes`; undefined when nothing is. */
  async download(url: URL, limitBytes: number, signal: AbortSignal): Promise<Buffer | undefined> {
    const headers = { 'accept-encoding': 'identity', 'user-agent': 'berth' };
    const what = `GET ${url.origin}${url.pathname}`;
    return await retrying(this.#retry, signal, async () => {
      const response = await this.#transport.send({ method: 'GET', url, headers, insecure: false }, signal);
      if (response.status === 200) return await readCapped(response, limitBytes, what);
      await response.discard();
      const { status } = response;
      if (status === 404) return undefined;
      throw new RegistryError('unavailable', `${what}: status ${status}`, { status, retryable: status >= 500 });
    });
  }

  /** Ends all connections. */
  async close(): Promise<void> {
    await this.#transport.close();
  }

  async #document(
    access: Access,
    path: string,
    what: string,
    limitBytes: number,
    signal: AbortSignal,
    check: (bytes: Buffer) => void = () => {},
  ): Promise<Buffer> {
    return await retrying(this.#retry, signal, async () => {
      const response = await this.#get(access, path, what, {}, signal);
      const bytes = await readCapped(response, limitBytes, what);
      check(bytes);
      return bytes;
    });
  }

  async #manifest(access: Access, tagOrDigest: string, signal: AbortSignal): Promise<FetchedDocument> {
    const what = nameManifest(access, tagOrDigest);
    const path = `manifests/${tagOrDigest}`;
    const response = await this.#get(access, path, what, { accept: MANIFEST_ACCEPT }, signal);
    const bytes = await readCapped(response, MAX_DOCUMENT_BYTES, what);
    const digest = tagOrDigest.includes(':') ? (tagOrDigest as Digest) : digestOf(bytes);
    verifyDigest(bytes, digest, what);
    return { bytes, digest, mediaType: mediaTypeOf(response.header('content-type') ?? '') };
  }

  /** Where a tag leads (OCI distribution spec, "Checking if content exists in the registry"); undefined if it does not say. */
  async #digestNow(access: Access, tag: string, signal: AbortSignal): Promise<Digest | undefined> {
    const headers = { accept: MANIFEST_ACCEPT };
    try {
      const response = await this.#get(access, `manifests/${tag}`, nameManifest(access, tag), headers, signal, 'HEAD');
      await response.discard();
      const digest = response.header('docker-content-digest') ?? '';
      return isDigest(digest) ? digest : undefined;
    } catch (err) {
      // It has answered, and the answer to the usual question says more.
      if (findCause(err, RegistryError)?.status !== undefined) return undefined;
      throw err;
    }
  }

  /** What comes from byte `wanted` on; all of it where ranges are not known, or this one is refused. */
  async #getFrom(
    wanted: number,
    access: Access,
    path: string,
    what: string,
    signal: AbortSignal,
  ): Promise<{ from: number; response: HttpResponse }> {
    if (wanted > 0) {
      try {
        const response = await this.#get(access, path, what, { range: `bytes=${wanted}-` }, signal);
        if (response.status === 200) return { from: 0, response };
        if (rangeStart(response) === wanted) return { from: wanted, response };
        await response.discard();
      } catch (err) {
        if (!RANGE_REFUSED.has(findCause(err, RegistryError)?.status ?? 0)) throw err;
      }
    }
    return { from: 0, response: await this.#get(access, path, what, {}, signal) };
  }

  /** One authenticated request; returns only answers with status 200, or 206 to a request for a range. */
  async #get(
    access: Access,
    path: string,
    what: string,
    headers: Readonly<Record<string, string>>,
    signal: AbortSignal,
    method: 'GET' | 'HEAD' = 'GET',
  ): Promise<HttpResponse> {
    const { endpoint } = access;
    const known = this.#challenges.get(endpoint.host);
    const early = known ? await this.#authorizeEarly(access, known, signal) : undefined;
    const full = `/${endpoint.repository}/${path}`;
    let response = await this.#send(endpoint, full, withAuthorization(headers, early), signal, method);
    if (response.status === 401 && response.sameOrigin) {
      // Only the registry itself may ask for credentials, not the host that it redirects to.
      const challenges = parseChallenges(response.header('www-authenticate') ?? '');
      await response.discard();
      if (early?.startsWith('Bearer ')) this.#tokens.forget(early.slice('Bearer '.length));
      const authorization = await this.#authorization(access, challenges, signal);
      if (authorization === undefined) throw denied(access, what, 401, '');
      remember(this.#challenges, endpoint.host, challenges);
      response = await this.#send(endpoint, full, withAuthorization(headers, authorization), signal, method);
    }
    if (response.status === 200 || (response.status === 206 && headers['range'] !== undefined)) return response;
    throw await refusal(access, what, response);
  }

  /** As #authorization, for what a registry has asked for before: by now it may ask for something else. */
  async #authorizeEarly(access: Access, known: readonly Challenge[], signal: AbortSignal): Promise<string | undefined> {
    try {
      return await this.#authorization(access, known, signal);
    } catch {
      signal.throwIfAborted();
      this.#challenges.delete(access.endpoint.host);
      return undefined;
    }
  }

  /** The Authorization header that answers a challenge; undefined when there is no answer to it. */
  async #authorization(
    { endpoint, credential }: Access,
    challenges: readonly Challenge[],
    signal: AbortSignal,
  ): Promise<string | undefined> {
    const bearer = challenges.find((challenge) => challenge.scheme === 'bearer');
    if (bearer) {
      if (credential?.kind === 'bearer') return `Bearer ${credential.token}`;
      // The scope of an earlier challenge is for another repository; the specification fixes how ours is called.
      const scope = `repository:${endpoint.repository}:pull`;
      const realm = bearer.parameters.get('realm') ?? '';
      const service = bearer.parameters.get('service') ?? '';
      const asked = { realm, service, scope, credential, host: endpoint.host, insecure: endpoint.insecure };
      return `Bearer ${await this.#tokens.get({ ...asked, tls: endpoint.tls }, signal)}`;
    }
    const basic = challenges.some((challenge) => challenge.scheme === 'basic');
    return basic && credential?.kind === 'basic' ? basicHeader(credential) : undefined;
  }

  /**
   * Sends to a registry: HTTPS, and for an insecure one HTTP if it does not speak TLS. That is what Docker does for
   * loopback registries and those listed as insecure.
   */
  async #send(
    endpoint: Endpoint,
    path: string,
    headers: Readonly<Record<string, string>>,
    signal: AbortSignal,
    method: 'GET' | 'HEAD' = 'GET',
  ): Promise<HttpResponse> {
    const { host, insecure, special, tls } = endpoint;
    const send = async (scheme: 'https:' | 'http:'): Promise<HttpResponse> => {
      const url = new URL(`${scheme}//${host}${special?.basePath ?? '/v2'}${path}`);
      if (special && special.namespace !== '') url.searchParams.set('ns', special.namespace);
      const common = { 'accept-encoding': 'identity', 'user-agent': 'berth', ...special?.headers };
      const request = { method, url, headers: { ...common, ...headers }, insecure, tls };
      return await this.#transport.send(request, signal);
    };
    if (special?.scheme) return await send(special.scheme);
    if (!insecure) return await send('https:');
    const key = `${host} ${tls?.id ?? ''}`;
    const known = this.#schemes.get(key);
    try {
      const response = await send(known ?? 'https:');
      if (known === 'http:' && response.status === SENT_TO_TLS) this.#schemes.delete(key);
      else remember(this.#schemes, key, known ?? 'https:');
      return response;
    } catch (err) {
      this.#schemes.delete(key);
      const plainHttp = findCause(err, RegistryError)?.plainHttp ?? 'no';
      if (known || plainHttp === 'no') throw err;
      const response = await send('http:').catch((plainErr: unknown) => {
        signal.throwIfAborted();
        throw plainHttp === 'possible' ? err : plainErr;
      });
      if (response.status === SENT_TO_TLS && plainHttp === 'possible') {
        await response.discard();
        throw brokenTls(host, err);
      }
      remember(this.#schemes, key, 'http:');
      return response;
    }
  }
}

function nameManifest(access: Access, tagOrDigest: string): string {
  return `manifest ${tagOrDigest} of ${formatEndpoint(access.endpoint)}`;
}

/** What storage behind registries says to a range that it does not like, a signed one for instance. */
const RANGE_REFUSED: ReadonlySet<number> = new Set([400, 403, 416]);

/** Where a partial answer begins; -1 when it does not say so. */
function rangeStart(response: HttpResponse): number {
  const range = response.header('content-range') ?? '';
  return Number(/^bytes (\d{1,15})-/.exec(range)?.[1] ?? -1);
}

/** What servers that do speak TLS answer to plain HTTP. */
const SENT_TO_TLS = 400;
const MAX_REMEMBERED = 1000;

function remember<T>(map: Map<string, T>, key: string, value: T): void {
  const oldest = map.keys().next();
  if (map.size >= MAX_REMEMBERED && !map.has(key) && !oldest.done) map.delete(oldest.value);
  map.set(key, value);
}

function withAuthorization(
  headers: Readonly<Record<string, string>>,
  authorization: string | undefined,
): Record<string, string> {
  return authorization === undefined ? { ...headers } : { ...headers, authorization };
}

/** For a server that answers only to TLS, and ended it without an alert. */
function brokenTls(host: string, err: unknown): RegistryError {
  const text = `${host} speaks TLS and broke the connection off; ${ifWantsClient(host)}`;
  const retryable = findCause(err, RegistryError)?.retryable ?? false;
  return new RegistryError('unavailable', text, { retryable, cause: err });
}

async function refusal(access: Access, what: string, response: HttpResponse): Promise<BerthError> {
  const { status } = response;
  const code = await errorCode(response);
  if (status === 401 || status === 403) return denied(access, what, status, code);
  if (status === 404) return new RegistryError('notFound', `${what}: not found${code}`, { status });
  const afterMs = retryAfterMs(response.header('retry-after'), Date.now());
  if (status === 429) {
    const failure = { status, retryable: true, retryAfterMs: afterMs };
    return new RegistryError('exhausted', `${what}: the registry's rate limit is reached${code}`, failure);
  }
  const retryable = status >= 500 && status !== 501;
  return new RegistryError('unavailable', `${what}: the registry answered with status ${status}${code}`, {
    status,
    retryable,
    retryAfterMs: afterMs,
  });
}

function denied({ endpoint, credential }: Access, what: string, status: number, code: string): RegistryError {
  const how = credential
    ? `with the credentials from ${credential.source}`
    : 'without credentials (it may be private, or not exist)';
  const text = `${what}: registry ${endpoint.registry} refused to serve it ${how}, status ${status}${code}`;
  return new RegistryError('permission', text, { status });
}

/** The error code in the answer's body, as ` (CODE)`. Not its message: that may repeat what we sent. */
async function errorCode(response: HttpResponse): Promise<string> {
  try {
    const body = await readCapped(response, 64 * 1024, 'error');
    const code = /"code"\s*:\s*"([A-Z_]{1,64})"/.exec(body.toString('utf8'));
    return code ? ` (${code[1]})` : '';
  } catch {
    return '';
  } finally {
    await response.discard();
  }
}
