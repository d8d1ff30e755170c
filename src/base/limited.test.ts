import assert from 'node:assert/strict';
import { test } from 'node:test';

import { forEachLimited } from './limited.ts';

test('runs all, never more than the limit at a time', async () => {
  const done: number[] = [];
  let running = 0;
  let most = 0;
  await forEachLimited([1, 2, 3, 4, 5], 2, async (item) => {
    most = Math.max(most, ++running);
    await new Promise(setImmediate);
    running -= 1;
    done.push(item);
  });
  assert.deepEqual(done.toSorted(), [1, 2, 3, 4, 5]);
  assert.equal(most, 2);
});

test('a failure is thrown after the others have run', async () => {
  const done: number[] = [];
  const all = forEachLimited([1, 2, 3], 2, async (item) => {
    if (item === 1) throw new Error('one broke');
    done.push(item);
  });
  await assert.rejects(all, /one broke/);
  assert.deepEqual(done, [2, 3]);
});
