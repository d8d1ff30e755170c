/** Credentials in files: containers-auth.json(5), which is also Docker's config.json. */

import { readFile } from 'node:fs/promises';

import * as v from 'valibot';

import { BerthError, wrap } from '../base/errors.ts';
import { type Credential, type CredentialSource, decodeBasic, registryKey } from './auth.ts';
import type { CredentialHelpers } from './credential-helpers.ts';
import type { Endpoint } from './endpoints.ts';

const entrySchema = v.object({
  auth: v.nullish(v.string(), ''),
  username: v.nullish(v.string(), ''),
  password: v.nullish(v.string(), ''),
  identitytoken: v.nullish(v.string(), ''),
  registrytoken: v.nullish(v.string(), ''),
});
type Entry = v.InferOutput<typeof entrySchema>;
const fileSchema = v.object({
  auths: v.nullish(v.record(v.string(), entrySchema), {}),
  credHelpers: v.nullish(v.record(v.string(), v.string()), {}),
  credsStore: v.nullish(v.string(), ''),
});

/** The content of one auth file. */
export class AuthDocument implements CredentialSource {
  readonly #path: string;
  readonly #entries = new Map<string, Entry>();
  readonly #helperFor = new Map<string, string>();
  readonly #store: string;
  readonly #helpers: CredentialHelpers | undefined;

  /**
   * Throws `precondition` naming `path` for a text that cannot be understood. Programs that it names are run by
   * `helpers`; without that they count for nothing.
   */
  constructor(text: string, path: string, helpers: CredentialHelpers | undefined) {
    this.#path = path;
    this.#helpers = helpers;
    const { auths, credHelpers, credsStore } = parse(text, path);
    for (const [key, entry] of Object.entries(auths)) {
      const name = registryKey(key);
      // A plain key says more than the URL form that old Docker versions wrote for the same host.
      if (!this.#entries.has(name) || name === key) this.#entries.set(name, entry);
    }
    for (const [key, helper] of Object.entries(credHelpers)) this.#helperFor.set(registryKey(key), helper);
    this.#store = credsStore;
  }

  /**
   * What the program for this very registry says; or else the entry whose key is the longest of `host/path/repo`,
   * `host/path`, ..., `host`; or else what the program for all registries says. Throws `precondition` for an entry that
   * is none, or a program that fails.
   */
  async find(
    endpoint: Pick<Endpoint, 'registry' | 'repository'>,
    signal: AbortSignal,
  ): Promise<Credential | undefined> {
    const keys = lookupKeys(endpoint);
    const helper = keys.map((key) => this.#helperFor.get(key)).find((name) => name !== undefined && name !== '');
    if (helper !== undefined) return await this.#ask(helper, endpoint.registry, signal);
    for (const key of keys) {
      const entry = this.#entries.get(key);
      const credential = entry && credentialOf(entry, `${this.#path} (${key})`);
      if (credential) return credential;
    }
    return this.#store === '' ? undefined : await this.#ask(this.#store, endpoint.registry, signal);
  }

  async #ask(helper: string, registry: string, signal: AbortSignal): Promise<Credential | undefined> {
    return await this.#helpers?.get(helper, registry, this.#path, signal);
  }
}

/** An auth file on disk. It is read at each pull, so that a rotated password counts at once. */
export class AuthFile implements CredentialSource {
  readonly #path: string;
  readonly #helpers: CredentialHelpers | undefined;

  /** An empty path means that there is none; a missing file means the same. */
  constructor(path: string, helpers?: CredentialHelpers) {
    this.#path = path;
    this.#helpers = helpers;
  }

  /** As AuthDocument.find(). */
  async find(
    endpoint: Pick<Endpoint, 'registry' | 'repository'>,
    signal: AbortSignal,
  ): Promise<Credential | undefined> {
    return await (await this.#read())?.find(endpoint, signal);
  }

  /** Throws `precondition` for a file that cannot be understood. */
  async check(): Promise<void> {
    await this.#read();
  }

  async #read(): Promise<AuthDocument | undefined> {
    if (this.#path === '') return undefined;
    let text: string;
    try {
      text = await readFile(this.#path, 'utf8');
    } catch (cause) {
      if (cause instanceof Error && 'code' in cause && cause.code === 'ENOENT') return undefined;
      throw wrap(`read auth file ${this.#path}`, cause);
    }
    return new AuthDocument(text, this.#path, this.#helpers);
  }
}

function parse(text: string, path: string): v.InferOutput<typeof fileSchema> {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    // The parser's own message quotes the text, which is a secret: it is not passed on.
    throw unusable(path, 'is not JSON');
  }
  const result = v.safeParse(fileSchema, json);
  if (result.success) return result.output;
  throw unusable(path, 'is malformed: "auths" is not a table of entries, or "credHelpers" none of names');
}

function unusable(path: string, problem: string): BerthError {
  return new BerthError('precondition', `auth file ${path} ${problem}`);
}

function lookupKeys({ registry, repository }: Pick<Endpoint, 'registry' | 'repository'>): string[] {
  const parts = repository.split('/');
  return [...parts.keys(), parts.length].toReversed().map((count) => [registry, ...parts.slice(0, count)].join('/'));
}

function credentialOf(entry: Entry, source: string): Credential | undefined {
  if (entry.identitytoken !== '') return { kind: 'identity', token: entry.identitytoken, source };
  // It goes into a header as it is.
  if (/[^\x21-\x7e]/.test(entry.registrytoken)) {
    throw new BerthError('precondition', `${source}: "registrytoken" has characters in it that no token has`);
  }
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
