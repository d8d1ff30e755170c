/** Where signatures are kept apart from images: containers-registries.d(5). */

import { readdir } from 'node:fs/promises';
import { join } from 'node:path';

import * as v from 'valibot';

import { BerthError, because } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import { isMissing, LastGood } from './last-good.ts';
import { scopesOf } from './policy.ts';
import type { ImageReference } from './reference.ts';

/** Where signatures are when no file says anything; of root, as containers-registries.d(5) has it. */
const DEFAULT_LOOKASIDE = 'file:///var/lib/containers/sigstore';

const placeSchema = v.object({
  lookaside: v.nullish(v.string(), ''),
  // As it was called before.
  sigstore: v.nullish(v.string(), ''),
});
const fileSchema = v.object({
  'default-docker': v.nullish(placeSchema),
  docker: v.nullish(v.record(v.string(), placeSchema), {}),
});

interface Lookasides {
  readonly standard: string;
  readonly byScope: ReadonlyMap<string, string>;
}

/** The folder, read again when a file in it changes. */
export class LookasideFolder {
  readonly #dir: string;
  readonly #places: LastGood<Lookasides>;

  constructor(dir: string, log: Logger) {
    this.#dir = dir;
    this.#places = new LastGood(`lookasides in ${dir}`, log);
  }

  /**
   * Where the signatures of a reference's repository are: a URL to which `@<algorithm>=<hex>/signature-<n>` is added.
   * Throws `invalid` for files that never could be understood.
   */
  async find(reference: ImageReference): Promise<URL> {
    const { standard, byScope } = await this.#places.load(await this.#paths(), parseFiles);
    const base = scopesOf(reference)
      .map((scope) => byScope.get(scope))
      .find((place) => place !== undefined && place !== '');
    const url = URL.parse(`${(base ?? standard).replace(/\/+$/, '')}/${reference.path}`);
    if (url && /^(?:https?|file):$/.test(url.protocol)) return url;
    throw new BerthError('invalid', `${this.#dir}: lookaside "${base ?? standard}" is no URL of http, https or file`);
  }

  async #paths(): Promise<string[]> {
    if (this.#dir === '') return [];
    try {
      const names = await readdir(this.#dir);
      return names
        .filter((name) => name.endsWith('.yaml'))
        .sort()
        .map((name) => join(this.#dir, name));
    } catch (err) {
      if (isMissing(err)) return [];
      throw because('precondition', `${this.#dir} cannot be read`, err);
    }
  }
}

async function parseFiles(files: readonly { readonly path: string; readonly text: string }[]): Promise<Lookasides> {
  const { load } = await import('js-yaml');
  const byScope = new Map<string, string>();
  let standard = DEFAULT_LOOKASIDE;
  for (const { path, text } of files) {
    let value: unknown;
    try {
      value = load(text) ?? {};
    } catch (err) {
      throw because('invalid', `${path} is not YAML`, err);
    }
    const result = v.safeParse(fileSchema, value);
    if (!result.success)
      throw new BerthError('invalid', `${path}: ${v.getDotPath(result.issues[0]) ?? 'top level'} is malformed`);
    const { docker, 'default-docker': usual } = result.output;
    standard = usual?.lookaside || usual?.sigstore || standard;
    for (const [scope, place] of Object.entries(docker)) byScope.set(scope, place.lookaside || place.sigstore);
  }
  return { standard, byScope };
}
