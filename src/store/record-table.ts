import type { Database, Statement } from 'better-sqlite3';

import { parseBody } from './parse-body.ts';
import { type CopiedTable, sumOf } from './record-copies.ts';
import { inStore } from './store-error.ts';

/** What every record has beside its own facts. */
export interface StoredRecord {
  readonly id: string;
  readonly name: string;
  readonly state: string;
  readonly createdAtUs: number;
}

interface Row {
  readonly id: string;
  readonly body: string;
}

/** Records of one kind, each a JSON body with the columns that people query by. */
export class RecordTable<R extends StoredRecord> implements CopiedTable {
  /** Told of each row that is put or deleted. */
  onChange: (id: string) => void = () => {};
  readonly #table: string;
  readonly #extra: readonly ((record: R) => string)[];
  readonly #put: Statement<unknown[]>;
  readonly #delete: Statement<[string]>;
  readonly #all: Statement<[], Row>;
  readonly #find: Statement<[string], Row>;

  /** `extra` are further columns, each filled from the record. */
  constructor(db: Database, table: string, extra: Readonly<Record<string, (record: R) => string>> = {}) {
    const columns = ['id', 'name', 'state', 'created_at_us', 'body', 'body_sum', ...Object.keys(extra)];
    // The others never change, and each that is written writes its index too.
    const updates = ['state', 'body', 'body_sum'].map((column) => `${column} = excluded.${column}`);
    this.#table = table;
    this.#extra = Object.values(extra);
    this.#put = db.prepare(
      `INSERT INTO ${table} (${columns.join(', ')}) VALUES (${columns.map(() => '?').join(', ')})
       ON CONFLICT (id) DO UPDATE SET ${updates.join(', ')}`,
    );
    this.#delete = db.prepare(`DELETE FROM ${table} WHERE id = ?`);
    this.#all = db.prepare(`SELECT id, body FROM ${table} ORDER BY created_at_us, id`);
    this.#find = db.prepare(`SELECT id, body FROM ${table} WHERE id = ?`);
  }

  /**
   * Adds or replaces a record; its name, its creation and the further columns never change. It is on disk when this
   * returns, as far as a crash of the daemon is concerned.
   */
  put(record: R): void {
    const { id, name, state, createdAtUs } = record;
    const extra = this.#extra.map((read) => read(record));
    const body = JSON.stringify(record);
    inStore(`write ${this.#table} ${id}`, () =>
      this.#put.run(id, name, state, createdAtUs, body, sumOf(body), ...extra),
    );
    this.onChange(id);
  }

  /** Removes a record. A missing one is fine. */
  delete(id: string): void {
    inStore(`delete ${this.#table} ${id}`, () => this.#delete.run(id));
    this.onChange(id);
  }

  /** All records, oldest first. Throws `internal` naming the table and the id of one that cannot be read. */
  all(): R[] {
    const rows = inStore(`read ${this.#table}`, () => this.#all.all());
    // Written by put() of this or an older version, whose fields are a subset.
    return rows.map(({ id, body }) => parseBody(this.#table, id, body) as R);
  }

  keys(): string[] {
    return inStore(`read ${this.#table}`, () => this.#all.all()).map(({ id }) => id);
  }

  findText(id: string): string | undefined {
    return inStore(`read ${this.#table} ${id}`, () => this.#find.get(id))?.body;
  }

  putText(id: string, text: string): void {
    this.put(parseBody(this.#table, id, text) as R);
  }
}
