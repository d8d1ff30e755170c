import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import type { LinuxResources } from './container-spec.ts';
import { toOciResources } from './spec-resources.ts';

const host = { swapAccounting: true, hugepageSizes: ['2MB'] } as const;
const none: LinuxResources = { hugepageLimits: [], unified: {} };
const MiB = 1024 * 1024;

describe('toOciResources', () => {
  const cases: { title: string; own: Partial<LinuxResources>; expected: object }[] = [
    { title: 'nothing', own: {}, expected: {} },
    {
      title: 'zeroes as nothing',
      own: {
        cpuShares: 0,
        cpuQuotaUs: 0,
        cpuPeriodUs: 0,
        memoryLimitBytes: 0,
        memorySwapLimitBytes: 0,
        cpusetCpus: '',
      },
      expected: {},
    },
    {
      title: 'cpu limits',
      own: { cpuShares: 2, cpuQuotaUs: 5000, cpuPeriodUs: 100000, cpusetCpus: '0-1', cpusetMems: '0' },
      expected: { cpu: { shares: 2, quota: 5000, period: 100000, cpus: '0-1', mems: '0' } },
    },
    { title: 'any negative quota as none', own: { cpuQuotaUs: -7 }, expected: { cpu: { quota: -1 } } },
    {
      title: 'a memory limit as one of memory and swap together',
      own: { memoryLimitBytes: 64 * MiB },
      expected: { memory: { limit: 64 * MiB, swap: 64 * MiB } },
    },
    {
      title: 'swap of its own',
      own: { memoryLimitBytes: 64 * MiB, memorySwapLimitBytes: 96 * MiB },
      expected: { memory: { limit: 64 * MiB, swap: 96 * MiB } },
    },
    {
      title: 'unlimited swap',
      own: { memoryLimitBytes: 64 * MiB, memorySwapLimitBytes: -1 },
      expected: { memory: { limit: 64 * MiB, swap: -1 } },
    },
    {
      title: 'pages of a size that the host can limit only',
      own: {
        hugepageLimits: [
          { pageSize: '2MB', limitBytes: 0 },
          { pageSize: '1GB', limitBytes: 0 },
        ],
      },
      expected: { hugepageLimits: [{ pageSize: '2MB', limit: 0 }] },
    },
    {
      title: 'cgroup v2 files',
      own: { unified: { 'memory.high': '1' } },
      expected: { unified: { 'memory.high': '1' } },
    },
  ];
  for (const { title, own, expected } of cases) {
    it(`takes ${title}`, () => assert.deepEqual(toOciResources({ ...none, ...own }, host), expected));
  }

  it('sets no swap limit where swap is not counted', () => {
    const resources = toOciResources({ ...none, memoryLimitBytes: MiB }, { ...host, swapAccounting: false });
    assert.deepEqual(resources, { memory: { limit: MiB } });
  });
});
