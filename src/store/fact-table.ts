import type { Database, Statement } from 'better-sqlite3';

import { inStore } from './store-error.ts';

/** Single facts, each under a name of its own. */
export class FactTable {
  readonly #find: Statement<[string], { value: string }>;
  readonly #put: Statement<[string, string]>;

  constructor(db: Database) {
    this.#find = db.prepare('SELECT value FROM facts WHERE name = ?');
    this.#put = db.prepare('INSERT OR REPLACE INTO facts (name, value) VALUES (?, ?)');
  }

  find(name: string): string | undefined {
    return inStore(`read fact ${name}`, () => this.#find.get(name))?.value;
  }

  put(name: string, value: string): void {
    inStore(`write fact ${name}`, () => this.#put.run(name, value));
  }
}
