/**
 * Bearer tokens for registries: the distribution project's "Token Authentication Specification" (GET with Basic
 * credentials or none) and its OAuth2 form (POST with a refresh token).
 */

import * as v from 'valibot';

import { BerthError } from '../base/errors.ts';
import { InFlight } from '../base/in-flight.ts';
import { type Credential, credentialKey } from './auth.ts';
import { type HttpRequest, type HttpTransport, readCapped } from './http-transport.ts';
import { hasManyValues } from './many-values.ts';
import { isLoopbackHost } from './reference.ts';
import { RegistryError } from './registry-error.ts';
import { retryAfterMs } from './retry.ts';
import type { TlsMaterial } from './tls-material.ts';

/** What a registry's challenge asks for. */
export interface TokenRequest {
  readonly realm: string;
  readonly service: string;
  readonly scope: string;
  readonly credential: Credential | undefined;
  /** The registry's host, and whether it may be talked to without verified TLS. */
  readonly host: string;
  readonly insecure: boolean;
  /** The registry's certificates. */
  readonly tls?: TlsMaterial | undefined;
}

/** Servers take headers of some KiB; an answer may name the token twice, and another one to refresh it. */
const MAX_TOKEN_BYTES = 128 * 1024;
const MAX_CACHED = 1000;
// What the specification says holds when the answer does not tell.
const DEFAULT_LIFETIME_S = 60;
// A token must outlive the request that it is sent with.
const SAFETY_MS = 5000;

const answerSchema = v.object({
  token: v.nullish(v.string(), ''),
  access_token: v.nullish(v.string(), ''),
  expires_in: v.nullish(v.number(), DEFAULT_LIFETIME_S),
});

/** Fetches tokens and keeps them until they expire, apart for each credential. */
export class TokenSource {
  readonly #transport: HttpTransport;
  readonly #monotonicMs: () => number;
  readonly #cached = new Map<string, { readonly token: string; readonly expiresMs: number }>();
  readonly #fetching = new InFlight<string>();

  constructor(transport: HttpTransport, monotonicMs: () => number) {
    this.#transport = transport;
    this.#monotonicMs = monotonicMs;
  }

