import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';

import { KernelFiles } from '../kernel-files.ts';
import type { CgroupFigures } from './cgroup-figures.ts';
import { CgroupTree } from './cgroup-tree.ts';
import { FigureFiles } from './figure-files.ts';
import type { Hierarchy } from './hierarchies.ts';

/** What Linux 6.18 says of a container with 64 MiB on a hybrid host. */
const V1: Readonly<Record<string, string>> = {
  'cpuacct/pods/a/cpuacct.usage': '1536271418\n',
  'cpuacct/pods/a/cpuacct.usage_user': '1400000000\n',
  'cpuacct/pods/a/cpuacct.usage_sys': '136271418\n',
  'cpu/pods/a/cpu.stat': 'nr_periods 40\nnr_throttled 12\nthrottled_time 987654321\nnr_bursts 0\nburst_time 0\n',
  'pids/pods/a/pids.current': '7\n',
  'pids/pods/a/pids.max': 'max\n',
  'pids/pods/a/cgroup.procs': '101\n102\n0\n',
  'memory/pods/a/memory.usage_in_bytes': '52428800\n',
  'memory/pods/a/memory.limit_in_bytes': '67108864\n',
  'memory/pods/a/memory.memsw.limit_in_bytes': '100663296\n',
  'memory/pods/a/memory.max_usage_in_bytes': '60000000\n',
  'memory/pods/a/memory.failcnt': '3\n',
  'memory/pods/a/memory.kmem.usage_in_bytes': '1048576\n',
  'memory/pods/a/memory.stat': [
    'cache 33554432\nrss 11\nshmem 0\nmapped_file 2\nswap 3\npgpgin 9\npgpgout 9\npgfault 500\npgmajfault 5',
    'inactive_anon 0\nactive_anon 0\ninactive_file 12\nactive_file 13\nunevictable 0',
    'hierarchical_memory_limit 67108864\nhierarchical_memsw_limit 100663296',
    'total_cache 33554432\ntotal_rss 16777216\ntotal_rss_huge 0\ntotal_shmem 0\ntotal_mapped_file 4096',
    'total_swap 8192\ntotal_pgfault 700\ntotal_pgmajfault 7\ntotal_inactive_file 20971520\ntotal_active_file 12582912\n',
  ].join('\n'),
  'blkio/pods/a/blkio.throttle.io_service_bytes_recursive': '8:0 Read 4096\n8:0 Write 8192\n8:0 Total 12288\n',
  'blkio/pods/a/blkio.throttle.io_serviced_recursive': '8:0 Read 1\n8:0 Write 2\n8:0 Total 3\n',
  'unified/pods/a/hugetlb.2MB.current': '4194304\n',
  'unified/pods/a/cpu.pressure':
    'some avg10=1.00 avg60=2.00 avg300=3.00 total=400\nfull avg10=0.50 avg60=0.00 avg300=0.00 total=40\n',
};

/** What Linux 6.1 says. */
const V2: Readonly<Record<string, string>> = {
  'pods/a/cpu.stat': [
    'usage_usec 1536271\nuser_usec 1400000\nsystem_usec 136271',
    'nr_periods 40\nnr_throttled 12\nthrottled_usec 987654\nnr_bursts 0\nburst_usec 0\n',
  ].join('\n'),
  'pods/a/pids.current': '7\n',
  'pods/a/pids.max': '100\n',
  'pods/a/cgroup.procs': '101\n102\n',
  'pods/a/memory.current': '52428800\n',
  'pods/a/memory.max': 'max\n',
  'pods/a/memory.peak': '60000000\n',
  'pods/a/memory.events': 'low 0\nhigh 0\nmax 3\noom 0\noom_kill 0\noom_group_kill 0\n',
  'pods/a/memory.swap.current': '8192\n',
  'pods/a/memory.swap.max': '33554432\n',
  'pods/a/memory.stat': [
    'anon 16777216\nfile 33554432\nkernel 1048576\nkernel_stack 65536\npagetables 131072\nshmem 0\nfile_mapped 4096',
    'inactive_anon 0\nactive_anon 0\ninactive_file 20971520\nactive_file 12582912\nslab 524288\npgfault 700',
    'pgmajfault 7\nthp_fault_alloc 0\n',
  ].join('\n'),
  'pods/a/io.stat': '8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n',
  'pods/a/hugetlb.2MB.current': '4194304\n',
  'pods/a/cpu.pressure': 'some avg10=1.00 avg60=2.00 avg300=3.00 total=400\n',
};

const MEMORY = {
  usageBytes: 52_428_800,
  workingSetBytes: 52_428_800 - 20_971_520,
  rssBytes: 16_777_216,
  pageFaults: 700,
  majorPageFaults: 7,
};
const DEVICES = [{ major: 8, minor: 0, readBytes: 4096, writtenBytes: 8192, reads: 1, writes: 2 }];

