import { BerthError, describe } from '../base/errors.ts';
import { type Logger, silentLogger } from '../base/log.ts';

/** What the index needs of a record. */
interface Indexed {
  readonly id: string;
  readonly name: string;
}

/** Where records are kept beyond the process. */
export interface RecordStore<R> {
  put(record: R): void;
  delete(id: string): void;
}

/** Told of a change: what the record was, undefined for a new one, and what it is now, undefined for one that is gone. */
type ChangeListener<R> = (before: R | undefined, after: R | undefined) => void;

/**
 * All records of one kind in memory, written through to the store first: what a reader sees has been stored.
 * Lists and status read it without a lock.
 */
export class RecordIndex<R extends Indexed> {
  readonly #kind: string;
  readonly #store: RecordStore<R>;
  readonly #byId = new Map<string, R>();
  readonly #idByName = new Map<string, string>();
  readonly #listeners: ChangeListener<R>[] = [];
  readonly #unstored = new Set<string>();
  readonly #log: Logger;

  /** `kind` is how errors call a record: `sandbox` or `container`. */
  constructor(kind: string, store: RecordStore<R>, records: Iterable<R>, log: Logger = silentLogger) {
    this.#kind = kind;
    this.#store = store;
    this.#log = log;
    for (const record of records) this.#remember(record);
  }

  /** Has `listener` told of every change from now on, at once and in order. It must not throw, nor change records. */
  watch(listener: ChangeListener<R>): void {
    this.#listeners.push(listener);
  }

  /** Adds or replaces a record. Throws `alreadyExists` when another record has its name. */
  put(record: R): void {
    const holder = this.#idByName.get(record.name);
    if (holder !== undefined && holder !== record.id) {
      throw new BerthError('alreadyExists', `${this.#kind} name ${record.name} is taken by ${holder}`);
    }
    this.#store.put(record);
    this.#unstored.delete(record.id);
    this.#replace(record);
    this.#storeLate();
  }

  /**
   * As put, for what has happened whether the store takes it or not, and what a restart would find out again: a process
   * has ended. When the store refuses (its disk is full, another process holds it), clients see it all the same, and it
   * is stored with the next record. False then.
   */
  putFact(record: R): boolean {
    try {
      this.put(record);
      return true;
    } catch (err) {
      this.#log.error(
        { [this.#kind]: record.id, err: describe(err) },
        `the state of a ${this.#kind} is not stored yet`,
      );
      this.#unstored.add(record.id);
      this.#replace(record);
      return false;
    }
  }

  /** Forgets a record and frees its name. Unknown ids are fine. */
  delete(id: string): void {
    const record = this.#byId.get(id);
    if (!record) return;
    this.#store.delete(id);
    this.#unstored.delete(id);
    this.#byId.delete(id);
    this.#idByName.delete(record.name);
    for (const listener of this.#listeners) listener(record, undefined);
  }

  /** The record with exactly this id. */
  find(id: string): R | undefined {
    return this.#byId.get(id);
  }

  findByName(name: string): R | undefined {
    const id = this.#idByName.get(name);
    return id === undefined ? undefined : this.#byId.get(id);
  }

  /** The record whose id is, or begins with, `prefix`. Throws `invalid` when several do. */
  findByPrefix(prefix: string): R | undefined {
    const exact = this.#byId.get(prefix);
    if (exact !== undefined || prefix === '') return exact;
    const matches = this.all().filter((record) => record.id.startsWith(prefix));
    if (matches.length > 1) {
      throw new BerthError('invalid', `${this.#kind} id ${prefix} is ambiguous: ${matches.length} ids begin with it`);
    }
    return matches[0];
  }

  /** As findByPrefix, but throws `notFound` when there is none. */
  getByPrefix(prefix: string): R {
    const record = this.findByPrefix(prefix);
    if (!record)
      throw new BerthError('notFound', `${this.#kind} ${prefix === '' ? "''" : prefix}: no such ${this.#kind}`);
    return record;
  }

  /** As find, but throws `notFound`. Use it to read a record again after an await. */
  get(id: string): R {
    const record = this.#byId.get(id);
    if (!record) throw new BerthError('notFound', `${this.#kind} ${id}: no such ${this.#kind}`);
    return record;
  }

  all(): R[] {
    return [...this.#byId.values()];
  }

  #replace(record: R): void {
    const before = this.#byId.get(record.id);
    this.#remember(record);
    for (const listener of this.#listeners) listener(before, record);
  }

  #storeLate(): void {
    for (const id of this.#unstored) {
      const record = this.#byId.get(id);
      try {
        if (record) this.#store.put(record);
        this.#unstored.delete(id);
      } catch {
        return;
      }
    }
  }

  #remember(record: R): void {
    this.#byId.set(record.id, record);
    this.#idByName.set(record.name, record.id);
  }
}