  /**
   * A token for the request, from the cache if it has one. Throws `permission` when the token server refuses the
   * credential, and RegistryError when it does not work.
   */
  async get(request: TokenRequest, signal: AbortSignal): Promise<string> {
    const { realm, service, scope, credential, tls } = request;
    const key = JSON.stringify([realm, service, scope, credentialKey(credential), tls?.id]);
    const cached = this.#cached.get(key);
    if (cached && cached.expiresMs > this.#monotonicMs()) return cached.token;
    return await this.#fetching.join(key, signal, () => this.#fetch(key, request));
  }

  /** Drops a token that the registry did not accept. */
  forget(token: string): void {
    for (const [key, cached] of this.#cached) {
      if (cached.token === token) this.#cached.delete(key);
    }
  }

  async #fetch(key: string, request: TokenRequest): Promise<string> {
    const http = tokenHttpRequest(request);
    await this.#checkPlace(http.url, request.host);
    const what = `token of ${http.url.origin} for ${request.scope}`;
    // Shared between pulls, so no single pull's signal ends it; the transport's own timeouts do.
    const response = await this.#transport.send(http, new AbortController().signal);
    if (response.status !== 200) {
      await response.discard();
      throw refusal(
        what,
        response.status,
        retryAfterMs(response.header('retry-after'), Date.now()),
        request.credential,
      );
    }
    const answer = parseAnswer(await readCapped(response, MAX_TOKEN_BYTES, what), what);
    const lifetimeMs = Math.max(0, answer.lifetimeMs - SAFETY_MS);
    const oldest = this.#cached.keys().next();
    if (this.#cached.size >= MAX_CACHED && !oldest.done) this.#cached.delete(oldest.value);
    this.#cached.set(key, { token: answer.token, expiresMs: this.#monotonicMs() + lifetimeMs });
    return answer.token;
  }

  /** A registry elsewhere must not have us ask services of this machine, which trust who asks from here. */
  async #checkPlace(server: URL, registry: string): Promise<void> {
    const own = URL.parse(`https://${registry}`);
    const never = new AbortController().signal;
    if (own?.hostname === server.hostname || !(await this.#transport.leadsHere(server, never))) return;
    if (own && (await this.#transport.leadsHere(own, never))) return;
    const where = `${server.host}, which is this machine or its link`;
    throw new RegistryError('permission', `the registry ${registry} names a token server at ${where}`);
  }
}

function tokenHttpRequest(request: TokenRequest): HttpRequest {
  const { service, scope, credential } = request;
  const url = URL.parse(request.realm);
  if (!url || !/^https?:$/.test(url.protocol)) {
    throw new RegistryError('unavailable', 'the registry names a token server that is no URL');
  }
  if (url.protocol === 'http:' && !request.insecure && !isLoopbackHost(url.host)) {
    throw new BerthError('permission', `the registry wants a token from ${url.origin}, which is not encrypted`);
  }
  const headers = { accept: 'application/json', 'accept-encoding': 'identity', 'user-agent': 'berth' };
  // An unverified certificate is accepted from the registry's own machine, not from whatever else it names; and only
  // that machine sees who we are. Its authority may well have signed for both.
  const own = URL.parse(`https://${request.host}`)?.hostname === url.hostname;
  const tls = own || !request.tls ? request.tls : { ...request.tls, clients: [], id: `${request.tls.id} without ours` };
  const insecure = request.insecure && own;
  if (credential?.kind === 'identity') {
    const form = { grant_type: 'refresh_token', service, scope, client_id: 'berth', refresh_token: credential.token };
    return {
      method: 'POST',
      url,
      headers: { ...headers, 'content-type': 'application/x-www-form-urlencoded' },
      body: new URLSearchParams(form).toString(),
      insecure,
      tls,
    };
  }
  if (service !== '') url.searchParams.set('service', service);
  if (scope !== '') url.searchParams.set('scope', scope);
  if (credential?.kind !== 'basic') return { method: 'GET', url, headers, insecure, tls };
  url.searchParams.set('account', credential.username);
  return { method: 'GET', url, headers: { ...headers, authorization: basicHeader(credential) }, insecure, tls };
}

/** The Authorization header of a user and password. */
export function basicHeader(credential: { readonly username: string; readonly password: string }): string {
  return `Basic ${Buffer.from(`${credential.username}:${credential.password}`).toString('base64')}`;
}

function parseAnswer(bytes: Buffer, what: string): { token: string; lifetimeMs: number } {
  let json: unknown;
  try {
    if (!hasManyValues(bytes)) json = JSON.parse(bytes.toString('utf8'));
  } catch {
    // Without the parser's message, which would quote the token.
    throw new RegistryError('unavailable', `${what}: the token server's answer is not JSON`);
  }
  const result = v.safeParse(answerSchema, json);
  const token = result.success ? result.output.token || result.output.access_token : '';
  if (!result.success || token === '' || /[^\x21-\x7e]/.test(token)) {
    throw new RegistryError('unavailable', `${what}: the token server's answer has no token`);
  }
  return { token, lifetimeMs: result.output.expires_in * 1000 };
}

function refusal(what: string, status: number, afterMs: number | undefined, credential: Credential | undefined): Error {
  const who = credential ? `credentials from ${credential.source}` : 'no credentials';
  if (status >= 400 && status < 500 && status !== 429) {
    return new RegistryError('permission', `${what}: refused with status ${status} (${who})`, { status });
  }
  const kind = status === 429 ? 'exhausted' : 'unavailable';
  const retryable = status === 429 || status >= 500;
  return new RegistryError(kind, `${what}: status ${status} (${who})`, { status, retryable, retryAfterMs: afterMs });
}
