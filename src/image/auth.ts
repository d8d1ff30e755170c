/**
 * Credentials for registries that a pull brings along (the CRI's AuthConfig); those of files are in auth-file.ts.
 * Secrets never get into messages or logs; messages name where a credential came from.
 */

import { createHash } from 'node:crypto';

import { invalid } from '../base/errors.ts';
import type { Endpoint } from './endpoints.ts';

/** What a pull request may bring along. All fields may be empty: then the pull is anonymous. */
export interface RegistryAuth {
  readonly username?: string;
  readonly password?: string;
  /** base64 of `user:password`; wins over the two. */
  readonly auth?: string;
  /** Host, or URL, that the rest is for. */
  readonly serverAddress?: string;
  /** OAuth2 refresh token, to be turned into a registry token. */
  readonly identityToken?: string;
  /** Bearer token to be sent to the registry as it is. */
  readonly registryToken?: string;
}

/** One credential, ready for use. */
export type Credential = (
  | { readonly kind: 'basic'; readonly username: string; readonly password: string }
  | { readonly kind: 'identity'; readonly token: string }
  | { readonly kind: 'bearer'; readonly token: string }
) & {
  /** Where it came from, for messages: "the pull request", "/etc/berth/auth.json (quay.io/team)". */
  readonly source: string;
};

/**
 * The credential in a pull request, undefined when it brings none. Throws `invalid` for an `auth` that is not base64 of
 * `user:password`, and for a token that fits into no header.
 */
export function credentialFromRequest(auth: RegistryAuth | undefined): Credential | undefined {
  if (!auth) return undefined;
  const source = 'the pull request';
  if (auth.identityToken) return { kind: 'identity', token: auth.identityToken, source };
  // It goes into a header as it is; the client library would refuse it at every try, as if the registry were down.
  if (auth.registryToken && /[^\x21-\x7e]/.test(auth.registryToken))
    throw invalid('auth.registry_token', 'has characters in it that no token has');
  if (auth.registryToken) return { kind: 'bearer', token: auth.registryToken, source };
  if (auth.auth) {
    const pair = decodeBasic(auth.auth);
    if (!pair) throw invalid('auth.auth', 'is not base64 of "user:password"');
    return { kind: 'basic', ...pair, source };
  }
  if (!auth.username) return undefined;
  return { kind: 'basic', username: auth.username, password: trimNul(auth.password ?? ''), source };
}

/** Decodes base64 of `user:password`; undefined when it is not that. */
export function decodeBasic(encoded: string): { username: string; password: string } | undefined {
  if (!/^[A-Za-z0-9+/_-]*={0,2}$/.test(encoded.trim())) return undefined;
  const text = Buffer.from(encoded, 'base64').toString('utf8');
  const colon = text.indexOf(':');
  // Docker pads some passwords with NUL bytes.
  return colon < 0 ? undefined : { username: text.slice(0, colon), password: trimNul(text.slice(colon + 1)) };
}

function trimNul(text: string): string {
  return text.replace(/^\0+|\0+$/g, '');
}

/** Equal for credentials that prove the same thing to a registry: who brings them may share a pull. Holds no secret. */
export function credentialKey(credential: Credential | undefined): string {
  if (!credential) return 'anonymous';
  const secret = credential.kind === 'basic' ? [credential.username, credential.password] : [credential.token];
  return createHash('sha256')
    .update(JSON.stringify([credential.kind, ...secret]))
    .digest('hex');
}

/** Somewhere that credentials are kept. */
export interface CredentialSource {
  /** The credential for an endpoint; undefined when there is none. */
  find(endpoint: Pick<Endpoint, 'registry' | 'repository'>, signal: AbortSignal): Promise<Credential | undefined>;
}

/** The name under which a registry is looked up: `https://index.docker.io/v1/` and its like become the host. */
export function registryKey(key: string): string {
  const isUrl = /^https?:\/\//.test(key);
  const bare = key.replace(/^https?:\/\//, '').replace(/\/+$/, '');
  const name = isUrl ? (bare.split('/', 1)[0] ?? bare) : bare;
  return name === 'index.docker.io' || name === 'registry-1.docker.io' ? 'docker.io' : name;
}

/**
 * The credential to use at one endpoint of a pull. What the request brought is for the registry that the image names:
 * a mirror elsewhere gets it only when `serverAddress` says so. All else comes from the first source that has one.
 */
export async function credentialFor(
  endpoint: Endpoint,
  request: { readonly auth: RegistryAuth | undefined; readonly primary: Endpoint },
  sources: readonly CredentialSource[],
  signal: AbortSignal,
): Promise<Credential | undefined> {
  const brought = credentialFromRequest(request.auth);
  if (brought) {
    const address = registryKey(request.auth?.serverAddress ?? '');
    const host = address.split('/', 1)[0] ?? '';
    if (host === '' ? endpoint.host === request.primary.host : host === endpoint.registry || host === endpoint.host) {
      return brought;
    }
  }
  for (const source of sources) {
    const found = await source.find(endpoint, signal);
    if (found) return found;
  }
  return undefined;
}
