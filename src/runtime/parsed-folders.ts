import { type BigIntStats, closeSync, constants, fstatSync, openSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

import { BerthError, describe } from '../base/errors.ts';
import { isErrno } from '../sys/errno.ts';

/** A file of one of the folders, as it is now. */
export interface ParsedFile<T> {
  readonly path: string;
  readonly name: string;
  /** Position of its folder in the list. */
  readonly folder: number;
  readonly value: T;
}

/** A file or folder that cannot be used, and why. */
export interface FileProblem {
  readonly path: string;
  readonly problem: string;
}

/** What the folders hold at the moment. */
export interface FolderContents<T> {
  readonly files: readonly ParsedFile<T>[];
  readonly problems: readonly FileProblem[];
}

/** Which files are read, and how. */
export interface FolderOptions<T> {
  readonly folders: readonly string[];
  /** Endings of names, such as `.json`. */
  readonly suffixes: readonly string[];
  /** Throws what is wrong with the text. */
  parse(text: string, name: string): T | Promise<T>;
}

type Outcome<T> = { readonly value: T } | { readonly problem: string };

interface KnownFile<T> {
  readonly version: string;
  readonly outcome: Outcome<T>;
}

/** What such files have at most; they are read on the event loop. */
const FILE_LIMIT_BYTES = 1 << 20;
const MAX_FILES = 500;

/**
 * Folders of small configuration files that others write while Berth runs. Looked at whenever somebody asks, so that
 * nothing has to be watched; a file is parsed again only when it has changed.
 */
export class ParsedFolders<T> {
  readonly #options: FolderOptions<T>;
  #known = new Map<string, KnownFile<T>>();

  constructor(options: FolderOptions<T>) {
    this.#options = options;
  }

  /** All files as they are now, folder by folder, by name in each. A bad file does not hide the others. */
  async read(): Promise<FolderContents<T>> {
    const files: ParsedFile<T>[] = [];
    const problems: FileProblem[] = [];
    const known = new Map<string, KnownFile<T>>();
    for (const [folder, folderPath] of this.#options.folders.entries()) {
      for (const name of this.#namesIn(folderPath, problems)) {
        const path = join(folderPath, name);
        if (known.size >= MAX_FILES) {
          problems.push({ path: folderPath, problem: `there are more than ${MAX_FILES} files` });
          break;
        }
        const found = await this.#look(path, name);
        if (!found) continue;
        known.set(path, found);
        const { outcome } = found;
        if ('value' in outcome) files.push({ path, name, folder, value: outcome.value });
        else problems.push({ path, problem: outcome.problem });
      }
    }
    this.#known = known;
    return { files, problems };
  }

  #namesIn(folder: string, problems: FileProblem[]): string[] {
    try {
      return readdirSync(folder)
        .filter((name) => !name.startsWith('.') && this.#options.suffixes.some((suffix) => name.endsWith(suffix)))
        .sort();
    } catch (err) {
      // Most hosts have none.
      if (!isErrno(err, 'ENOENT')) problems.push({ path: folder, problem: describe(err) });
      return [];
    }
  }

  async #look(path: string, name: string): Promise<KnownFile<T> | undefined> {
    try {
      // A fifo must not hang.
      const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
      try {
        return await this.#readOpened(fd, path, name);
      } finally {
        closeSync(fd);
      }
    } catch (err) {
      // Gone since the folder was read.
      if (isErrno(err, 'ENOENT')) return undefined;
      return { version: '', outcome: { problem: describe(err) } };
    }
  }

  async #readOpened(fd: number, path: string, name: string): Promise<KnownFile<T>> {
    const facts = fstatSync(fd, { bigint: true });
    if (!facts.isFile()) throw new BerthError('invalid', 'it is not a file');
    checkOwner(facts);
    if (facts.size > FILE_LIMIT_BYTES) throw new BerthError('invalid', `it has more than ${FILE_LIMIT_BYTES} bytes`);
    const version = `${facts.dev} ${facts.ino} ${facts.size} ${facts.mtimeNs} ${facts.ctimeNs}`;
    const known = this.#known.get(path);
    if (known?.version === version) return known;
    return { version, outcome: await this.#parse(readFileSync(fd, 'utf8'), name) };
  }

  async #parse(text: string, name: string): Promise<Outcome<T>> {
    try {
      return { value: await this.#options.parse(text, name) };
    } catch (err) {
      return { problem: describe(err) };
    }
  }
}

/** What these files say is done as root. Throws `invalid` for one that others than root, or berthd's user, may change. */
function checkOwner({ uid, gid, mode }: Pick<BigIntStats, 'uid' | 'gid' | 'mode'>): void {
  if (uid !== 0n && Number(uid) !== process.geteuid?.())
    throw new BerthError('invalid', `it belongs to user ${uid}, not to root`);
  if ((mode & 0o002n) !== 0n) throw new BerthError('invalid', 'everybody may change it');
  if ((mode & 0o020n) !== 0n && gid !== 0n && Number(gid) !== process.getegid?.())
    throw new BerthError('invalid', `group ${gid} may change it`);
}
