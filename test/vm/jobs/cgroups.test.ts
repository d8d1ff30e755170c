/**
 * cgroup v2 with all its controllers, by the kernel's own files: limits and their changes, the OOM killer, pressure.
 * With either cgroup driver of berthd, and by each OCI runtime.
 */

import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { after, afterEach, before, describe as suite, test } from 'node:test';

import { status } from '@grpc/grpc-js';

import {
  CgroupDriver,
  ContainerStatsRequest,
  PodSandboxStatsRequest,
  RuntimeConfigRequest,
  RuntimeServiceService as runtime,
  UpdateContainerResourcesRequest,
  UpdatePodSandboxResourcesRequest,
} from '../../../proto/gen/cri/api.ts';
import { type ContainerFields, type CriLab, eventually } from '../../harness/cri-lab.ts';
import { answers, command, openNode, removeAllPods } from './node.ts';

const MIB = 2n ** 20n;
const ROOT = '/sys/fs/cgroup';
const SLOW_MS = 180_000;
/** Shells that take memory until there is none left. */
const HOG = 'x=a; while :; do x=$x$x; done';
/** How often the OOM killer must be noticed, in a row. */
const OOM_TIMES = 5;

type Limits = NonNullable<NonNullable<ContainerFields['linux']>['resources']>;

