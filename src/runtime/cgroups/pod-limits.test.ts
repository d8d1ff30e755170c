import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe as suite, test } from 'node:test';

import { kindOf, wrap } from '../../base/errors.ts';
import type { LinuxResources } from '../container-spec.ts';
import { CgroupTree } from './cgroup-tree.ts';
import { hugepageLimitFiles, type LimitFile, podLimitFiles, writeLimits } from './pod-limits.ts';

const NOTHING: LinuxResources = { hugepageLimits: [], unified: {} };
const shown = (files: readonly LimitFile[]): string[] => files.map(({ file, value }) => `${file}=${value}`);

test('limits as files of each cgroup version; what is not said is not named', () => {
  const limits: LinuxResources = {
    ...NOTHING,
    cpuShares: 1024,
    cpuQuotaUs: 50_000,
    cpuPeriodUs: 20_000,
    memoryLimitBytes: 1000,
    memorySwapLimitBytes: 1500,
    cpusetCpus: '0-1',
    hugepageLimits: [{ pageSize: '2MB', limitBytes: 0 }],
  };
  assert.deepEqual(shown(podLimitFiles('v2', limits)), [
    'cpu.weight=39',
    'cpu.max=50000 20000',
    'memory.max=1000',
    'memory.swap.max=500',
    'cpuset.cpus=0-1',
    'hugetlb.2MB.max=0',
  ]);
  assert.deepEqual(shown(podLimitFiles('hybrid', limits)), [
    'cpu.shares=1024',
    'cpu.cfs_period_us=20000',
    'cpu.cfs_quota_us=50000',
    'memory.memsw.limit_in_bytes=1500',
    'memory.limit_in_bytes=1000',
    'cpuset.cpus=0-1',
    'hugetlb.2MB.limit_in_bytes=0',
  ]);
  assert.deepEqual(podLimitFiles('v1', NOTHING), []);
  assert.deepEqual(podLimitFiles('v2', NOTHING), []);
});

test('negative is no limit, and a swap limit that equals the memory limit is no swap', () => {
  const lifted = { ...NOTHING, cpuQuotaUs: -1, memoryLimitBytes: -1, memorySwapLimitBytes: -1 };
  assert.deepEqual(shown(podLimitFiles('v2', lifted)), ['cpu.max=max 100000', 'memory.max=max', 'memory.swap.max=max']);
  const noSwap = { ...NOTHING, memoryLimitBytes: 7, memorySwapLimitBytes: 7 };
  assert.deepEqual(shown(podLimitFiles('v2', noSwap)), ['memory.max=7', 'memory.swap.max=0']);
});

test('unified files are for v2 alone', () => {
  const unified = { ...NOTHING, unified: { 'memory.high': '5' } };
  assert.deepEqual(podLimitFiles('v2', unified), [{ controller: 'memory', file: 'memory.high', value: '5' }]);
  assert.deepEqual(podLimitFiles('v1', unified), []);
});

suite('writeLimits', () => {
  let root: string;
  let tree: CgroupTree;
  const at = (file: string): string => join(root, 'pod', file);

  beforeEach(() => {
    root = mkdtempSync(join(tmpdir(), 'berth-limits-'));
    mkdirSync(join(root, 'pod'));
    const marks = { set: () => {}, has: () => false };
    tree = new CgroupTree([{ version: 2, controllers: [], name: '', mountPoint: root }], marks);
  });
  afterEach(() => rmSync(root, { recursive: true }));

  test('writes what the host has, and leaves out what it has not', () => {
    writeFileSync(at('cpu.weight'), '100\n');
    writeLimits(tree, '/pod', [
      { controller: 'cpu', file: 'cpu.weight', value: '7' },
      { controller: 'hugetlb', file: 'hugetlb.1GB.max', value: '0' },
    ]);
    assert.equal(readFileSync(at('cpu.weight'), 'utf8'), '7');
  });

  test('refuses a memory limit below what is used, which v2 would kill for, unless it was as low before', () => {
    writeFileSync(at('memory.current'), '5000\n');
    writeFileSync(at('memory.max'), 'max\n');
    writeFileSync(at('cpu.weight'), '100\n');
    const limits = (bytes: number): LimitFile[] =>
      podLimitFiles('v2', { ...NOTHING, cpuShares: 2, memoryLimitBytes: bytes });
    assert.throws(() => writeLimits(tree, '/pod', limits(4999)), {
      kind: 'precondition',
      message: 'limits of cgroup /pod: memory.max: 4999 is less than the 5000 bytes that it uses',
    });
    assert.equal(readFileSync(at('cpu.weight'), 'utf8'), '100\n');
    writeLimits(tree, '/pod', limits(5000));
    writeFileSync(at('memory.current'), '5001\n');
    writeLimits(tree, '/pod', limits(5000));
    writeLimits(tree, '/pod', podLimitFiles('v2', { ...NOTHING, memoryLimitBytes: -1 }));
    assert.equal(readFileSync(at('memory.max'), 'utf8'), 'max');
  });

  test('what was written can be taken back; of huge pages, those that are set aside are limited too', () => {
    const files = ['hugetlb.2MB.max', 'hugetlb.2MB.rsvd.max'];
    for (const file of files) writeFileSync(at(file), 'max\n');
    const undo = writeLimits(tree, '/pod', hugepageLimitFiles('v2', [{ pageSize: '2MB', limitBytes: 4 }]));
    assert.deepEqual(
      files.map((file) => readFileSync(at(file), 'utf8')),
      ['4', '4'],
    );
    undo();
    assert.deepEqual(
      files.map((file) => readFileSync(at(file), 'utf8')),
      ['max', 'max'],
    );
    assert.deepEqual(shown(hugepageLimitFiles('hybrid', [{ pageSize: '1GB', limitBytes: 0 }])), [
      'hugetlb.1GB.limit_in_bytes=0',
      'hugetlb.1GB.rsvd.limit_in_bytes=0',
    ]);
  });

  test('takes back what it wrote when a later one is refused', () => {
    writeFileSync(at('cpu.weight'), '100\n');
    writeFileSync(at('memory.max'), 'max\n');
    const refusing: Pick<CgroupTree, 'read' | 'write'> = {
      read: (...args) => tree.read(...args),
      write: (path, controller, file, value) => {
        if (file === 'memory.max') throw wrap('write', Object.assign(new Error('busy'), { code: 'EBUSY' }));
        tree.write(path, controller, file, value);
      },
    };
    assert.throws(
      () =>
        writeLimits(refusing, '/pod', [
          { controller: 'cpu', file: 'cpu.weight', value: '7' },
          { controller: 'memory', file: 'memory.max', value: '1' },
        ]),
      (err) => kindOf(err) === 'precondition',
    );
    assert.equal(readFileSync(at('cpu.weight'), 'utf8'), '100');
  });
});
