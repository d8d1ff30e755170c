import assert from 'node:assert/strict';
import { test } from 'node:test';

import { checkLimits } from './check-limits.ts';

const v1 = { cgroupVersion: 1, kernelHugepageSizes: ['2MB', '1GB'] } as const;
const field = 'config.linux.resources';

test('files of cgroup v2 need it', () => {
  const limits = { hugepageLimits: [], unified: { 'memory.high': '1' } };
  checkLimits(limits, { ...v1, cgroupVersion: 2 }, field);
  assert.throws(() => checkLimits(limits, v1, field), {
    kind: 'invalid',
    message: 'config.linux.resources.unified: needs a host with cgroup v2',
  });
});

test('huge pages are of a size that the kernel has', () => {
  const limits = (pageSize: string, limitBytes: number) => ({
    hugepageLimits: [
      { pageSize: '2MB', limitBytes: 1 },
      { pageSize, limitBytes },
    ],
    unified: {},
  });
  checkLimits(limits('1GB', 5), v1, field);
  checkLimits(limits('3MB', 0), v1, field);
  assert.throws(() => checkLimits(limits('3MB', 5), v1, field), {
    kind: 'invalid',
    message:
      'config.linux.resources.hugepage_limits[1].page_size: 3MB is not a size of huge pages that this kernel has (2MB, 1GB)',
  });
});
