import assert from 'node:assert/strict';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';

import { CgroupTree } from './cgroup-tree.ts';
import { CgroupfsDriver } from './cgroupfs-driver.ts';
import { weightOf } from './pod-limits.ts';

// A folder tree in place of a v2 mount: what the kernel would put into a new cgroup is written by hand.
let root: string;
let cgroups: CgroupfsDriver;
const none = new AbortController().signal;

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'berth-cgroups-'));
  writeFileSync(join(root, 'cgroup.controllers'), 'cpuset cpu io memory hugetlb pids rdma misc\n');
  writeFileSync(join(root, 'cgroup.subtree_control'), 'cpu memory\n');
  const marked = new Set<string>();
  const marks = { set: (folder: string) => void marked.add(folder), has: (folder: string) => marked.has(folder) };
  cgroups = new CgroupfsDriver(new CgroupTree([{ version: 2, controllers: [], name: '', mountPoint: root }], marks));
});
afterEach(() => rmSync(root, { recursive: true }));

test('v2: makes parent and cgroup, hands missing controllers down', async () => {
  const cgroup = await cgroups.createSandbox({ parent: '/pods/one', sandboxId: 'abc' });
  assert.deepEqual(cgroup, { driver: 'cgroupfs', path: '/pods/one/berth-abc', unit: '' });
  assert.equal(cgroups.mode, 'v2');
  assert.equal(
    readFileSync(join(root, 'cgroup.subtree_control'), 'utf8'),
    '+misc',
    'the last of those that were missing',
  );
  assert.deepEqual(cgroups.procsFiles(cgroup), [join(root, 'pods/one/berth-abc/cgroup.procs')]);
  assert.deepEqual(cgroups.threadPlacement(cgroup), { enter: [], leave: [], procs: cgroups.procsFiles(cgroup) });
});

test('v2: what has processes hands nothing down: what is below it would take none', async () => {
  const busy = join(root, 'busy');
  mkdirSync(busy);
  writeFileSync(join(busy, 'cgroup.type'), 'domain\n');
  writeFileSync(join(busy, 'cgroup.controllers'), 'cpu memory\n');
  writeFileSync(join(busy, 'cgroup.subtree_control'), '');
  writeFileSync(join(busy, 'cgroup.procs'), '7\n');
  await cgroups.createSandbox({ parent: '/busy', sandboxId: 'a' });
  assert.equal(readFileSync(join(busy, 'cgroup.subtree_control'), 'utf8'), '');
  writeFileSync(join(busy, 'cgroup.procs'), '');
  await cgroups.createSandbox({ parent: '/busy', sandboxId: 'b' });
  assert.equal(readFileSync(join(busy, 'cgroup.subtree_control'), 'utf8'), '+memory');
});

test('v2: pod limits go to a parent that Berth makes, in the units of v2', async () => {
  const resources = { cpuShares: 1024, cpuQuotaUs: 50_000, memoryLimitBytes: 1 << 20, hugepageLimits: [], unified: {} };
  await cgroups.createSandbox({ parent: '/own', sandboxId: 'a' });
  for (const file of ['cpu.weight', 'cpu.max', 'memory.max']) writeFileSync(join(root, 'own', file), 'max\n');
  await cgroups.createSandbox({ parent: '/own', sandboxId: 'a', resources });
  assert.equal(readFileSync(join(root, 'own/cpu.weight'), 'utf8'), '39');
  assert.equal(readFileSync(join(root, 'own/cpu.max'), 'utf8'), '50000 100000');
  assert.equal(readFileSync(join(root, 'own/memory.max'), 'utf8'), '1048576');
  mkdirSync(join(root, 'kubelets'));
  await cgroups.createSandbox({ parent: '/kubelets', sandboxId: 'a', resources });
  assert.ok(!existsSync(join(root, 'kubelets/cpu.max')), 'the limits of the kubelet stay');
});

test('v2: counts OOM kills, lists processes of the cgroup and below, and kills all at once', () => {
  const container = cgroups.container('/pods', 'c1');
  assert.equal(container.path, '/pods/berth-c1');
  assert.equal(cgroups.containerCgroupsPath('pods', 'c1'), '/pods/berth-c1');
  assert.throws(() => container.oomKills(), /cgroup \/pods\/berth-c1 is gone/);
  assert.deepEqual(container.pids(), []);
  const folder = join(root, 'pods/berth-c1');
  mkdirSync(join(folder, 'inner'), { recursive: true });
  writeFileSync(join(folder, 'memory.events'), 'low 0\nhigh 0\nmax 7\noom 3\noom_kill 2\noom_group_kill 0\n');
  writeFileSync(join(folder, 'cgroup.procs'), '10\n11\n');
  writeFileSync(join(folder, 'inner/cgroup.procs'), '0\n12\n');
  writeFileSync(join(folder, 'cgroup.kill'), '');
  assert.equal(container.oomKills(), 2);
  assert.deepEqual(container.pids(), [10, 11, 12], 'a process outside the PID namespace, 0, is left out');
  container.killAll();
  assert.equal(readFileSync(join(folder, 'cgroup.kill'), 'utf8'), '1');
});

test('a cgroup that is still in use cannot be removed, and the error says by whom', async () => {
  const cgroup = await cgroups.createSandbox({ parent: '', sandboxId: 'abc' });
  writeFileSync(join(root, 'berth/berth-abc/cgroup.procs'), `${process.pid}\n`);
  await assert.rejects(
    cgroups.removeSandbox(cgroup, none),
    new RegExp(`/berth/berth-abc cannot be removed.*process ${process.pid} \\(`),
  );
});

test('removing waits no longer than its signal', async () => {
  const cgroup = await cgroups.createSandbox({ parent: '', sandboxId: 'abc' });
  writeFileSync(join(root, 'berth/berth-abc/cgroup.procs'), `${process.pid}\n`);
  await assert.rejects(cgroups.removeSandbox(cgroup, AbortSignal.abort(new Error('enough'))), /enough/);
});

test('a cgroup that is gone is removed already', async () => {
  await cgroups.removeSandbox(cgroups.sandboxCgroup('/never/made', 'abc'), none);
});

test('shares become weights by the line that the runtimes use', () => {
  assert.deepEqual([2, 1024, 262_144, 0, 1e9].map(weightOf), [1, 39, 10_000, 1, 10_000]);
});
