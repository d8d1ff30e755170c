import assert from 'node:assert/strict';
import { test } from 'node:test';

import { mergeResources } from './container-operations.ts';

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
