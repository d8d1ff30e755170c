import { readFile, stat } from 'node:fs/promises';

import { BerthError, because, describe, isKind } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';

/** One file as it was read. */
export interface ReadFile {
  readonly path: string;
  /** Empty when there is no such file. */
  readonly text: string;
}

// Configuration that is larger is not configuration.
const MAX_FILE_BYTES = 4 * 1024 * 1024;

/**
 * What some files of an operator say, read again when one of them has changed. A change that cannot be understood is
 * logged once, and what was understood before goes on to hold: a slip of an editor shall not stop a node.
 */
export class LastGood<T> {
  readonly #what: string;
  readonly #log: Logger;
  #fingerprint: string | undefined;
  #value: T | undefined;
  #problem: BerthError | undefined;

  /** `what` names the files in the log: "registries.conf". */
  constructor(what: string, log: Logger) {
    this.#what = what;
    this.#log = log;
  }

  /** What was understood last; undefined before that. */
  get current(): T | undefined {
    return this.#value;
  }

  /** Why the files as they are now do not hold; undefined when they do. */
  get problem(): string | undefined {
    return this.#problem && describe(this.#problem);
  }

  /** As `problem`, where what the files said before holds in place of what they say now. */
  get heldBack(): string | undefined {
    return this.#value === undefined ? undefined : this.problem;
  }

  /**
   * What the files say now, or said when they could last be understood. Throws what `parse` throws when they never
   * could.
   */
  async load(paths: readonly string[], parse: (files: readonly ReadFile[]) => T | Promise<T>): Promise<T> {
    const fingerprint = (await Promise.all(paths.map(fingerprintOf))).join('\n');
    if (fingerprint !== this.#fingerprint) await this.#read(fingerprint, paths, parse);
    if (this.#value === undefined) throw this.#problem ?? new BerthError('internal', `${this.#what} not read`);
    return this.#value;
  }

  async #read(
    fingerprint: string,
    paths: readonly string[],
    parse: (files: readonly ReadFile[]) => T | Promise<T>,
  ): Promise<void> {
    try {
      const files = await Promise.all(paths.map(async (path) => ({ path, text: await readText(path) })));
      this.#value = await parse(files);
      this.#problem = undefined;
      this.#log.debug({ files: paths }, `${this.#what} read`);
    } catch (err) {
      if (!isKind(err, 'invalid', 'precondition', 'permission')) throw err;
      this.#problem = err as BerthError;
      const holds = this.#value === undefined ? 'nothing holds in its place' : 'what it said before still holds';
      this.#log.warn({ err: describe(err) }, `${this.#what} not usable, ${holds}`);
    }
    // Set last: a read that failed for another reason is tried again.
    this.#fingerprint = fingerprint;
  }
}

/** A small text file; empty when there is none. Throws `precondition` for one that cannot be read. */
export async function readText(path: string): Promise<string> {
  try {
    const { size } = await stat(path);
    if (size > MAX_FILE_BYTES) throw new BerthError('precondition', `${path} is larger than ${MAX_FILE_BYTES} bytes`);
    return await readFile(path, 'utf8');
  } catch (err) {
    if (isMissing(err)) return '';
    if (err instanceof BerthError) throw err;
    throw because('precondition', `${path} cannot be read`, err);
  }
}

/** True for an error of a file or folder that is not there. */
export function isMissing(err: unknown): boolean {
  return err instanceof Error && 'code' in err && (err.code === 'ENOENT' || err.code === 'ENOTDIR');
}

async function fingerprintOf(path: string): Promise<string> {
  const found = await stat(path, { bigint: true }).catch(() => undefined);
  return found ? `${path} ${found.ino} ${found.size} ${found.mtimeNs}` : `${path} missing`;
}
