import { access, constants, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';

import { BerthError, because, describe } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import { isMissing, LastGood } from './last-good.ts';
import { ACCEPT_ANYTHING, type Policy, parsePolicy } from './policy.ts';

/** Where policies are. */
export interface PolicyPlaces {
  readonly file: string;
  /** Whether the file may be missing: then every image is trusted. */
  readonly mayBeMissing: boolean;
  /** Folder of `<namespace>.json`, each of which stands in place of `file` for pods there; empty for none. */
  readonly namespacesDir: string;
}

/** The policy that holds, and the file that says so; empty when there is none. */
export interface FoundPolicy {
  readonly policy: Policy;
  readonly file: string;
}

/** What is wrong with the policies on disk. */
export interface CheckedPolicies {
  /** Files that cannot be understood. */
  readonly problems: readonly { readonly file: string; readonly problem: string }[];
  /** Keys that a policy names and that cannot be read. */
  readonly missingKeys: readonly { readonly file: string; readonly key: string }[];
}

const NAMESPACE = /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/;
const MAX_REMEMBERED = 1000;

/** The policies on disk, read again when they change. */
export class PolicyFiles {
  readonly #places: PolicyPlaces;
  readonly #log: Logger;
  readonly #files = new Map<string, LastGood<Policy>>();

  constructor(places: PolicyPlaces, log: Logger) {
    this.#places = places;
    this.#log = log;
  }

  /**
   * What holds in a namespace (empty: in none). Throws `invalid` for a policy that never could be understood,
   * `precondition` for one that is missing and must not be.
   */
  async find(namespace: string): Promise<FoundPolicy> {
    const path = await this.#pathFor(namespace);
    if (path !== undefined) return await this.#read(path);
    const { file, mayBeMissing } = this.#places;
    if (mayBeMissing) return { policy: ACCEPT_ANYTHING, file: '' };
    throw new BerthError('precondition', `image.signature_policy ${file} is not there, so no image is trusted`);
  }

  /** Reads every policy there is, and returns what is wrong with each; to be asked of a new object. */
  async check(): Promise<CheckedPolicies> {
    const { file, namespacesDir } = this.#places;
    const names = namespacesDir === '' ? [] : await readdir(namespacesDir).catch(() => []);
    const namespaces = names.filter((name) => name.endsWith('.json')).map((name) => name.slice(0, -'.json'.length));
    const checked = ['', ...namespaces].map(async (namespace) => {
      try {
        const found = await this.find(namespace);
        return { keys: await unreadable(found), problem: [] };
      } catch (err) {
        const path = namespace === '' ? file : join(namespacesDir, `${namespace}.json`);
        return { keys: [], problem: [{ file: path, problem: describe(err) }] };
      }
    });
    const all = await Promise.all(checked);
    return { problems: all.flatMap(({ problem }) => problem), missingKeys: all.flatMap(({ keys }) => keys) };
  }

  /** Why the file for a namespace does not hold as it is now, where what it said before does. */
  async heldBack(namespace: string): Promise<string[]> {
    const path = await this.#pathFor(namespace).catch(() => undefined);
    const problem = path === undefined ? undefined : this.#files.get(path)?.heldBack;
    return problem === undefined ? [] : [problem];
  }

  /**
   * The paths of files that do not hold as they are now, where what they said before does. Files that nobody has asked
   * for yet are not among them.
   */
  async older(): Promise<string[]> {
    const found: string[] = [];
    for (const [path, file] of [...this.#files]) {
      if (!(await isThere(path).catch(() => false))) continue;
      await this.#read(path).catch(() => undefined);
      if (file.heldBack !== undefined) found.push(path);
    }
    return found;
  }

  async #pathFor(namespace: string): Promise<string | undefined> {
    const { file, namespacesDir } = this.#places;
    if (namespacesDir !== '' && NAMESPACE.test(namespace)) {
      const own = join(namespacesDir, `${namespace}.json`);
      if (await isThere(own)) return own;
    }
    return (await isThere(file)) ? file : undefined;
  }

  async #read(path: string): Promise<FoundPolicy> {
    let file = this.#files.get(path);
    if (!file) {
      const oldest = this.#files.keys().next();
      if (this.#files.size >= MAX_REMEMBERED && !oldest.done) this.#files.delete(oldest.value);
      file = new LastGood<Policy>(path, this.#log);
      this.#files.set(path, file);
    }
    return { policy: await file.load([path], ([read]) => parsePolicy(read?.text ?? '', path)), file: path };
  }
}

/** The files of keys that a policy names and that are not to be had. */
async function unreadable({ policy, file }: FoundPolicy): Promise<{ file: string; key: string }[]> {
  const requirements = [...policy.default, ...[...policy.docker.values()].flat()];
  const paths = requirements.flatMap((requirement) => {
    if (requirement.type === 'signedBy') return requirement.keys.paths;
    return requirement.type === 'sigstoreSigned' ? [...requirement.keys.paths, ...requirement.rekorKeys.paths] : [];
  });
  const found: { file: string; key: string }[] = [];
  for (const key of new Set(paths)) {
    if (
      await access(key, constants.R_OK).then(
        () => false,
        () => true,
      )
    )
      found.push({ file, key });
  }
  return found;
}

async function isThere(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (err) {
    if (isMissing(err)) return false;
    throw because('precondition', `policy ${path} cannot be read`, err);
  }
}
