import type { Database, Statement } from 'better-sqlite3';

import { type CopiedTable, sumOf } from './record-copies.ts';
import { inStore } from './store-error.ts';

/** Single facts, each under a name of its own. */
export class FactTable implements CopiedTable {
  /** Told of each fact that is put. */
  onChange: (name: string) => void = () => {};
  readonly #find: Statement<[string], { value: string }>;
  readonly #put: Statement<[string, string, string]>;
  readonly #names: Statement<[], { name: string }>;

  constructor(db: Database) {
    this.#find = db.prepare('SELECT value FROM facts WHERE name = ?');
    this.#names = db.prepare('SELECT name FROM facts');
    this.#put = db.prepare('INSERT OR REPLACE INTO facts (name, value, row_sum) VALUES (?, ?, ?)');
  }

  find(name: string): string | undefined {
    return inStore(`read fact ${name}`, () => this.#find.get(name))?.value;
  }

  put(name: string, value: string): void {
    // As `SUMMED_COLUMNS` of sound-database.ts has it.
    const sum = sumOf([name, value].join(' '));
    inStore(`write fact ${name}`, () => this.#put.run(name, value, sum));
    this.onChange(name);
  }

  keys(): string[] {
    return inStore('read facts', () => this.#names.all()).map(({ name }) => name);
  }

  findText(name: string): string | undefined {
    return this.find(name);
  }

  putText(name: string, text: string): void {
    this.put(name, text);
  }
}
