import { chmodSync, statSync } from 'node:fs';
import { join } from 'node:path';

import Database from 'better-sqlite3';

import type { Clock } from '../base/clock.ts';
import { describe, isKind, wrap } from '../base/errors.ts';
import type { FaultPoints } from '../base/fault-points.ts';
import type { Logger } from '../base/log.ts';
import { makeFolders } from '../base/make-folders.ts';
import { FactTable } from './fact-table.ts';
import { disturbDatabase } from './faulty-database.ts';
import { FolderHold } from './folder-hold.ts';
import { ImageTable, LayerTable, type StoredImageRow } from './image-table.ts';
import { JournalTable } from './journal-table.ts';
import { canCheckBeforeMigration, migrate, SCHEMA } from './migrations.ts';
import { RecordCopies } from './record-copies.ts';
import { RecordTable, type StoredRecord } from './record-table.ts';
import { reserveRoom } from './reserve.ts';
import {
  checkPages,
  checkSchema,
  checkWritable,
  dropBadRows,
  openSound,
  SCHEMA_FACT,
  sumOfTables,
  TABLES_FACT,
} from './sound-database.ts';
import { inStore, storeError } from './store-error.ts';
import { WalCheckpoints } from './wal-checkpoints.ts';

/** The fact under which it stands whose the copies in a state folder are. */
const ROOT_FACT = 'root folder';
/** How long a write waits for another process's (someone's sqlite3 shell): it holds up the event loop. */
const BUSY_TIMEOUT_MS = 100;

/** The types of what is stored; the rooms that own the records name them. */
export interface StoredTypes {
  readonly sandbox: StoredRecord;
  readonly container: StoredRecord & { readonly sandboxId: string };
  readonly image: StoredImageRow;
}

/** In whose subfolder `records` the copies are. */
interface CopyFolders {
  readonly root: string;
  readonly state: string | undefined;
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
  readonly mended: string[];
  readonly #db: Database.Database;
  readonly #hold: FolderHold;
  readonly #copies: RecordCopies;
  readonly #root: string;

  private constructor(db: Database.Database, hold: FolderHold, folders: CopyFolders, clock: Clock, mended: string[]) {
    this.#db = db;
    this.#hold = hold;
    this.#root = folders.root;
    this.mended = mended;
    this.sandboxes = new RecordTable(db, 'sandboxes');
    this.containers = new RecordTable(db, 'containers', { sandbox_id: (record) => record.sandboxId });
    this.images = new ImageTable(db);
    this.layers = new LayerTable(db);
    this.journal = new JournalTable(db, clock);
    this.facts = new FactTable(db);
    const { sandboxes, containers, images, layers, facts } = this;
    const tables = { facts, sandboxes, containers, layers, images };
    const places = Object.entries(tables).flatMap(([name, table]) => {
      const parent = name === 'images' || name === 'layers' ? folders.root : folders.state;
      return parent === undefined ? [] : [{ name, table, folder: join(parent, 'records', name) }];
    });
    this.#copies = new RecordCopies(places);
    for (const { name, table } of places) table.onChange = (key) => this.#copies.changed(name, key);
  }

  /**
   * Opens `<root>/berth.db`, makes it where it is missing, and holds it until close(). Throws `precondition` naming the
   * process that holds it already, or when a newer Berth has written it. A damaged one is kept aside and begun anew; see
   * `mended`. What is missing then is taken from copies: of images those in the root folder, of pods those in the state
   * folder, if one is given: a reboot takes both pods and copies along. With `faults`, every write from then on is a
   * place where a test may disturb it.
   */
  static open<T extends StoredTypes>(root: string, clock: Clock, state?: string, faults?: FaultPoints): Store<T> {
    try {
      makeFolders(root, 0o711);
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
      const isLost = (opened: Database.Database): boolean => opened.pragma('user_version', { simple: true }) === 0;
      let wasLost = false;
      let dropped: string[] = [];
      db = openSound(
        file,
        () => {
          const opened = openDatabase(file);
          try {
            wasLost = isLost(opened);
            dropped = canCheckBeforeMigration(opened) ? dropBadRows(opened, mended) : [];
            migrate(opened, file);
            return opened;
          } catch (err) {
            opened.close();
            throw err;
          }
        },
        clock.nowUs(),
        mended,
      );
      dropped.push(...dropBadRows(db, mended));
      // What is reserved has no secrets.
      db.pragma('secure_delete = OFF');
      reserveRoom(db);
      db.pragma('secure_delete = ON');
      // The pages that were looked at, and those that were reserved, are not what is asked for next.
      db.pragma('shrink_memory');
      if (faults) disturbDatabase(db, faults);
      const store = new Store<T>(db, hold, { root, state }, clock, mended);
      store.#restore(wasLost, dropped);
      return store;
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

  /** What is wrong with the database, '' for nothing. Takes a millisecond per megabyte of records. */
  check(): string {
    try {
      checkPages(this.#db, this.#db.name);
      return '';
    } catch (err) {
      return describe(err);
    }
  }

  /** Has copies of all records follow them from now on, until the store is closed. */
  startCopies(log: Logger): void {
    this.#copies.start(log);
  }

  /** `dropped` are the names of the tables that rows were dropped from. */
  #restore(wasLost: boolean, dropped: readonly string[]): void {
    const restored = this.transaction(() =>
      wasLost ? this.#copies.restoreAll(this.#ownCopies()) : this.#copies.restoreMissing(dropped),
    );
    if (restored.length > 0 && this.mended.length === 0)
      this.mended.push(`database ${this.#db.name} was not there, although there were records`);
    this.mended.push(...restored);
    const facts = { [SCHEMA_FACT]: String(SCHEMA), [TABLES_FACT]: sumOfTables(this.#db), [ROOT_FACT]: this.#root };
    for (const [name, value] of Object.entries(facts)) if (this.facts.find(name) !== value) this.facts.put(name, value);
    this.#forgetGone();
  }

  #forgetGone(): void {
    try {
      this.journal.forgetGone();
    } catch (err) {
      // They are in nobody's way, and a disk that is full keeps no daemon from its start.
      if (!isKind(err, 'exhausted', 'unavailable')) throw err;
    }
  }

  /** Copies of pods that have their files in another root folder, or that a newer Berth has written, are not for us. */
  #ownCopies(): string[] {
    const schema = Number(this.#copies.find('facts', SCHEMA_FACT) ?? 0);
    const isOwn = schema <= SCHEMA && this.#copies.find('facts', ROOT_FACT) === this.#root;
    return ['layers', 'images', ...(isOwn ? ['facts', 'sandboxes', 'containers'] : [])];
  }

  /** Closes the database and lets go of the root folder. */
  close(): void {
    this.#copies.close();
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
    // Variables of containers that are gone are often secrets, which shall not stay in what is free.
    db.pragma('secure_delete = ON');
    checkPages(db, file);
    checkSchema(db, file);
    checkWritable(db);
    return db;
  } catch (err) {
    db?.close();
    throw storeError(`open database ${file}`, err);
  }
}
