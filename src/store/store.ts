import { chmodSync, mkdirSync, statSync } from 'node:fs';
import { join } from 'node:path';

import Database from 'better-sqlite3';

import type { Clock } from '../base/clock.ts';
import { wrap } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import { FactTable } from './fact-table.ts';
import { FolderHold } from './folder-hold.ts';
import { ImageTable, LayerTable, type StoredImageRow } from './image-table.ts';
import { JournalTable } from './journal-table.ts';
import { migrate } from './migrations.ts';
import { RecordTable, type StoredRecord } from './record-table.ts';
import { reserveRoom } from './reserve.ts';
import { checkPages, dropBadRows, openSound } from './sound-database.ts';
import { inStore, storeError } from './store-error.ts';
import { WalCheckpoints } from './wal-checkpoints.ts';

/** How long a write waits for another process's (someone's sqlite3 shell): it holds up the event loop. */
const BUSY_TIMEOUT_MS = 100;

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
  readonly facts: FactTable;
  /** What was wrong with the database when it was opened, in words: that much of it is lost. */
  readonly mended: readonly string[];
  readonly #db: Database.Database;
  readonly #hold: FolderHold;

  private constructor(db: Database.Database, hold: FolderHold, clock: Clock, mended: readonly string[]) {
    this.#db = db;
    this.#hold = hold;
    this.mended = mended;
    this.sandboxes = new RecordTable(db, 'sandboxes');
    this.containers = new RecordTable(db, 'containers', { sandbox_id: (record) => record.sandboxId });
    this.images = new ImageTable(db);
    this.layers = new LayerTable(db);
    this.journal = new JournalTable(db, clock);
    this.facts = new FactTable(db);
  }

  /**
   * Opens `<root>/berth.db`, makes it where it is missing, and holds it until close(). Throws `precondition` naming the
   * process that holds it already, or when a newer Berth has written it. A damaged one is kept aside and begun anew; see
   * `mended`.
   */
  static open<T extends StoredTypes>(root: string, clock: Clock): Store<T> {
    try {
      mkdirSync(root, { recursive: true, mode: 0o711 });
      // The root of a pod's user namespace must come through to its own files; all others in here are closed to it.
      chmodSync(root, (statSync(root).mode & 0o7777) | 0o011);
    } catch (err) {
      throw wrap(`make root folder ${root}`, err);
    }
    const hold = FolderHold.take(root, '--root');
    let db: Database.Database | undefined;
    try {
      const file = join(root, 'berth.db');
      const mended: string[] = [];
      db = openSound(file, () => openDatabase(file), clock.nowUs(), mended);
      migrate(db, file);
      dropBadRows(db, mended);
      reserveRoom(db);
      // The pages that were looked at, and those that were reserved, are not what is asked for next.
      db.pragma('shrink_memory');
      return new Store<T>(db, hold, clock, mended);
    } catch (err) {
      db?.close();
      hold.close();
      throw err;
    }
  }

  /** Runs `fn` in one transaction: all of its writes or none. It must not await. */
  transaction<R>(fn: () => R): R {
    return inStore('write to the database', () => this.#db.transaction(fn)());
  }

  /** Has a thread wait for the disk in place of whoever writes, until it is closed: before the store is. */
  startCheckpoints(log: Logger): WalCheckpoints {
    return new WalCheckpoints(this.#db, log);
  }

  /** Closes the database and lets go of the root folder. */
  close(): void {
    this.#db.close();
    this.#hold.close();
  }
}

function openDatabase(file: string): Database.Database {
  let db: Database.Database | undefined;
  try {
    db = new Database(file, { timeout: BUSY_TIMEOUT_MS });
    chmodSync(file, 0o600);
    db.pragma('journal_mode = WAL');
    db.pragma('synchronous = NORMAL');
    db.pragma('foreign_keys = ON');
    checkPages(db, file);
    return db;
  } catch (err) {
    db?.close();
    throw storeError(`open database ${file}`, err);
  }
}
