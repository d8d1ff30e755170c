import { chmodSync, mkdirSync } from 'node:fs';
import { dirname, join } from 'node:path';

import Database from 'better-sqlite3';

import type { Clock } from '../base/clock.ts';
import { because, wrap } from '../base/errors.ts';
import { ImageTable, LayerTable, type StoredImageRow } from './image-table.ts';
import { JournalTable } from './journal-table.ts';
import { migrate } from './migrations.ts';
import { RecordTable, type StoredRecord } from './record-table.ts';

/** The types of what is stored; the rooms that own the records name them. */
export interface StoredTypes {
  readonly sandbox: StoredRecord;
  readonly container: StoredRecord & { readonly sandboxId: string };
  readonly image: StoredImageRow;
}

/**
 * Intent and history of one root folder, in SQLite. Write-ahead log, synchronous=NORMAL: what was written survives a
 * crash of the daemon; a crash of the machine may lose the last writes, but no pod survives that either.
 */
export class Store<T extends StoredTypes> {
  readonly sandboxes: RecordTable<T['sandbox']>;
  readonly containers: RecordTable<T['container']>;
  readonly images: ImageTable<T['image']>;
  readonly layers: LayerTable;
  readonly journal: JournalTable;
  readonly #db: Database.Database;
  readonly #hold: Database.Database;

  private constructor(db: Database.Database, hold: Database.Database, clock: Clock) {
    this.#db = db;
    this.#hold = hold;
    this.sandboxes = new RecordTable(db, 'sandboxes');
    this.containers = new RecordTable(db, 'containers', { sandbox_id: (record) => record.sandboxId });
    this.images = new ImageTable(db);
    this.layers = new LayerTable(db);
    this.journal = new JournalTable(db, clock);
  }

  /**
   * Opens `<root>/berth.db`, makes it where it is missing, and holds it until close(). Throws `precondition` naming the
   * process that holds it already, or when a newer Berth has written it.
   */
  static open<T extends StoredTypes>(root: string, clock: Clock): Store<T> {
    mkdirSync(root, { recursive: true, mode: 0o700 });
    const hold = holdRoot(root);
    const file = join(root, 'berth.db');
    try {
      const db = openDatabase(file);
      db.pragma('synchronous = NORMAL');
      migrate(db, file);
      return new Store<T>(db, hold, clock);
    } catch (err) {
      hold.close();
      throw err;
    }
  }

  /** Runs `fn` in one transaction: all of its writes or none. It must not await. */
  transaction<R>(fn: () => R): R {
    return this.#db.transaction(fn)();
  }

  /** Has everything written so far survive a crash of the machine. */
  checkpoint(): void {
    this.#db.pragma('wal_checkpoint(TRUNCATE)');
  }

  close(): void {
    this.#db.close();
    this.#hold.close();
  }
}

function openDatabase(file: string): Database.Database {
  try {
    mkdirSync(dirname(file), { recursive: true, mode: 0o700 });
    const db = new Database(file);
    chmodSync(file, 0o600);
    db.pragma('journal_mode = WAL');
    return db;
  } catch (err) {
    throw wrap(`open database ${file}`, err);
  }
}

/**
 * Holds a root folder for this process by a lock that the kernel drops with it, even after kill -9: an exclusive
 * transaction on a database that holds nothing but the holder's pid, kept open as long as the daemon runs.
 */
function holdRoot(root: string): Database.Database {
  const file = join(root, 'berthd.lock');
  const db = new Database(file, { timeout: 0 });
  try {
    chmodSync(file, 0o600);
    db.exec('CREATE TABLE IF NOT EXISTS holder (pid INTEGER)');
    db.exec('DELETE FROM holder');
    db.prepare('INSERT INTO holder VALUES (?)').run(process.pid);
    // RESERVED keeps other writers out and lets readers see who it is.
    db.exec('BEGIN IMMEDIATE');
    return db;
  } catch (err) {
    const holder = readHolder(db);
    db.close();
    if (err instanceof Database.SqliteError && err.code === 'SQLITE_BUSY') {
      throw because('precondition', `root folder ${root} is in use by ${holder}: stop it, or set another --root`, err);
    }
    throw wrap(`hold root folder ${root}`, err);
  }
}

function readHolder(db: Database.Database): string {
  try {
    const row = db.prepare<[], { pid: number }>('SELECT pid FROM holder').get();
    return row ? `the berthd with pid ${row.pid}` : 'another berthd';
  } catch {
    return 'another berthd';
  }
}
