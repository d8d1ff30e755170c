import { closeSync, openSync, statSync, writeSync } from 'node:fs';

import type { Database } from 'better-sqlite3';

import { because, isKind } from '../base/errors.ts';
import { inStore } from './store-error.ts';

/** WalCheckpoints moves the log into the database when it has 4 MiB, a second later; what is reserved must last until then. */
const RESERVE_BYTES = 8 * 1024 * 1024;
/** Of what a daemon had reserved that was killed: records that have come since take some of it. */
const ENOUGH_BYTES = 6 * 1024 * 1024;
const ROW_BYTES = 256 * 1024;

/**
 * Lets the database and its write-ahead log take up room that they need not have yet. On a disk that has become full,
 * stopping and removing pods still has to be written down, or nobody could ever make room. Call it once per opening:
 * the log is removed when the database is closed. After a kill both still have their room, and a start with many pods
 * to take over does not wait for the disk again. On a disk that is full already nothing is reserved.
 */
export function reserveRoom(db: Database): void {
  const { freeBytes, logBytes } = roomOf(db);
  if (freeBytes >= ENOUGH_BYTES && logBytes >= ENOUGH_BYTES) return;
  try {
    if (freeBytes >= ENOUGH_BYTES) {
      growLog(db, logBytes);
      return;
    }
    inStore('reserve room for the database', () => {
      db.exec('CREATE TABLE reserve (filler BLOB)');
      // In transactions of their own: pages that are freed where they are made would never be written.
      const fill = db.prepare('INSERT INTO reserve VALUES (zeroblob(?))');
      db.transaction(() => {
        for (let bytes = 0; bytes < RESERVE_BYTES; bytes += ROW_BYTES) fill.run(ROW_BYTES);
      })();
      db.pragma('wal_checkpoint(RESTART)');
    });
  } catch (err) {
    if (!isKind(err, 'exhausted', 'unavailable')) throw err;
  } finally {
    inStore('free the room reserved for the database', () => db.exec('DROP TABLE IF EXISTS reserve'));
  }
}

/**
 * The database keeps its free pages when it is closed. Its log is then made longer by zeros, which are no frames (sqlite.org
 * fileformat2.html, "The Write-Ahead Log": a frame has the salt of the header) and are written over by those that come.
 * They need not reach the disk: that the file system has taken them is room enough.
 */
function growLog(db: Database, logBytes: number): void {
  const what = 'make the log of the database longer';
  try {
    const zeros = Buffer.alloc(ROW_BYTES);
    const fd = openSync(`${db.name}-wal`, 'r+');
    try {
      for (let at = logBytes; at < RESERVE_BYTES; at += ROW_BYTES) writeSync(fd, zeros, 0, ROW_BYTES, at);
    } finally {
      closeSync(fd);
    }
  } catch (err) {
    throw because('exhausted', what, err);
  }
}

function roomOf(db: Database): { readonly freeBytes: number; readonly logBytes: number } {
  const pragma = (name: string): number => Number(db.pragma(name, { simple: true }));
  const freeBytes = inStore('read the size of the database', () => pragma('freelist_count') * pragma('page_size'));
  return { freeBytes, logBytes: statSync(`${db.name}-wal`, { throwIfNoEntry: false })?.size ?? 0 };
}
