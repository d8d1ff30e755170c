import { statSync } from 'node:fs';

import type { Database } from 'better-sqlite3';

import { isKind } from '../base/errors.ts';
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
  if (hasRoom(db)) return;
  try {
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

function hasRoom(db: Database): boolean {
  const pragma = (name: string): number => Number(db.pragma(name, { simple: true }));
  const freeBytes = inStore('read the size of the database', () => pragma('freelist_count') * pragma('page_size'));
  const logBytes = statSync(`${db.name}-wal`, { throwIfNoEntry: false })?.size ?? 0;
  return Math.min(freeBytes, logBytes) >= ENOUGH_BYTES;
}
