import assert from 'node:assert/strict';
import { test } from 'node:test';

import { silentLogger } from '../base/log.ts';
import { LayerHolds } from './layer-holds.ts';

test('who has held layers does not wait for the space of those that are not needed', async () => {
  const removed: string[] = [];
  const layers = {
    remove: (diffId: string) => {
      removed.push(diffId);
      return Promise.withResolvers<void>().promise;
    },
  };
  const holds = new LayerHolds(layers, (diffId) => diffId === 'owned', silentLogger);
  const failed = holds.during(['a', 'owned'], new AbortController().signal, () => Promise.reject(new Error('no')));
  const late = new Promise((resolve) => setTimeout(resolve, 60_000, 'late').unref());
  assert.equal(await Promise.race([failed.catch((err: Error) => err.message), late]), 'no');
  assert.deepEqual(removed, ['a']);
});
