import assert from 'node:assert/strict';
import { test } from 'node:test';

import { lowersMemory, mergeResources, podLimits, withSwap } from './update-resources.ts';

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

test('memory is taken away by a limit that is lower than before, or the first', () => {
  const limit = (memoryLimitBytes?: number) => ({
    hugepageLimits: [],
    unified: {},
    ...(memoryLimitBytes === undefined ? {} : { memoryLimitBytes }),
  });
  const cases: [number | undefined, number | undefined, boolean][] = [
    [10, 9, true],
    [10, 10, false],
    [10, 11, false],
    [10, -1, false],
    [10, undefined, false],
    [undefined, 10, true],
    [-1, 10, true],
  ];
  for (const [old, update, expected] of cases)
    assert.equal(lowersMemory(limit(old), limit(update)), expected, `${old} to ${update}`);
});

test('a pod may use what its containers may, and what it costs itself; what has no limit has none with its costs', () => {
  const none = { hugepageLimits: [], unified: {} };
  const overhead = { ...none, cpuShares: 51, cpuQuotaUs: 5000, cpuPeriodUs: 100_000, memoryLimitBytes: 20 };
  const resources = { ...none, cpuShares: 100, cpuQuotaUs: 10_000, cpuPeriodUs: 100_000, memoryLimitBytes: 100 };
  assert.deepEqual(podLimits({ overhead, resources }), {
    ...resources,
    cpuShares: 151,
    cpuQuotaUs: 15_000,
    memoryLimitBytes: 120,
  });
  const shorter = { ...resources, cpuPeriodUs: 50_000 };
  assert.equal(podLimits({ overhead, resources: shorter }).cpuQuotaUs, 12_500);
  assert.deepEqual(podLimits({ overhead: undefined, resources }), resources);
  assert.deepEqual(podLimits({ overhead, resources: undefined }), none);
  const lifted = { ...none, cpuShares: 100, cpuQuotaUs: -1 };
  assert.deepEqual(podLimits({ overhead, resources: lifted }), { ...lifted, cpuShares: 151 });
});