let root: string;
let files: KernelFiles;

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'berth-figures-'));
  files = new KernelFiles();
});
afterEach(() => {
  assert.equal(files.open, 0, 'closed');
  rmSync(root, { recursive: true });
});

function write(content: Readonly<Record<string, string>>): void {
  for (const [path, text] of Object.entries(content)) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), text);
  }
}

function hierarchies(mode: 'hybrid' | 'v1' | 'v2'): Hierarchy[] {
  if (mode === 'v2') return [{ version: 2, controllers: [], name: '', mountPoint: root }];
  const v1 = ['cpu', 'cpuacct', 'memory', 'pids', 'blkio'].map(
    (name): Hierarchy => ({ version: 1, controllers: [name], name: '', mountPoint: join(root, name) }),
  );
  if (mode === 'v1') return v1;
  return [...v1, { version: 2, controllers: [], name: '', mountPoint: join(root, 'unified') }];
}

function open(mode: 'hybrid' | 'v1' | 'v2', path = '/pods/a'): CgroupFigures {
  const marks = { set() {}, has: () => false };
  return new FigureFiles(new CgroupTree(hierarchies(mode), marks), files, ['2MB', '1GB']).of(path);
}

describe('figures of cgroup v1', () => {
  it('count what BFQ has scheduled, where it does', () => {
    const bfq = (what: string, text: string): Record<string, string> => ({
      [`blkio/pods/a/blkio.bfq.${what}_recursive`]: text,
    });
    write({ ...V1, ...bfq('io_service_bytes', 'Total 0\n'), ...bfq('io_serviced', 'Total 0\n') });
    const figures = open('v1');
    assert.deepEqual(figures.details().devices, DEVICES, 'it schedules no disk here');
    write({
      ...V1,
      ...bfq('io_service_bytes', '8:0 Read 7\n8:0 Write 8\n8:0 Total 15\nTotal 15\n'),
      ...bfq('io_serviced', '8:0 Read 2\n8:0 Write 3\nTotal 5\n'),
    });
    const counted = { major: 8, minor: 0, readBytes: 7, writtenBytes: 8, reads: 2, writes: 3 };
    assert.deepEqual(figures.details().devices, [counted]);
    figures.close();
  });

  it('are what the files say, with pressure from the cgroup2 mount', () => {
    write(V1);
    const figures = open('hybrid');
    const full = { avg10: 0.5, avg60: 0, avg300: 0, totalUs: 40 };
    assert.deepEqual(figures.usage(), {
      cpuNanos: 1_536_271_418,
      memory: { ...MEMORY, limitBytes: 67_108_864 },
      swap: { usageBytes: 8192, limitBytes: 33_554_432 },
      tasks: 7,
      cpuPressure: { some: { avg10: 1, avg60: 2, avg300: 3, totalUs: 400 }, full },
      memoryPressure: undefined,
      ioPressure: undefined,
    });
    assert.deepEqual(figures.details(), {
      cpu: {
        userNanos: 1_400_000_000,
        systemNanos: 136_271_418,
        periods: 40,
        throttledPeriods: 12,
        throttledNanos: 987_654_321,
      },
      memory: {
        cacheBytes: 33_554_432,
        kernelBytes: 1_048_576,
        mappedFileBytes: 4096,
        activeFileBytes: 12_582_912,
        inactiveFileBytes: 20_971_520,
        maxUsageBytes: 60_000_000,
        limitHits: 3,
        ownPageFaults: 500,
        ownMajorPageFaults: 5,
      },
      maxTasks: Number.POSITIVE_INFINITY,
      devices: DEVICES,
      hugepages: [{ pageSize: '2MB', usageBytes: 4_194_304, maxUsageBytes: undefined }],
    });
    assert.deepEqual(figures.pids(), [101, 102]);
    figures.close();
  });

  it('have no pressure without a cgroup2 mount, and no swap where the kernel does not count it', () => {
    const { 'memory/pods/a/memory.memsw.limit_in_bytes': _, ...content } = V1;
    write(content);
    const figures = open('v1');
    assert.equal(figures.usage()?.cpuPressure, undefined);
    assert.equal(figures.usage()?.swap, undefined);
    figures.close();
  });

  it('take the own hierarchy of huge pages where there is one', () => {
    write({
      ...V1,
      'hugetlb/pods/a/hugetlb.1GB.usage_in_bytes': '0\n',
      'hugetlb/pods/a/hugetlb.1GB.max_usage_in_bytes': '1073741824\n',
    });
    const own = { version: 1, controllers: ['hugetlb'], name: '', mountPoint: join(root, 'hugetlb') } as const;
    const tree = new CgroupTree([...hierarchies('v1'), own], { set() {}, has: () => false });
    const figures = new FigureFiles(tree, files, ['2MB', '1GB']).of('/pods/a');
    assert.deepEqual(figures.details().hugepages, [{ pageSize: '1GB', usageBytes: 0, maxUsageBytes: 1 << 30 }]);
    figures.close();
  });
});

