import { existsSync, renameSync } from 'node:fs';

import Database from 'better-sqlite3';

import { BerthError, describe, findCause, wrap } from '../base/errors.ts';
import { sumOf } from './record-copies.ts';
import { inStore } from './store-error.ts';

/** What SQLite calls a file that is not, or no longer, a database, lacks a table, or is of a version to come. */
const DAMAGE = /^SQLITE_(CORRUPT|NOTADB|ERROR$|READONLY$)/;
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

/** Throws for a database whose pages do not fit together. Takes a millisecond per megabyte of records. */
export function checkPages(db: Database.Database, file: string): void {
  const rows = db.pragma(`integrity_check(${PROBLEMS_READ})`) as { integrity_check: string }[];
  const [problem] = rows.map((row) => row.integrity_check).filter((text) => text !== 'ok' && !ROW_PROBLEM.test(text));
  if (problem !== undefined) throw new DamageError('internal', `check database ${file}: ${problem.slice(0, 200)}`);
}

/** Throws for a database whose header does not tell the schema that was written down in it. */
export function checkSchema(db: Database.Database, file: string): void {
  const version = Number(db.pragma('user_version', { simple: true }));
  const hasFacts = db.prepare("SELECT 1 FROM sqlite_schema WHERE name = 'facts'").get() !== undefined;
  if (version === 0 && !hasFacts) return;
  const row = hasFacts ? db.prepare<[string], { value: string }>(FIND_FACT).get(SCHEMA_FACT) : undefined;
  if (row && Number(row.value) !== version)
    throw new DamageError('internal', `check database ${file}: its header tells schema ${version} for ${row.value}`);
}

/** Throws for a database whose header says that this SQLite may only read it. */
export function checkWritable(db: Database.Database): void {
  try {
    db.pragma(`user_version = ${Number(db.pragma('user_version', { simple: true }))}`);
  } catch (err) {
    // A full disk and somebody's shell are told by whoever has something to write.
    if (err instanceof Database.SqliteError && err.code === 'SQLITE_READONLY') throw err;
  }
}

/** The fact under which the schema is written down once more. */
export const SCHEMA_FACT = 'schema';
const FIND_FACT = 'SELECT value FROM facts WHERE name = ?';

/** A row that was dropped, and what it was in. */
export interface DroppedRow {
  readonly name: string;
  readonly key: string;
}

/**
 * Drops rows that are no records, or not what was written, and containers whose sandbox is gone: with one of them
 * nothing could be loaded, or removed. What was dropped is returned, and told in `mended`; where there is no copy of it,
 * what belongs to it on the machine has no owner then.
 */
export function dropBadRows(db: Database.Database, mended: string[]): DroppedRow[] {
  const dropped: DroppedRow[] = [];
  const drop = (table: string, condition: string, why: string): void => {
    const ids = db.prepare<[], string>(`SELECT id FROM ${table} WHERE ${condition}`).pluck().all();
    for (const id of ids) {
      db.prepare(`DELETE FROM ${table} WHERE id = ?`).run(id);
      mended.push(`${table} ${id} is dropped from the database: ${why}`);
      dropped.push({ name: table, key: id });
    }
  };
  db.function('sum_of', { deterministic: true }, (text: unknown) => sumOf(String(text)));
  const unreadable = `CASE WHEN json_valid(body) THEN json_extract(body, '$.id') IS NOT id ELSE 1 END`;
  const changed = 'body_sum IS NOT NULL AND body_sum <> sum_of(body)';
  inStore('check the records of the database', () => {
    db.pragma('foreign_keys = OFF');
    try {
      for (const table of ['sandboxes', 'containers', 'images']) {
        drop(table, unreadable, 'its record is not readable');
        drop(table, changed, 'its record is not what was written');
      }
      drop('containers', 'sandbox_id NOT IN (SELECT id FROM sandboxes)', 'its sandbox is not there');
    } finally {
      db.pragma('foreign_keys = ON');
    }
  });
  return dropped;
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
