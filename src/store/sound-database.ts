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
/** Not those that somebody's shell has added. */
const TABLES = Object.freeze(['sandboxes', 'containers', 'images', 'layers', 'pipelines', 'steps', 'facts']);

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

/** Throws for a database whose header or whose tables are not of the schema that was written down in it. */
export function checkSchema(db: Database.Database, file: string): void {
  const version = Number(db.pragma('user_version', { simple: true }));
  const hasFacts = db.prepare("SELECT 1 FROM sqlite_schema WHERE name = 'facts'").get() !== undefined;
  if (version === 0 && !hasFacts) return;
  const find = (name: string): string | undefined =>
    hasFacts ? db.prepare<[string], string>('SELECT value FROM facts WHERE name = ?').pluck().get(name) : undefined;
  const written = find(SCHEMA_FACT);
  if (written !== undefined && Number(written) !== version)
    throw new DamageError('internal', `check database ${file}: its header tells schema ${version} for ${written}`);
  const sum = find(TABLES_FACT);
  if (sum !== undefined && sum !== sumOfTables(db))
    throw new DamageError('internal', `check database ${file}: its tables are not defined as they were`);
}

/** The checksum of how Berth's tables are defined. SQLite takes a definition with another letter in it for a good one. */
export function sumOfTables(db: Database.Database): string {
  const find = db.prepare<[string], string>("SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?").pluck();
  return sumOf(TABLES.map((name) => find.get(name) ?? '').join('\n'));
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
/** The fact under which the checksum of the tables' definitions stands. */
export const TABLES_FACT = 'tables';

/** The columns of rows without a body, in the order in which `row_sum` is made of them; the first is the key. */
const SUMMED_COLUMNS = Object.freeze({
  layers: ['diff_id', 'size_bytes', 'inodes', 'created_at_us'],
  facts: ['name', 'value'],
} as const);
/** The columns that a body tells once more. */
const COLUMNS_OF_BODIES = Object.freeze({
  sandboxes: { name: 'name', state: 'state', created_at_us: 'createdAtUs' },
  containers: { name: 'name', state: 'state', created_at_us: 'createdAtUs' },
  images: { size_bytes: 'sizeBytes', created_at_us: 'createdAtUs' },
} as const);

/**
 * Drops rows that are no records, or not what was written, and containers whose sandbox is gone: with one of them
 * nothing could be loaded, or removed. What was dropped is told in `mended`; the names of their tables are returned.
 * Where there is no copy of a row, what belongs to it on the machine has no owner then.
 */
export function dropBadRows(db: Database.Database, mended: string[]): string[] {
  const tables = new Set<string>();
  const drop = (table: string, key: string, condition: string, why: string): void => {
    const keys = db.prepare<[], string>(`SELECT ${key} FROM ${table} WHERE ${condition}`).pluck().all();
    if (keys.length === 0) return;
    // Not by their keys, which may be no text any more.
    db.prepare(`DELETE FROM ${table} WHERE ${condition}`).run();
    mended.push(...keys.map((of) => `${table} ${of} is dropped from the database: ${why}`));
    tables.add(table);
  };
  db.function('sum_of', { deterministic: true }, (text: unknown) => sumOf(String(text)));
  inStore('check the records of the database', () => {
    db.pragma('foreign_keys = OFF');
    try {
      for (const [table, columns] of Object.entries(COLUMNS_OF_BODIES)) {
        drop(table, 'id', `NOT ${BODY_IS_READABLE}`, 'its record is not readable');
        drop(table, 'id', `NOT ${isWritten('body_sum', ['body'])}`, 'its record is not what was written');
        mendColumns(db, table, columns, mended);
      }
      drop('containers', 'id', 'sandbox_id NOT IN (SELECT id FROM sandboxes)', 'its sandbox is not there');
      for (const [table, columns] of Object.entries(SUMMED_COLUMNS)) {
        // Of an older version, which is checked before it is brought along.
        if (!hasColumn(db, table, 'row_sum')) continue;
        drop(table, columns[0], `NOT ${isWritten('row_sum', columns)}`, 'it is not what was written');
      }
    } finally {
      db.pragma('foreign_keys = ON');
    }
  });
  return [...tables];
}

function mendColumns(
  db: Database.Database,
  table: string,
  columns: Readonly<Record<string, string>>,
  mended: string[],
): void {
  for (const [column, field] of Object.entries(columns)) {
    const value = `json_extract(body, '$.${field}')`;
    const ids = db
      .prepare<[], string>(
        `UPDATE OR IGNORE ${table} SET ${column} = ${value} WHERE ${value} IS NOT NULL AND ${column} IS NOT ${value} RETURNING id`,
      )
      .pluck()
      .all();
    mended.push(...ids.map((id) => `${table} ${id} has its ${column} from its record again`));
  }
}

const BODY_IS_READABLE = "CASE WHEN json_valid(body) THEN json_extract(body, '$.id') IS id ELSE 0 END";

function isWritten(sum: string, columns: readonly string[]): string {
  return `(${sum} IS NULL OR ${sum} = sum_of(${columns.join(" || ' ' || ")}))`;
}

function hasColumn(db: Database.Database, table: string, column: string): boolean {
  return (db.pragma(`table_info(${table})`) as { name: string }[]).some(({ name }) => name === column);
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
