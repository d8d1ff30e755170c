import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';

import { describe, wrap } from '../base/errors.ts';
import { type Logger, silentLogger } from '../base/log.ts';

/** What of a table is copied. */
export interface CopiedTable {
  /** The keys of all rows. */
  keys(): string[];
  /** A row as text; undefined when there is none. */
  findText(key: string): string | undefined;
  /** Puts a row that findText() gave. Throws for what is none. */
  putText(key: string, text: string): void;
}

/** A table and the folder of its copies. */
export interface CopyPlace {
  /** How messages call its rows. */
  readonly name: string;
  readonly folder: string;
  readonly table: CopiedTable;
}

/**
 * Copies are written a moment after the last change of any row: a pod that comes up, or goes, changes its record several
 * times, and while much happens each file would take its time from the pods.
 */
const WRITE_AFTER_MS = 100;
/** After the first change they are written, whatever goes on. */
const LATEST_AFTER_MS = 2_000;
const DRAFT = '.next-';
/** What could not be written is tried again. */
const AGAIN_AFTER_MS = 2_000;
/** Other work comes in between: on a disk each takes a millisecond or two. */
const FILES_AT_ONCE = 4;
const SUM_CHARS = 8;

/**
 * A file for each row beside the database, with a checksum: what pods run and what images are here is known from them
 * when the database is lost or damaged. They follow the database, and are read only for rows that it does not have any
 * more.
 */
export class RecordCopies {
  readonly #places: readonly CopyPlace[];
  readonly #due = new Map<CopyPlace, Set<string>>();
  #log: Logger = silentLogger;
  #timer: NodeJS.Timeout | undefined;
  /** When the first of what is due was changed. */
  #dueSinceMs: number | undefined;
  #isStarted = false;
  #hasFailed = false;

  /** `places` in an order in which rows can be put: those that others refer to come first. */
  constructor(places: readonly CopyPlace[]) {
    this.#places = places;
    for (const place of places) this.#due.set(place, new Set());
  }

  /** The copy of a row; undefined when there is none, or none that can be used. */
  find(name: string, key: string): string | undefined {
    const place = this.#places.find((found) => found.name === name);
    try {
      return place && readCopy(place.folder, key);
    } catch {
      return undefined;
    }
  }

