import assert from 'node:assert/strict';
import { test } from 'node:test';

import type { LinuxResources } from '../container-spec.ts';
import { sliceProperties } from './systemd-driver.ts';

const NOTHING: LinuxResources = { hugepageLimits: [], unified: {} };
const NO_LIMIT = 2n ** 64n - 1n;
const shown = (...request: Parameters<typeof sliceProperties>): [string, unknown][] =>
  sliceProperties(...request).map(({ name, value }) => [name, value]);

test('systemd is told all limits that it would otherwise undo when it reloads', () => {
  const limits = { ...NOTHING, cpuShares: 1024, cpuQuotaUs: 50_000, memoryLimitBytes: 100, memorySwapLimitBytes: 150 };
  assert.deepEqual(shown('v2', limits), [
    ['CPUWeight', 39n],
    ['CPUQuotaPerSecUSec', 500_000n],
    ['MemoryMax', 100n],
    ['MemorySwapMax', 50n],
  ]);
  assert.deepEqual(shown('hybrid', limits), [
    ['CPUShares', 1024n],
    ['CPUQuotaPerSecUSec', 500_000n],
    ['MemoryLimit', 100n],
  ]);
});

test('what is not said is not told, and negative is no limit', () => {
  assert.deepEqual(shown('v2', NOTHING), []);
  const lifted = { ...NOTHING, cpuQuotaUs: -1, memoryLimitBytes: -1, memorySwapLimitBytes: -1 };
  assert.deepEqual(shown('v2', lifted), [
    ['CPUQuotaPerSecUSec', NO_LIMIT],
    ['MemoryMax', NO_LIMIT],
    ['MemorySwapMax', NO_LIMIT],
  ]);
});
