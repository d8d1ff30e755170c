import { existsSync } from 'node:fs';
import { join } from 'node:path';

import Database from 'better-sqlite3';

import { describe } from '../base/errors.ts';
import { checkPages, checkSchema } from './sound-database.ts';

/** What of a store can be compared with the machine. */
export interface StoreContents {
  readonly sandboxes: readonly { readonly id: string; readonly state: string }[];
  readonly containers: readonly StoredContainer[];
  readonly images: readonly StoredImageFacts[];
  /** Diff ids. */
  readonly layers: readonly string[];
}

/** A container as far as its bundle is looked for. */
export interface StoredContainer {
  readonly id: string;
  readonly state: string;
  /** One that is brought back from a checkpoint when it is started. */
  readonly restoreFrom?: string | undefined;
}

/** An image as far as its layers are looked for. */
export interface StoredImageFacts {
  readonly id: string;
  readonly tags: readonly string[];
  readonly layers: readonly string[];
}

/** What is read of a root folder where no berthd runs. */
export interface InspectedStore {
  /** What is wrong with the database; '' for nothing. */
  readonly problem: string;
  /** Undefined where there is no database, or none that can be read. */
  readonly contents: StoreContents | undefined;
}

/** Reads the database of a root folder without changing or holding it. Never throws for what is wrong with it. */
export function inspectStore(root: string): InspectedStore {
  const file = join(root, 'berth.db');
  if (!existsSync(file)) return { problem: '', contents: undefined };
  let db: Database.Database | undefined;
  try {
    db = new Database(file, { readonly: true });
    checkPages(db, file);
    checkSchema(db, file);
    return { problem: '', contents: readContents(db) };
  } catch (err) {
    return { problem: describe(err), contents: undefined };
  } finally {
    db?.close();
  }
}

function readContents(db: Database.Database): StoreContents {
  const bodies = <T>(table: string): T[] =>
    db
      .prepare<[], string>(`SELECT body FROM ${table}`)
      .pluck()
      .all()
      .map((body) => JSON.parse(body) as T);
  return {
    sandboxes: bodies('sandboxes'),
    containers: bodies('containers'),
    images: bodies('images'),
    layers: db.prepare<[], string>('SELECT diff_id FROM layers').pluck().all(),
  };
}