  /** Puts all rows of these places back that there are copies of; returns in words how many, and which could not be. */
  restoreAll(names: readonly string[]): string[] {
    return this.#places.flatMap((place) => {
      if (!names.includes(place.name)) return [];
      const keys = keysIn(place.folder);
      const problems = keys.flatMap((key) => this.#restore(place, key));
      const count = keys.length - problems.length;
      return [...(count > 0 ? [`${count} ${place.name} are restored from their copies`] : []), ...problems];
    });
  }

  /**
   * Puts the rows of these places back that there are copies of and that are not there, in words: what a damaged row's
   * key was may be known from its copy alone.
   */
  restoreMissing(names: readonly string[]): string[] {
    return this.#places.flatMap((place) => {
      if (!names.includes(place.name)) return [];
      const there = new Set(place.table.keys());
      const missing = keysIn(place.folder).filter((key) => !there.has(key));
      return missing.flatMap((key) => {
        const problems = this.#restore(place, key);
        return problems.length > 0 ? problems : [`${place.name} ${key} is restored from its copy`];
      });
    });
  }

  /** Has the copies follow the rows from now on, and brings those of earlier days up to date. */
  start(log: Logger): void {
    this.#log = log;
    this.#isStarted = true;
    for (const place of this.#places) {
      mkdirSync(place.folder, { recursive: true, mode: 0o700 });
      removeDrafts(place.folder);
      for (const key of new Set([...place.table.keys(), ...keysIn(place.folder)])) this.#due.get(place)?.add(key);
    }
    this.#schedule(WRITE_AFTER_MS);
  }

  /** A row was put or deleted. */
  changed(name: string, key: string): void {
    if (!this.#isStarted) return;
    for (const [place, keys] of this.#due) if (place.name === name) keys.add(key);
    this.#dueSinceMs ??= performance.now();
    if (this.#timer && performance.now() - this.#dueSinceMs < LATEST_AFTER_MS - WRITE_AFTER_MS) this.#timer.refresh();
    else this.#schedule(WRITE_AFTER_MS);
  }

  /** Writes what is due. Never throws: the rows are the truth. */
  close(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (this.#isStarted) this.#write(Number.POSITIVE_INFINITY);
    this.#isStarted = false;
  }

  #schedule(afterMs: number): void {
    if (this.#timer) return;
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      const isThrough = this.#write(FILES_AT_ONCE);
      if (isThrough) this.#dueSinceMs = undefined;
      else this.#schedule(this.#hasFailed ? AGAIN_AFTER_MS : 0);
    }, afterMs);
    this.#timer.unref();
  }

  /** True when nothing is left to write. */
  #write(limit: number): boolean {
    let left = limit;
    try {
      for (const [place, keys] of this.#due) {
        for (const key of keys) {
          if (left-- === 0) return false;
          follow(place, key);
          keys.delete(key);
        }
      }
      this.#hasFailed = false;
      return true;
    } catch (err) {
      if (!this.#hasFailed) this.#log.warn({ err: describe(err) }, 'copies of records cannot be written');
      this.#hasFailed = true;
      return false;
    }
  }

  #restore({ name, folder, table }: CopyPlace, key: string): string[] {
    try {
      table.putText(key, readCopy(folder, key));
      return [];
    } catch (err) {
      return [`${name} ${key} cannot be restored from its copy: ${describe(err)}`];
    }
  }
}

function follow({ folder, table }: CopyPlace, key: string): void {
  const text = table.findText(key);
  const file = fileOf(folder, key);
  if (text === undefined) {
    rmSync(file, { force: true });
    return;
  }
  const copy = `${sumOf(text)}\n${text}`;
  // After a start most are: to write hundreds anew would take the first requests' time.
  if (isWritten(file, copy)) return;
  const next = join(folder, `${DRAFT}${process.pid}`);
  try {
    writeFileSync(next, copy, { mode: 0o600 });
    renameSync(next, file);
  } catch (err) {
    rmSync(next, { force: true });
    throw wrap(`write ${file}`, err);
  }
}

/** What a daemon had begun to write that was killed. */
function removeDrafts(folder: string): void {
  for (const name of readdirSync(folder)) if (name.startsWith(DRAFT)) rmSync(join(folder, name), { force: true });
}

function isWritten(file: string, copy: string): boolean {
  try {
    return readFileSync(file, 'utf8') === copy;
  } catch {
    return false;
  }
}

/** Throws `internal` for one that is not as it was written. */
function readCopy(folder: string, key: string): string {
  const file = fileOf(folder, key);
  const whole = readFileSync(file, 'utf8');
  const text = whole.slice(SUM_CHARS + 1);
  if (whole.slice(0, SUM_CHARS) !== sumOf(text)) throw new Error(`${file} is damaged`);
  return text;
}

/** The checksum of a row's text: eight hexadecimal digits. */
export function sumOf(text: string): string {
  return crc32(text).toString(16).padStart(SUM_CHARS, '0');
}

function fileOf(folder: string, key: string): string {
  return join(folder, encodeURIComponent(key));
}

/** None for a file that is no copy, or was not written to its end. */
function keyOf(name: string): string[] {
  if (name.startsWith('.')) return [];
  try {
    return [decodeURIComponent(name)];
  } catch {
    return [];
  }
}

function keysIn(folder: string): string[] {
  try {
    return readdirSync(folder).flatMap(keyOf);
  } catch (err) {
    if (err instanceof Error && 'code' in err && err.code === 'ENOENT') return [];
    throw wrap(`list copies in ${folder}`, err);
  }
}
