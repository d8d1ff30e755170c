import Database from 'better-sqlite3';

import type { FaultPoints } from '../base/fault-points.ts';

const WRITE = /^\s*(INSERT|UPDATE|DELETE)(?: OR REPLACE)?(?: INTO| FROM)?\s+(\w+)/i;

/**
 * Makes every statement that is prepared from now on, and that writes, a place where a test may disturb it: `database
 * insert sandboxes`. Its error is a code of SQLite, `SQLITE_FULL`.
 */
export function disturbDatabase(db: Database.Database, faults: FaultPoints): void {
  const prepare = db.prepare.bind(db);
  const disturbed = (sql: string): Database.Statement => {
    const statement: Database.Statement = prepare(sql);
    const [, verb, table] = WRITE.exec(sql) ?? [];
    if (verb === undefined || table === undefined) return statement;
    const place = `database ${verb.toLowerCase()} ${table}`;
    const run = statement.run.bind(statement);
    const fail = (error: string): never => {
      throw new Database.SqliteError(`fault at ${place}`, error);
    };
    statement.run = (...values: unknown[]): Database.RunResult => faults.aroundCall(place, () => run(...values), fail);
    return statement;
  };
  Object.assign(db, { prepare: disturbed });
}
