import type { Database } from 'better-sqlite3';

import { BerthError } from '../base/errors.ts';
import { SCHEMA_FACT, TABLES_FACT } from './sound-database.ts';
import { storeError } from './store-error.ts';

/**
 * The schema, as the list of changes that made it. A change is never edited once it has shipped; the next one is added
 * below it. Bodies are JSON, so that `sqlite3 berth.db` answers questions about the past.
 */
const MIGRATIONS: readonly string[] = Object.freeze([
  `
  CREATE TABLE sandboxes (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL,
    created_at_us INTEGER NOT NULL,
    body TEXT NOT NULL CHECK (json_valid(body))
  ) STRICT, WITHOUT ROWID;

  CREATE TABLE containers (
    id TEXT PRIMARY KEY,
    sandbox_id TEXT NOT NULL,
    name TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL,
    created_at_us INTEGER NOT NULL,
    body TEXT NOT NULL CHECK (json_valid(body))
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX containers_by_sandbox ON containers (sandbox_id);

  CREATE TABLE images (
    id TEXT PRIMARY KEY,
    size_bytes INTEGER NOT NULL,
    created_at_us INTEGER NOT NULL,
    body TEXT NOT NULL CHECK (json_valid(body))
  ) STRICT, WITHOUT ROWID;

  CREATE TABLE layers (
    diff_id TEXT PRIMARY KEY,
    size_bytes INTEGER NOT NULL,
    inodes INTEGER NOT NULL,
    created_at_us INTEGER NOT NULL
  ) STRICT, WITHOUT ROWID;

  CREATE TABLE pipelines (
    subject TEXT NOT NULL,
    pipeline TEXT NOT NULL,
    finished INTEGER NOT NULL DEFAULT 0,
    started_at_us INTEGER NOT NULL,
    PRIMARY KEY (subject, pipeline)
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX pipelines_unfinished ON pipelines (finished) WHERE finished = 0;

  CREATE TABLE steps (
    subject TEXT NOT NULL,
    pipeline TEXT NOT NULL,
    position INTEGER NOT NULL,
    step TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('begun', 'done', 'undone')),
    outcome TEXT NOT NULL DEFAULT '',
    started_at_us INTEGER NOT NULL,
    duration_ms REAL NOT NULL DEFAULT 0,
    PRIMARY KEY (subject, pipeline, position)
  ) STRICT, WITHOUT ROWID;
  `,
  // No container without its sandbox: neither could be removed.
  `
  CREATE TABLE facts (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
  ) STRICT, WITHOUT ROWID;

  CREATE TABLE containers_of_sandboxes (
    id TEXT PRIMARY KEY,
    sandbox_id TEXT NOT NULL REFERENCES sandboxes (id),
    name TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL,
    created_at_us INTEGER NOT NULL,
    body TEXT NOT NULL CHECK (json_valid(body))
  ) STRICT, WITHOUT ROWID;
  INSERT INTO containers_of_sandboxes (id, sandbox_id, name, state, created_at_us, body)
    SELECT id, sandbox_id, name, state, created_at_us, body FROM containers
    WHERE sandbox_id IN (SELECT id FROM sandboxes);
  DROP TABLE containers;
  ALTER TABLE containers_of_sandboxes RENAME TO containers;
  CREATE INDEX containers_by_sandbox ON containers (sandbox_id);
  `,
  // SQLite's own checks do not notice a changed byte inside of a body. NULL: written before there were sums.
  `
  ALTER TABLE sandboxes ADD COLUMN body_sum TEXT;
  ALTER TABLE containers ADD COLUMN body_sum TEXT;
  ALTER TABLE images ADD COLUMN body_sum TEXT;
  `,
  // Without rowids a row of over 1 kB spills into pages of its own, which each put freed and took anew: six or seven pages
  // where it is one or two now, up to 4 kB. `dropBadRows` checks the bodies; what else a damaged row may lack shall not
  // keep the others from being brought along. The few pipelines that are unfinished are found without an index.
  `
  CREATE TABLE sandboxes_by_rowid (
    id TEXT PRIMARY KEY NOT NULL,
    name TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL,
    created_at_us INTEGER NOT NULL,
    body TEXT NOT NULL,
    body_sum TEXT
  ) STRICT;
  INSERT INTO sandboxes_by_rowid (id, name, state, created_at_us, body, body_sum)
    SELECT id, CAST(ifnull(name, id) AS TEXT), CAST(ifnull(state, '') AS TEXT),
      CAST(ifnull(created_at_us, 0) AS INTEGER), body, body_sum FROM sandboxes;

  CREATE TABLE containers_by_rowid (
    id TEXT PRIMARY KEY NOT NULL,
    sandbox_id TEXT NOT NULL REFERENCES sandboxes_by_rowid (id),
    name TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL,
    created_at_us INTEGER NOT NULL,
    body TEXT NOT NULL,
    body_sum TEXT
  ) STRICT;
  INSERT INTO containers_by_rowid (id, sandbox_id, name, state, created_at_us, body, body_sum)
    SELECT id, sandbox_id, CAST(ifnull(name, id) AS TEXT), CAST(ifnull(state, '') AS TEXT),
      CAST(ifnull(created_at_us, 0) AS INTEGER), body, body_sum FROM containers
    WHERE sandbox_id IN (SELECT id FROM sandboxes);

  DROP TABLE containers;
  DROP TABLE sandboxes;
  ALTER TABLE sandboxes_by_rowid RENAME TO sandboxes;
  ALTER TABLE containers_by_rowid RENAME TO containers;
  CREATE INDEX containers_by_sandbox ON containers (sandbox_id);

  DROP INDEX IF EXISTS pipelines_unfinished;
  `,
  // What is not in a body has sums too. NULL: written before there were any.
  `
  ALTER TABLE layers ADD COLUMN row_sum TEXT;
  ALTER TABLE facts ADD COLUMN row_sum TEXT;
  `,
]);

/** The schema of this version. */
export const SCHEMA = MIGRATIONS.length;
/** From this one on bodies have sums, and a fact tells the schema once more. */
const SCHEMA_WITH_SUMS = 3;

/** Whether a database is to be migrated whose rows can be checked before. */
export function canCheckBeforeMigration(db: Database): boolean {
  const version = Number(db.pragma('user_version', { simple: true }));
  return version >= SCHEMA_WITH_SUMS && version < SCHEMA;
}

/** Brings a database to this version's schema. Throws `precondition` for one that a newer Berth has written. */
export function migrate(db: Database, file: string): void {
  const version = Number(db.pragma('user_version', { simple: true }));
  if (version > SCHEMA) {
    throw new BerthError(
      'precondition',
      `database ${file} has schema ${version}, and this berthd knows ${SCHEMA}: a newer one has written it; run that one, or move the file away, which ends all pods`,
    );
  }
  for (const [index, sql] of MIGRATIONS.entries()) {
    if (index < version) continue;
    try {
      db.transaction(() => {
        db.exec(sql);
        db.pragma(`user_version = ${index + 1}`);
        // What does not fit the schema is taken for damage; the store writes both facts anew.
        if (index >= SCHEMA_WITH_SUMS)
          db.prepare('DELETE FROM facts WHERE name IN (?, ?)').run(SCHEMA_FACT, TABLES_FACT);
      })();
    } catch (err) {
      throw storeError(`migrate database ${file} to schema ${index + 1}`, err);
    }
  }
}
