import { existsSync, renameSync } from 'node:fs';

import Database from 'better-sqlite3';

import { BerthError, describe, findCause, wrap } from '../base/errors.ts';
import { inStore } from './store-error.ts';

/** What SQLite calls a file that is not, or no longer, a database. */
const DAMAGE = /^SQLITE_(CORRUPT|NOTADB)/;
/** One row that breaks its table's rules: the others are as good as before. */
const ROW_PROBLEM = /^(CHECK constraint failed|NULL value|NUMERIC value|TEXT value)/;
const PROBLEMS_READ = 100;

/** Thrown for a database whose pages do not fit together: a disk that failed, a file that was cut or written over. */
class DamageError extends BerthError {
  override readonly name = 'DamageError';
}

/**
 * Opens a database by `open`, which closes what it has opened when it throws. A damaged one is renamed and begun anew:
 * its pods cannot be known from it any more, and a node that does not start serves none at all. What was done is added
 * to `mended`.
 */
export function openSound(
  file: string,
  open: () => Database.Database,
  nowUs: number,
  mended: string[],
): Database.Database {
  try {
    return open();
  } catch (err) {
    if (!isDamage(err)) throw err;
    const aside = keepAside(file, nowUs);
    mended.push(`database ${file} is damaged, kept as ${aside} and begun anew: ${describe(err)}`);
    return open();
  }
}

/** Throws for a database whose pages do not fit together. Takes a millisecond per megabyte. */
export function checkPages(db: Database.Database, file: string): void {
  const rows = db.pragma(`quick_check(${PROBLEMS_READ})`) as { quick_check: string }[];
  const [problem] = rows.map((row) => row.quick_check).filter((text) => text !== 'ok' && !ROW_PROBLEM.test(text));
  if (problem !== undefined) throw new DamageError('internal', `check database ${file}: ${problem.slice(0, 200)}`);
}

/**
 * Drops rows that are no records, and containers whose sandbox is gone: with one of them nothing could be loaded, or
 * removed. What was dropped is added to `mended`; what belongs to it on the machine has no owner then.
 */
export function dropBadRows(db: Database.Database, mended: string[]): void {
  const drop = (table: string, condition: string, why: string): void => {
    const ids = db.prepare<[], string>(`SELECT id FROM ${table} WHERE ${condition}`).pluck().all();
    for (const id of ids) {
      db.prepare(`DELETE FROM ${table} WHERE id = ?`).run(id);
      mended.push(`${table} ${id} is dropped from the database: ${why}`);
    }
  };
  const unreadable = `CASE WHEN json_valid(body) THEN json_extract(body, '$.id') IS NOT id ELSE 1 END`;
  inStore('check the records of the database', () => {
    db.pragma('foreign_keys = OFF');
    try {
      for (const table of ['sandboxes', 'containers', 'images']) drop(table, unreadable, 'its record is not readable');
      drop('containers', 'sandbox_id NOT IN (SELECT id FROM sandboxes)', 'its sandbox is not there');
    } finally {
      db.pragma('foreign_keys = ON');
    }
  });
}

function isDamage(err: unknown): boolean {
  const code = findCause(err, Database.SqliteError)?.code ?? '';
  return DAMAGE.test(code) || findCause(err, DamageError) !== undefined;
}

function keepAside(file: string, nowUs: number): string {
  const aside = `${file}.damaged-${new Date(nowUs / 1000).toISOString()}`;
  try {
    // The log belongs to it, and would be taken for the new one's.
    for (const end of ['', '-wal', '-shm']) if (existsSync(file + end)) renameSync(file + end, aside + end);
  } catch (err) {
    throw wrap(`keep damaged database ${file} as ${aside}`, err);
  }
  return aside;
}