suite('cgroup v2', { skip: existsSync(`${ROOT}/cgroup.controllers`) ? false : 'the host has cgroup v1' }, () => {
  let node: CriLab & Disposable;
  let isSystemd: boolean;
  let parent: string;

  before(async () => {
    node = openNode('cgroups');
    await answers(node);
    const { linux } = await node.client.call(runtime.runtimeConfig, RuntimeConfigRequest.create());
    isSystemd = linux?.cgroupDriver === CgroupDriver.SYSTEMD;
    parent = isSystemd ? '/vmtest.slice/vmtest-pod1.slice' : '/vmtest/pod1';
  });
  afterEach(() => removeAllPods(node));
  after(() => node[Symbol.dispose]());

  const read = (path: string, file: string): string => readFileSync(`${ROOT}${path}/${file}`, 'utf8').trim();
  const cgroupOf = (id: string): string => `${parent}/berth-${id}${isSystemd ? '.scope' : ''}`;
  /** A property of a unit, where there are units. */
  const property = (unit: string, name: string): string =>
    command('systemctl', 'show', '--value', `--property=${name}`, unit);
  const update = (containerId: string, linux: Limits): UpdateContainerResourcesRequest =>
    UpdateContainerResourcesRequest.create({ containerId, linux });
  const runPod = async (resources?: Limits): Promise<string> =>
    await node.runPod(node.podConfig({ linux: { cgroupParent: parent, ...(resources ? { resources } : {}) } }));

  for (const handler of ['crun', 'runc']) {
    test(`limits of a container are the kernel's, and follow its updates (${handler})`, async () => {
      node.handler = handler;
      const pod = await runPod();
      const limits = { memoryLimitInBytes: 64n * MIB, cpuShares: 1024n, cpuQuota: 50_000n, cpuPeriod: 100_000n };
      const unified = { 'memory.high': String(48n * MIB), 'pids.max': '77' };
      const id = await node.start(pod, { linux: { resources: { ...limits, unified } } });
      const limit = (file: string): string => read(cgroupOf(id), file);
      // Nothing is below it with limits of its own, which neither cAdvisor nor statistics would see.
      assert.deepEqual(
        readdirSync(`${ROOT}${cgroupOf(id)}`, { withFileTypes: true }).filter((entry) => entry.isDirectory()),
        [],
      );
      const { stats } = await node.client.call(runtime.containerStats, { containerId: id });
      const { availableBytes, workingSetBytes } = stats?.memory ?? {};
      assert.equal((availableBytes?.value ?? 0n) + (workingSetBytes?.value ?? 0n), 64n * MIB);
      if (isSystemd) command('systemctl', 'daemon-reload');
      assert.equal(limit('memory.max'), String(64n * MIB));
      assert.equal(limit('memory.swap.max'), '0', 'no swap on top');
      assert.equal(limit('memory.high'), String(48n * MIB));
      assert.equal(limit('pids.max'), '77');
      assert.equal(limit('cpu.weight'), '39');
      assert.equal(limit('cpu.max'), '50000 100000');
      await node.client.call(
        runtime.updateContainerResources,
        update(id, { memoryLimitInBytes: 96n * MIB, cpuQuota: 20_000n, cpuPeriod: 100_000n, cpuShares: 2048n }),
      );
      if (isSystemd) command('systemctl', 'daemon-reload');
      assert.equal(limit('memory.max'), String(96n * MIB));
      assert.equal(limit('cpu.max'), '20000 100000');
      assert.equal(limit('cpu.weight'), '79');
      assert.equal(limit('memory.high'), String(48n * MIB));
      assert.equal(limit('pids.max'), '77');
      if (isSystemd) assert.equal(property(`berth-${id}.scope`, 'MemoryMax'), String(96n * MIB));
      const refused = await node.client.fails(
        runtime.updateContainerResources,
        update(id, { memoryLimitInBytes: 4096n }),
      );
      assert.equal(refused.code, status.FAILED_PRECONDITION, refused.details);
      await node.removePod(pod);
    });

    test(`processors, huge pages, swap and protected memory (${handler})`, async () => {
      node.handler = handler;
      const pod = await runPod();
      const id = await node.start(pod, {
        linux: {
          resources: {
            memoryLimitInBytes: 32n * MIB,
            memorySwapLimitInBytes: 48n * MIB,
            cpusetCpus: '0',
            cpusetMems: '0',
            hugepageLimits: [{ pageSize: '2MB', limit: 4n * MIB }],
            unified: { 'memory.low': String(8n * MIB) },
          },
        },
      });
      const limit = (file: string): string => read(cgroupOf(id), file);
      if (isSystemd) command('systemctl', 'daemon-reload');
      assert.equal(limit('memory.swap.max'), String(16n * MIB));
      assert.equal(limit('memory.low'), String(8n * MIB));
      assert.deepEqual([limit('cpuset.cpus'), limit('cpuset.mems')], ['0', '0']);
      assert.equal(limit('hugetlb.2MB.max'), String(4n * MIB));
      assert.equal(limit('pids.max'), 'max', "systemd's own limit for a scope does not count");
      await node.removePod(pod);
    });

    test(`the OOM killer's work is always noticed (${handler})`, async () => {
      node.handler = handler;
      const pod = await runPod();
      const resources = { memoryLimitInBytes: 24n * MIB };
      for (let round = 1; round <= OOM_TIMES; round++) {
        const id = await node.start(pod, { command: ['sh', '-c', HOG], linux: { resources } });
        const { exitCode, reason } = await ended(id);
        assert.deepEqual([exitCode, reason], [137, 'OOMKilled'], `round ${round}`);
      }
      const child = await node.start(pod, { command: ['sh', '-c', `sh -c '${HOG}'; exit 5`], linux: { resources } });
      assert.deepEqual(await reasonOf(child), [5, 'OOMKilled'], 'a child of the first process');
      const unified = { 'memory.oom.group': '1' };
      const group = await node.start(pod, {
        command: ['sh', '-c', `sh -c '${HOG}'; exit 5`],
        linux: { resources: { ...resources, unified } },
      });
      assert.deepEqual(await reasonOf(group), [137, 'OOMKilled'], 'all go together');
      await node.removePod(pod);
    });
  }

  test('limits of a pod are its slice or folder, follow its updates, and go with it', async () => {
    node.handler = '';
    const pod = await runPod({ memoryLimitInBytes: 128n * MIB, cpuShares: 512n });
    assert.equal(read(parent, 'memory.max'), String(128n * MIB));
    const resources = { memoryLimitInBytes: 192n * MIB, cpuQuota: 30_000n, cpuPeriod: 100_000n };
    const unified = { 'memory.high': String(160n * MIB), 'pids.max': '500' };
    await node.client.call(
      runtime.updatePodSandboxResources,
      UpdatePodSandboxResourcesRequest.create({ podSandboxId: pod, resources: { ...resources, unified } }),
    );
    command('systemctl', 'daemon-reload');
    const files = ['memory.max', 'memory.high', 'pids.max', 'cpu.max', 'cpu.weight'];
    const expected = [String(192n * MIB), String(160n * MIB), '500', '30000 100000', '20'];
    assert.deepEqual(
      files.map((file) => read(parent, file)),
      expected,
    );
    if (isSystemd) assert.equal(property('vmtest-pod1.slice', 'MemoryHigh'), String(160n * MIB));
    await node.removePod(pod);
    assert.equal(existsSync(`${ROOT}${parent}`), false);
    assert.equal(existsSync(`${ROOT}${parent.split('/').slice(0, 2).join('/')}`), false);
  });

  test('figures of pods and containers, with pressure', async () => {
    const pod = await runPod();
    const containerId = await node.start(pod, { command: ['sh', '-c', 'while :; do :; done & while :; do :; done'] });
    const waiting = await eventually(
      'two loops on one processor wait for it',
      async () => {
        const { stats } = await node.client.call(runtime.containerStats, ContainerStatsRequest.create({ containerId }));
        return (stats?.cpu?.psi?.Some?.Total ?? 0n) > 0n ? stats : undefined;
      },
      SLOW_MS,
    );
    assert.ok((waiting.cpu?.usageCoreNanoSeconds?.value ?? 0n) > 0n);
    assert.ok((waiting.memory?.workingSetBytes?.value ?? 0n) > 0n);
    assert.ok(waiting.memory?.psi?.Some && waiting.io?.psi?.Some);
    const { stats } = await node.client.call(
      runtime.podSandboxStats,
      PodSandboxStatsRequest.create({ podSandboxId: pod }),
    );
    assert.ok((stats?.linux?.process?.processCount?.value ?? 0n) >= 3n);
    assert.ok(stats?.linux?.cpu?.psi?.Some && stats.linux.memory?.psi?.Some);
    await node.removePod(pod);
  });

  async function ended(id: string) {
    return await eventually(
      `container ${id} ends`,
      async () => {
        const now = await node.status(id);
        return now.finishedAt > 0n ? now : undefined;
      },
      SLOW_MS,
    );
  }

  async function reasonOf(id: string): Promise<[number, string]> {
    const { exitCode, reason } = await ended(id);
    return [exitCode, reason];
  }
});
