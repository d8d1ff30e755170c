import assert from 'node:assert/strict';
import { test } from 'node:test';

import { mergeResources, withSwap } from './update-resources.ts';

test('an update changes what it says and keeps the rest', () => {
  const old = {
    cpuShares: 100,
    memoryLimitBytes: 1000,
    hugepageLimits: [
      { pageSize: '2MB', limitBytes: 1 },
      { pageSize: '1GB', limitBytes: 2 },
    ],
    unified: { 'memory.high': '5', 'memory.low': '1' },
  };
  const update = {
    memoryLimitBytes: 2000,
    hugepageLimits: [{ pageSize: '2MB', limitBytes: 7 }],
    unified: { 'memory.high': '6' },
  };
  assert.deepEqual(mergeResources(old, update), {
    cpuShares: 100,
    memoryLimitBytes: 2000,
    hugepageLimits: [
      { pageSize: '1GB', limitBytes: 2 },
      { pageSize: '2MB', limitBytes: 7 },
    ],
    unified: { 'memory.high': '6', 'memory.low': '1' },
  });
});

test('a new memory limit keeps the swap that was allowed, as far as it can', () => {
  const none = { hugepageLimits: [], unified: {} };
  const old = { ...none, memoryLimitBytes: 10, memorySwapLimitBytes: 30 };
  const swapAfter = (update: object): number | undefined => withSwap(old, { ...none, ...update }).memorySwapLimitBytes;
  assert.equal(swapAfter({ memoryLimitBytes: 20 }), 30);
  assert.equal(swapAfter({ memoryLimitBytes: 40 }), 40);
  assert.equal(swapAfter({ memoryLimitBytes: -1 }), -1);
  assert.equal(swapAfter({ memoryLimitBytes: 20, memorySwapLimitBytes: 25 }), 25);
  assert.equal(swapAfter({ cpuShares: 2 }), undefined);
  assert.equal(withSwap(none, { ...none, memoryLimitBytes: 5 }).memorySwapLimitBytes, undefined);
});
