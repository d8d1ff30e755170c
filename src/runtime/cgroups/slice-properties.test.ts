import assert from 'node:assert/strict';
import { test } from 'node:test';

import type { LinuxResources } from '../container-spec.ts';
import { bitMask, propertiesInForce, scopeAnnotations, sliceProperties } from './slice-properties.ts';

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

test('files of cgroup v2 that systemd knows are told by its names, and override the rest', () => {
  const unified = {
    'memory.high': '90',
    'memory.min': '10',
    'memory.max': 'max',
    'pids.max': '64',
    'cpu.max': '20000 50000',
    'cpuset.cpus': '0-2,9',
    'io.max': '8:0 rbps=1',
    'memory.low': '1G',
  };
  assert.deepEqual(shown('v2', { ...NOTHING, memoryLimitBytes: 100, cpuShares: 1024, cpusetMems: '0', unified }), [
    ['CPUWeight', 39n],
    ['AllowedMemoryNodes', [1]],
    ['MemoryHigh', 90n],
    ['MemoryMin', 10n],
    ['MemoryMax', NO_LIMIT],
    ['TasksMax', 64n],
    ['CPUQuotaPerSecUSec', 400_000n],
    ['CPUQuotaPeriodUSec', 50_000n],
    ['AllowedCPUs', [0b111, 0b10]],
  ]);
  assert.deepEqual(shown('hybrid', { ...NOTHING, unified, cpusetCpus: '0' }), []);
});

test('a scope begins with its limits, swap as the runtime has it, and with the processes that the pod may have', () => {
  const limits = { ...NOTHING, cpuShares: 1024, cpuQuotaUs: 50_000, memoryLimitBytes: 100, cpusetCpus: '0' };
  assert.deepEqual(scopeAnnotations({ ...limits, unified: { 'memory.high': '90' } }, undefined), {
    'run.oci.systemd.subgroup': '',
    'org.systemd.property.TasksMax': 'uint64 18446744073709551615',
    'org.systemd.property.CPUQuotaPerSecUSec': 'uint64 500000',
    'org.systemd.property.MemoryMax': 'uint64 100',
    'org.systemd.property.MemorySwapMax': 'uint64 0',
    'org.systemd.property.MemoryHigh': 'uint64 90',
  });
  assert.equal(scopeAnnotations(NOTHING, 20)['org.systemd.property.TasksMax'], 'uint64 20');
  const own = { ...NOTHING, unified: { 'pids.max': '77' } };
  assert.equal(scopeAnnotations(own, 20)['org.systemd.property.TasksMax'], 'uint64 77');
});

test('what is in force is told by the files that are there', () => {
  const files: Record<string, string> = {
    'cpu.max': '20000 100000',
    'cpu.weight': '79',
    'io.weight': 'default 100',
    'memory.max': '100',
    'memory.high': 'max',
    'cpuset.cpus': '',
  };
  assert.deepEqual(
    propertiesInForce((file) => files[file]).map(({ name, value }) => [name, value]),
    [
      ['CPUQuotaPerSecUSec', 200_000n],
      ['CPUQuotaPeriodUSec', 100_000n],
      ['CPUWeight', 79n],
      ['MemoryMax', 100n],
      ['MemoryHigh', NO_LIMIT],
    ],
  );
});

test('a list of processors becomes bits, and nothing else does', () => {
  assert.deepEqual(['0', '8', '0-9,11', '3-3'].map(bitMask), [[1], [0, 1], [255, 0b1011], [8]]);
  for (const nonsense of ['', 'a', '3-1', '0-', '0,', '-1', '99999', '0-10:2/5', '1 2']) {
    assert.equal(bitMask(nonsense), undefined, nonsense);
  }
});
