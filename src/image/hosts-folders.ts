import { readdir, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';

import { because, describe } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import { type HostsFile, parseHostsFile } from './hosts-toml.ts';
import { describeIgnored, type IgnoredKey } from './ignored-keys.ts';
import { isMissing, LastGood } from './last-good.ts';
import { certificatesIn } from './tls-material.ts';

// A registry's name comes from a client.
const MAX_REMEMBERED = 1000;
const FILE = 'hosts.toml';

/** What a look through all files has found. */
export interface CheckedHosts {
  readonly problems: readonly { readonly file: string; readonly problem: string }[];
  readonly ignored: readonly IgnoredKey[];
}

/** The folders in which containerd looks for hosts.toml, one below them for each registry. */
export class HostsFolders {
  readonly #dirs: readonly string[];
  readonly #log: Logger;
  readonly #files = new Map<string, LastGood<HostsFile>>();

  constructor(dirs: readonly string[], log: Logger) {
    this.#dirs = dirs;
    this.#log = log;
  }

  /** Why files that were read do not hold as they are now, by path. */
  problems(): { readonly file: string; readonly problem: string }[] {
    return [...this.#files].flatMap(([file, { problem }]) => (problem === undefined ? [] : [{ file, problem }]));
  }

  /**
   * What holds for a registry (`host[:port]`): the file of its own folder, or of `_default`. A folder without a
   * hosts.toml has the registry's certificates. Undefined when there is no folder. Throws `invalid` for a file that
   * could never be understood.
   */
  async find(registry: string): Promise<HostsFile | undefined> {
    const folder = await this.#folderOf(registry);
    return folder === undefined ? undefined : await this.#read(folder);
  }

  /**
   * Reads every hosts.toml there is, and returns what is wrong with each, and what in them is not followed; to be asked of
   * a new object.
   */
  async check(): Promise<CheckedHosts> {
    const problems: { file: string; problem: string }[] = [];
    const ignored: IgnoredKey[] = [];
    for (const dir of this.#dirs) {
      for (const name of await readdir(dir).catch(() => [])) {
        if (!(await isFolder(join(dir, name)))) continue;
        try {
          ignored.push(...(await this.#read(join(dir, name))).ignored);
        } catch (err) {
          problems.push({ file: join(dir, name, FILE), problem: describe(err) });
        }
      }
    }
    return { problems, ignored };
  }

  /** Why the file for a registry does not hold as it is now, where what it said before does. */
  async heldBack(registry: string): Promise<string | undefined> {
    const folder = await this.#folderOf(registry);
    return folder === undefined ? undefined : this.#files.get(join(folder, FILE))?.heldBack;
  }

  /**
   * The paths of files that do not hold as they are now, where what they said before does. Files that nobody has asked
   * for yet are not among them.
   */
  async older(): Promise<string[]> {
    const found: string[] = [];
    for (const [path, file] of [...this.#files]) {
      const folder = dirname(path);
      if (!(await isFolder(folder))) continue;
      await this.#read(folder).catch(() => undefined);
      if (file.heldBack !== undefined) found.push(path);
    }
    return found;
  }

  async #folderOf(registry: string): Promise<string | undefined> {
    for (const dir of this.#dirs) {
      for (const name of folderNames(registry)) {
        if (await isFolder(join(dir, name))) return join(dir, name);
      }
    }
    return undefined;
  }

  async #read(folder: string): Promise<HostsFile> {
    const path = join(folder, FILE);
    let file = this.#files.get(path);
    if (!file) {
      const oldest = this.#files.keys().next();
      if (this.#files.size >= MAX_REMEMBERED && !oldest.done) this.#files.delete(oldest.value);
      file = new LastGood<HostsFile>(path, this.#log);
      this.#files.set(path, file);
    }
    const parsed = await file.load([path], ([read]) => {
      const fresh = parseHostsFile(read?.text ?? '', path, folder);
      for (const key of fresh.ignored) this.#log.warn({ file: path }, describeIgnored(key));
      // Nobody shall look for a file that is not there.
      return read?.text ? fresh : { ...fresh, file: `${folder}, whose hosts.toml is missing or empty` };
    });
    const own = parsed.hosts.at(-1);
    if (parsed.hosts.length > 1 || !own || own.server || own.tls.authorities.length > 0) return parsed;
    const tls = await certificatesIn(folder);
    return tls ? { ...parsed, hosts: [{ ...own, tls }] } : parsed;
  }
}

/** `host:port` is also written `host_port_`, for file systems that know no colon. */
function folderNames(registry: string): string[] {
  const portable = registry.replace(/^(.+):([0-9]+)$/, '$1_$2_');
  return [...(portable === registry ? [] : [portable]), registry, '_default'];
}

async function isFolder(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isDirectory();
  } catch (err) {
    if (isMissing(err)) return false;
    throw because('precondition', `${path} cannot be read`, err);
  }
}
