import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { getPriority, tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';

import { DiskWorkers } from './disk-workers.ts';

test('tells how many jobs threads are at, and how many wait, whatever they are', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'berth-disk-workers-'));
  const workers = new DiskWorkers({ threads: 2 });
  try {
    const names = ['a', 'b', 'c', 'd'];
    for (const name of names) mkdirSync(join(folder, name));
    const discards = names.map((name) => workers.run('discard', join(folder, name)));
    assert.deepEqual(workers.load(), { running: 1, waiting: 3 });
    await Promise.all(discards);
    assert.deepEqual(readdirSync(folder), []);
    assert.deepEqual(workers.load(), { running: 0, waiting: 0 });
    const nices = readdirSync('/proc/self/task').map((tid) => getPriority(Number(tid)) - getPriority(0));
    assert.equal(Math.max(...nices), 5, 'they give way, and not so far that a lock that they have stays with them');
  } finally {
    await workers.close();
    rmSync(folder, { recursive: true });
  }
});