describe('figures of cgroup v2', () => {
  it('are what the files say', () => {
    write(V2);
    const figures = open('v2');
    const full = { avg10: 0, avg60: 0, avg300: 0, totalUs: 0 };
    assert.deepEqual(figures.usage(), {
      cpuNanos: 1_536_271_000,
      memory: { ...MEMORY, limitBytes: Number.POSITIVE_INFINITY },
      swap: { usageBytes: 8192, limitBytes: 33_554_432 },
      tasks: 7,
      cpuPressure: { some: { avg10: 1, avg60: 2, avg300: 3, totalUs: 400 }, full },
      memoryPressure: undefined,
      ioPressure: undefined,
    });
    assert.deepEqual(figures.details(), {
      cpu: {
        userNanos: 1_400_000_000,
        systemNanos: 136_271_000,
        periods: 40,
        throttledPeriods: 12,
        throttledNanos: 987_654_000,
      },
      memory: {
        cacheBytes: 33_554_432,
        kernelBytes: 1_048_576,
        mappedFileBytes: 4096,
        activeFileBytes: 12_582_912,
        inactiveFileBytes: 20_971_520,
        maxUsageBytes: 60_000_000,
        limitHits: 3,
        ownPageFaults: 700,
        ownMajorPageFaults: 7,
      },
      maxTasks: 100,
      devices: DEVICES,
      hugepages: [{ pageSize: '2MB', usageBytes: 4_194_304, maxUsageBytes: undefined }],
    });
    assert.deepEqual(figures.pids(), [101, 102]);
    figures.close();
  });

  it('of a cgroup without controllers are processor time alone', () => {
    write({ 'pods/a/cpu.stat': 'usage_usec 5\nuser_usec 3\nsystem_usec 2\n' });
    const figures = open('v2');
    const usage = figures.usage();
    assert.equal(usage?.cpuNanos, 5000);
    assert.deepEqual([usage?.memory, usage?.swap, usage?.tasks], [undefined, undefined, undefined]);
    assert.deepEqual(figures.details().cpu, {
      userNanos: 3000,
      systemNanos: 2000,
      periods: 0,
      throttledPeriods: 0,
      throttledNanos: 0,
    });
    figures.close();
  });

  it('sum up kernel memory where Linux before 5.18 does not', () => {
    write({ ...V2, 'pods/a/memory.stat': 'anon 1\nkernel_stack 10\nslab 20\npagetables 30\nsock 5\n' });
    const figures = open('v2');
    assert.equal(figures.details().memory?.kernelBytes, 60);
    figures.close();
  });
});

for (const [mode, content, usageFile] of [
  ['hybrid', V1, 'memory/pods/a/memory.usage_in_bytes'],
  ['v2', V2, 'pods/a/memory.current'],
] as const) {
  describe(`figures on ${mode}`, () => {
    it('have a working set that is never negative', () => {
      write({ ...content, [usageFile]: '100\n' });
      const figures = open(mode);
      assert.equal(figures.usage()?.memory?.workingSetBytes, 0);
      figures.close();
    });

    it('of a cgroup that is gone are none', () => {
      const figures = open(mode);
      assert.equal(figures.usage(), undefined);
      const { devices, hugepages, ...rest } = figures.details();
      assert.deepEqual([devices, hugepages, figures.pids()], [[], [], []]);
      assert.deepEqual(rest, { cpu: undefined, memory: undefined, maxTasks: undefined });
      figures.close();
    });

    it('of files that are cut, empty or garbage are not known, and never throw', () => {
      for (const damage of [(text: string) => text.slice(0, -5), () => '', () => 'x\0y\n', () => '-7\n']) {
        write(Object.fromEntries(Object.entries(content).map(([path, text]) => [path, damage(text)])));
        const figures = open(mode);
        const usage = figures.usage();
        figures.details();
        for (const value of [usage?.cpuNanos, usage?.tasks, usage?.memory?.workingSetBytes])
          assert.ok(value === undefined || value >= 0, `${value}`);
        figures.close();
      }
    });

    it('count the processes of cgroups below', () => {
      const folder = mode === 'v2' ? 'pods/a' : 'pids/pods/a';
      write({ ...content, [`${folder}/inner/cgroup.procs`]: '103\n', [`${folder}/inner/deep/cgroup.procs`]: '104\n' });
      const figures = open(mode);
      assert.deepEqual(figures.pids(), [101, 102, 103, 104]);
      figures.close();
    });
  });
}
