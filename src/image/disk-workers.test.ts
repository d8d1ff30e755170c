import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { getPriority, tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';

import { BerthError } from '../base/errors.ts';
import { isErrno } from '../sys/errno.ts';
import { DiskWorkers } from './disk-workers.ts';
import { defaultTarLimits } from './tar-reader.ts';

test('tells how many jobs threads are at, and how many wait, whatever they are', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'berth-disk-workers-'));
  const workers = new DiskWorkers({ threads: 2, idleMs: 60_000 });
  try {
    const names = ['a', 'b', 'c', 'd'];
    for (const name of names) mkdirSync(join(folder, name));
    const discards = names.map((name) => workers.run('discard', join(folder, name)));
    assert.deepEqual(workers.load(), { running: 1, waiting: 3 });
    await Promise.all(discards);
    assert.deepEqual(readdirSync(folder), []);
    assert.deepEqual(workers.load(), { running: 0, waiting: 0 });
    const nices = readdirSync('/proc/self/task').flatMap((tid) => niceOf(Number(tid)) ?? []);
    assert.equal(Math.max(...nices), 5, 'they give way, and not so far that a lock that they have stays with them');
  } finally {
    await workers.close();
    rmSync(folder, { recursive: true });
  }
});

test('removes what was made by a thread that died in its process', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'berth-disk-workers-'));
  const target = join(folder, 'target');
  const frame = join(folder, 'frame');
  const workers = new DiskWorkers({
    process: {
      ask(job) {
        mkdirSync(join(target, 'half'), { recursive: true });
        writeFileSync(frame, 'half');
        throw new BerthError('exhausted', `${job}: out of memory`);
      },
      async close() {},
    },
  });
  try {
    const request = {
      blob: { path: '', compression: 'none' },
      target,
      diffId: undefined,
      limits: defaultTarLimits,
    } as const;
    await assert.rejects(workers.run('unpack', { ...request, frame }), /^BerthError: unpack: out of memory$/);
    assert.deepEqual(readdirSync(folder), []);
    await assert.rejects(workers.run('extract', { archive: '', target, limits: defaultTarLimits }), /out of memory/);
    assert.deepEqual(readdirSync(folder), ['frame'], 'a frame is none of its business');
  } finally {
    await workers.close();
    rmSync(folder, { recursive: true });
  }
});

/** None of a thread that has ended meanwhile: Node then tells no errno but this. */
function niceOf(tid: number): number | undefined {
  try {
    return getPriority(tid) - getPriority(0);
  } catch (err) {
    if (isErrno(err, 'ERR_SYSTEM_ERROR')) return undefined;
    throw err;
  }
}
