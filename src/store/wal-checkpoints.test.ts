import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe as suite, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';

import Database from 'better-sqlite3';

import { silentLogger } from '../base/log.ts';
import { WalCheckpoints } from './wal-checkpoints.ts';

const PAGES_DUE = 1024;

suite('WalCheckpoints', () => {
  let folder: string;
  let file: string;
  let db: Database.Database;

  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'berth-wal-'));
    file = join(folder, 'berth.db');
    db = new Database(file);
    db.pragma('journal_mode = WAL');
    db.pragma('synchronous = NORMAL');
    db.exec('CREATE TABLE rows (id INTEGER PRIMARY KEY, body BLOB)');
  });
  afterEach(() => {
    db.close();
    rmSync(folder, { recursive: true });
  });

  const pages = (): { log: number; checkpointed: number } =>
    (db.pragma('wal_checkpoint(NOOP)') as { log: number; checkpointed: number }[])[0] ?? { log: -1, checkpointed: -1 };
  const write = (count: number): void => {
    const put = db.prepare('INSERT INTO rows (body) VALUES (zeroblob(100000))');
    for (let index = 0; index < count; index++) put.run();
  };
  const inDatabase = async (): Promise<void> => {
    const giveUpAt = performance.now() + 60_000;
    for (let at = pages(); at.checkpointed < at.log; at = pages()) {
      assert.ok(performance.now() < giveUpAt, JSON.stringify(at));
      await delay(10);
    }
  };

  test('a log that has grown is moved into the database, by another thread than that which writes', async () => {
    const checkpoints = new WalCheckpoints(db, silentLogger);
    for (let round = 0; round < 2; round++) {
      write(60);
      const { log, checkpointed } = pages();
      assert.ok(log > PAGES_DUE);
      assert.ok(checkpointed < PAGES_DUE, 'who writes does not wait for the disk');
      await inDatabase();
      write(1);
      assert.ok(pages().log < PAGES_DUE, 'the log begins anew');
    }
    await checkpoints.close();
    assert.deepEqual(db.pragma('quick_check'), [{ quick_check: 'ok' }]);
    db.close();
    assert.ok(!existsSync(`${file}-wal`), 'no connection of the thread is left');
  });

  test('a checkpoint that fails is told once, and tried until it works', async () => {
    const told: string[] = [];
    const checkpoints = new WalCheckpoints(db, { ...silentLogger, warn: (_fields, text) => void told.push(text) });
    rmSync(file);
    write(60);
    for (const giveUpAt = performance.now() + 60_000; told.length === 0 && performance.now() < giveUpAt; )
      await delay(10);
    // Time for another try.
    await delay(2_500);
    assert.deepEqual(told, ['the log of the database cannot be moved into it']);
    await checkpoints.close();
  });
});
