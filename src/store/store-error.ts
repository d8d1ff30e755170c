import Database from 'better-sqlite3';

import { because, type ErrorKind, wrap } from '../base/errors.ts';

/** What a caller can act on; everything else that SQLite says is `internal`. */
const KINDS: readonly (readonly [code: string, kind: ErrorKind])[] = Object.freeze([
  ['SQLITE_BUSY', 'unavailable'],
  ['SQLITE_FULL', 'exhausted'],
] as const);

/** Runs `fn`; what SQLite throws in it gets the kind that fits, and a context that names the object. */
export function inStore<T>(context: string, fn: () => T): T {
  try {
    return fn();
  } catch (err) {
    throw err instanceof Database.SqliteError ? storeError(context, err) : err;
  }
}

/** An error about a database: `unavailable` when another process writes to it, `exhausted` when the disk is full. */
export function storeError(context: string, err: unknown): Error {
  const code = err instanceof Database.SqliteError ? err.code : '';
  // Extended codes such as SQLITE_BUSY_SNAPSHOT begin with their primary one.
  const kind = KINDS.find(([primary]) => code === primary || code.startsWith(`${primary}_`))?.[1];
  return kind === undefined ? wrap(context, err) : because(kind, context, err);
}
