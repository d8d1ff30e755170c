/**
 * Credentials for registries: those that a pull brings along (the CRI's AuthConfig), and those of an auth file
 * (containers-auth.json(5), which is also Docker's config.json). Secrets never get into messages or logs; messages
 * name where a credential came from.
 */

import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';

import * as v from 'valibot';

import { BerthError, invalid, wrap } from '../base/errors.ts';
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
 * `user:password`.
 */
export function credentialFromRequest(auth: RegistryAuth | undefined): Credential | undefined {
  if (!auth) return undefined;
  const source = 'the pull request';
  if (auth.identityToken) return { kind: 'identity', token: auth.identityToken, source };
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
function decodeBasic(encoded: string): { username: string; password: string } | undefined {
  if (!/^[A-Za-z0-9+/_-]*={0,2}$/.test(encoded.trim())) return undefined;
  const text = Buffer.from(encoded, 'base64').toString('utf8');
  const colon = text.indexOf(':');
  // Docker pads some passwords with NUL bytes.
  return colon < 0 ? undefined : { username: text.slice(0, colon), password: trimNul(text.slice(colon + 1)) };
}

function trimNul(text: string): string {
  return text.replace(/^\0+|\0+$/g, '');
}

/** True when two pulls with these requests may share one pull: they prove the same thing to the registry. */
export function credentialKey(credential: Credential | undefined): string {
  if (!credential) return 'anonymous';
  const secret =
    credential.kind === 'basic' ? [credential.username, credential.password] : [credential.kind, credential.token];
  return createHash('sha256').update(JSON.stringify(secret)).digest('hex');
}

const entrySchema = v.object({
  auth: v.nullish(v.string(), ''),
  username: v.nullish(v.string(), ''),
  password: v.nullish(v.string(), ''),
  identitytoken: v.nullish(v.string(), ''),
  registrytoken: v.nullish(v.string(), ''),
});
const fileSchema = v.object({ auths: v.nullish(v.record(v.string(), entrySchema), {}) });

/** The auth file on disk. It is read at each pull, so that a rotated password counts at once. */
export class AuthFile {
  readonly #path: string;

  /** An empty path means that there is none; a missing file means the same. */
  constructor(path: string) {
    this.#path = path;
  }

  /**
   * The credential for an endpoint: the entry whose key is the longest of `host/path/repo`, `host/path`, ..., `host`.
   * Throws `precondition` when the file cannot be understood.
   */
  async find(endpoint: Pick<Endpoint, 'registry' | 'repository'>): Promise<Credential | undefined> {
    const entries = await this.#entries();
    for (const key of lookupKeys(endpoint)) {
      const entry = entries.get(key);
      if (!entry) continue;
      const credential = credentialOf(entry, `${this.#path} (${key})`);
      if (credential) return credential;
    }
    return undefined;
  }

  async #entries(): Promise<Map<string, v.InferOutput<typeof entrySchema>>> {
    if (this.#path === '') return new Map();
    let json: unknown;
    try {
      json = JSON.parse(await readFile(this.#path, 'utf8'));
    } catch (cause) {
      if (cause instanceof Error && 'code' in cause && cause.code === 'ENOENT') return new Map();
      // The parser's own message quotes the text, which is a secret: it is not passed on.
      if (cause instanceof SyntaxError) throw unusable(this.#path, 'is not JSON');
      throw wrap(`read auth file ${this.#path}`, cause);
    }
    const result = v.safeParse(fileSchema, json);
    if (!result.success) {
      throw unusable(this.#path, 'is malformed: "auths" is not a table of entries');
    }
    const entries = new Map<string, v.InferOutput<typeof entrySchema>>();
    for (const [key, entry] of Object.entries(result.output.auths)) {
      const name = normaliseKey(key);
      // A plain key says more than the URL form that old Docker versions wrote for the same host.
      if (!entries.has(name) || name === key) entries.set(name, entry);
    }
    return entries;
  }
}

function unusable(path: string, problem: string): BerthError {
  return new BerthError('precondition', `auth file ${path} ${problem}`);
}

function lookupKeys({ registry, repository }: Pick<Endpoint, 'registry' | 'repository'>): string[] {
  const parts = repository.split('/');
  return [...parts.keys(), parts.length].toReversed().map((count) => [registry, ...parts.slice(0, count)].join('/'));
}

/** `https://index.docker.io/v1/` and its like, as Docker writes them, become the host. */
function normaliseKey(key: string): string {
  const isUrl = /^https?:\/\//.test(key);
  const bare = key.replace(/^https?:\/\//, '').replace(/\/+$/, '');
  const name = isUrl ? (bare.split('/', 1)[0] ?? bare) : bare;
  return name === 'index.docker.io' || name === 'registry-1.docker.io' ? 'docker.io' : name;
}

function credentialOf(entry: v.InferOutput<typeof entrySchema>, source: string): Credential | undefined {
  if (entry.identitytoken !== '') return { kind: 'identity', token: entry.identitytoken, source };
  if (entry.registrytoken !== '') return { kind: 'bearer', token: entry.registrytoken, source };
  if (entry.auth === '') {
    return entry.username === ''
      ? undefined
      : { kind: 'basic', username: entry.username, password: entry.password, source };
  }
  const pair = decodeBasic(entry.auth);
  if (!pair) throw new BerthError('precondition', `${source}: "auth" is not base64 of "user:password"`);
  return { kind: 'basic', ...pair, source };
}

/**
 * The credential to use at one endpoint of a pull. What the request brought is for the registry that the image names:
 * a mirror elsewhere gets it only when `serverAddress` says so. All else comes from the auth file.
 */
export async function credentialFor(
  endpoint: Endpoint,
  request: { readonly auth: RegistryAuth | undefined; readonly primary: Endpoint },
  file: AuthFile,
): Promise<Credential | undefined> {
  const brought = credentialFromRequest(request.auth);
  if (brought) {
    const address = normaliseKey(request.auth?.serverAddress ?? '');
    const host = address.split('/', 1)[0] ?? '';
    if (host === '' ? endpoint.host === request.primary.host : host === endpoint.registry || host === endpoint.host) {
      return brought;
    }
  }
  return await file.find(endpoint);
}
