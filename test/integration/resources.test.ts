/** Limits that change while containers run: through berthd and each OCI runtime, as their cgroups then have them. */

import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { after, afterEach, before, describe as suite, test } from 'node:test';

import { status } from '@grpc/grpc-js';

import {
  RuntimeServiceService as runtime,
  UpdateContainerResourcesRequest,
  UpdatePodSandboxResourcesRequest,
} from '../../proto/gen/cri/api.ts';
import { type ContainerFields, eventually } from '../harness/cri-lab.ts';
import { patient } from '../harness/patience.ts';
import { PodLab } from '../harness/pod-lab.ts';
import { mountHugetlb } from './runtime-lab.ts';

const MIB = 1n << 20n;
const IS_V2 = existsSync('/sys/fs/cgroup/cgroup.controllers');

type Limits = NonNullable<NonNullable<ContainerFields['linux']>['resources']>;

/** A file of a cgroup, by its name in v1 and in v2. */
function readCgroup(path: string, controller: string, v1: string, v2: string): string {
  const file = IS_V2 ? `/sys/fs/cgroup${path}/${v2}` : `/sys/fs/cgroup/${controller}${path}/${v1}`;
  return readFileSync(file, 'utf8').trim();
}

// Once for all suites: each is described before the first one runs.
const hugetlb = mountHugetlb();
after(() => hugetlb?.[Symbol.asyncDispose]());

for (const handler of ['runc', 'crun'] as const) {
  suite(`resources by ${handler}`, { timeout: patient(900_000) }, () => {
    let lab: PodLab;
    let pod: string;

    const path = (containerId: string): string => lab.cgroupOf(containerId);
    const memoryOf = (at: string): string => readCgroup(at, 'memory', 'memory.limit_in_bytes', 'memory.max');
    const update = async (containerId: string, linux: Limits): Promise<unknown> =>
      await lab.berthd.call(
        runtime.updateContainerResources,
        UpdateContainerResourcesRequest.create({ containerId, linux }),
      );
    const refusal = async (containerId: string, linux: Limits) =>
      await lab.berthd.fails(
        runtime.updateContainerResources,
        UpdateContainerResourcesRequest.create({ containerId, linux }),
      );
    const limitsOf = async (containerId: string) => (await lab.status(containerId)).resources?.linux;

    before(async () => {
      lab = await PodLab.start({ config: `[runtime]\ndefault_runtime = "${handler}"` });
      pod = await lab.runPod();
    });
    afterEach(async (t) => {
      await lab.afterTest(t, [pod]);
      const { containers } = await lab.berthd.call(runtime.listContainers, { filter: undefined });
      await Promise.all(containers.map(({ id }) => lab.berthd.call(runtime.removeContainer, { containerId: id })));
    });
    after(() => lab.close());

    test('a resize step by step, as the kubelet does it: one limit at a time, up and down', async () => {
      const id = await lab.start(pod, {
        linux: {
          resources: { memoryLimitInBytes: 64n * MIB, cpuQuota: 50_000n, cpuPeriod: 100_000n, cpuShares: 256n },
        },
      });
      await update(id, { cpuQuota: 150_000n, cpuPeriod: 100_000n });
      await update(id, { cpuShares: 1024n });
      await update(id, { memoryLimitInBytes: 128n * MIB });
      assert.equal(memoryOf(path(id)), String(128n * MIB));
      await update(id, { memoryLimitInBytes: 32n * MIB });
      assert.equal(memoryOf(path(id)), String(32n * MIB));
      const limits = await limitsOf(id);
      assert.deepEqual(
        [limits?.cpuQuota, limits?.cpuPeriod, limits?.cpuShares, limits?.memoryLimitInBytes],
        [150_000n, 100_000n, 1024n, 32n * MIB],
      );
      assert.equal(
        readCgroup(path(id), 'cpu', 'cpu.cfs_quota_us', 'cpu.max').split(' ')[0],
        '150000',
        'the quota is still what the first update said',
      );
      await update(id, { cpuQuota: -1n });
      assert.match(readCgroup(path(id), 'cpu', 'cpu.cfs_quota_us', 'cpu.max'), /^(-1$|max )/);
    });

    test('a container that is made without limits, in so many words', async () => {
      // The kubelet says so of a container that has processors of its own.
      const resources = {
        cpuQuota: -1n,
        cpuPeriod: 100_000n,
        memoryLimitInBytes: 64n * MIB,
        memorySwapLimitInBytes: -1n,
      };
      const id = await lab.start(pod, { linux: { resources } });
      assert.match(readCgroup(path(id), 'cpu', 'cpu.cfs_quota_us', 'cpu.max'), /^(-1$|max )/);
      assert.equal(memoryOf(path(id)), String(64n * MIB));
      assert.equal((await limitsOf(id))?.cpuQuota, -1n);
    });

    test('a memory limit below what the container uses is refused, and changes nothing', async () => {
      const id = await lab.start(pod, {
        command: ['/bin/sh', '-c', 'dd if=/dev/zero of=/dev/shm/x bs=1M count=24 && touch /dev/shm/full; sleep 1000'],
        linux: { resources: { memoryLimitInBytes: 256n * MIB } },
      });
      await eventually('the container has filled its memory', async () =>
        (await lab.tryExec(id, 'test', '-e', '/dev/shm/full')).exitCode === 0 ? true : undefined,
      );
      const { code, details } = await refusal(id, { memoryLimitInBytes: 8n * MIB, cpuShares: 77n });
      assert.equal(code, status.FAILED_PRECONDITION);
      assert.match(details, /memory_limit_in_bytes: 8388608 is less than the \d+ that container/);
      assert.equal(memoryOf(path(id)), String(256n * MIB));
      assert.equal((await limitsOf(id))?.memoryLimitInBytes, 256n * MIB);
      assert.notEqual((await limitsOf(id))?.cpuShares, 77n);
    });

    test("what makes no sense to the kernel is the client's mistake, and changes nothing", async () => {
      const id = await lab.start(pod, { linux: { resources: { memoryLimitInBytes: 64n * MIB } } });
      const mistakes: [Limits, RegExp][] = [
        [{ cpusetCpus: '4000' }, /cpuset.*\(this node has CPUs 0[-\d,]*\)/],
        [{ cpusetMems: '900' }, /cpuset/],
        [{ cpusetCpus: 'zero' }, /linux\.cpuset_cpus: "zero" is not a list/],
        [{ cpuPeriod: 10n }, /linux\.cpu_period: 10 is less than 1000/],
        [{ cpuQuota: 10n }, /linux\.cpu_quota: 10 is less than 1000/],
        [{ memoryLimitInBytes: -2n }, /linux\.memory_limit_in_bytes: -2 is less than -1/],
        [{ memoryLimitInBytes: 64n * MIB, memorySwapLimitInBytes: 1n }, /memory_swap_limit_in_bytes/],
        [{ hugepageLimits: [{ pageSize: 'two', limit: 1n }] }, /page_size: "two" is not a page size/],
        [{ oomScoreAdj: 1001n }, /oom_score_adj/],
        [{ unified: { '../memory.max': '1' } }, /unified/],
        [{ unified: { 'nothing.here': '1' } }, /unified/],
      ];
      for (const [linux, expected] of mistakes) {
        const { code, details } = await refusal(id, linux);
        assert.match(details, expected);
        assert.equal(code, status.INVALID_ARGUMENT, details);
      }
      assert.equal(memoryOf(path(id)), String(64n * MIB));
      const created = await lab.refused(pod, { linux: { resources: { cpusetCpus: '4000' } } });
      assert.equal(created.code, status.INVALID_ARGUMENT, created.details);
      assert.match(created.details, /cpuset_cpus: .*\(this node has CPUs 0[-\d,]*\)/);
    });

    test('processors, page sizes, swap and the OOM score follow', async () => {
      const id = await lab.start(pod, { linux: { resources: { memoryLimitInBytes: 64n * MIB } } });
      const { pid } = await lab.info(id);
      await update(id, {
        cpusetCpus: '0',
        cpusetMems: '0',
        oomScoreAdj: 700n,
        // What the kubelet sends on a machine with no such pages.
        hugepageLimits: [{ pageSize: '2MB', limit: 0n }],
      });
      assert.equal(readCgroup(path(id), 'cpuset', 'cpuset.cpus', 'cpuset.cpus'), '0');
      assert.equal(readFileSync(`/proc/${pid}/oom_score_adj`, 'utf8'), '700\n');
      const limits = await limitsOf(id);
      assert.deepEqual([limits?.cpusetCpus, limits?.oomScoreAdj], ['0', 700n]);
      assert.deepEqual(limits?.hugepageLimits, [{ pageSize: '2MB', limit: 0n }]);
      // Swap that was allowed stays allowed when the memory limit moves.
      await update(id, { memoryLimitInBytes: 64n * MIB, memorySwapLimitInBytes: 160n * MIB });
      await update(id, { memoryLimitInBytes: 96n * MIB });
      assert.equal((await limitsOf(id))?.memorySwapLimitInBytes, 160n * MIB);
      await update(id, { memoryLimitInBytes: 200n * MIB });
      assert.equal((await limitsOf(id))?.memorySwapLimitInBytes, 200n * MIB);
    });

    test('huge pages are limited anew, or all stays as it was', {
      skip: hugetlb === undefined && 'this host cannot limit huge pages',
    }, async () => {
      const file = (id: string): string =>
        readCgroup(path(id), 'hugetlb', 'hugetlb.2MB.limit_in_bytes', 'hugetlb.2MB.max');
      const pages = (mib: bigint) => [{ pageSize: '2MB', limit: mib * MIB }];
      const id = await lab.start(pod, { linux: { resources: { hugepageLimits: pages(2n) } } });
      assert.equal(file(id), String(2n * MIB));
      await update(id, { hugepageLimits: pages(8n), cpuShares: 300n });
      assert.equal(file(id), String(8n * MIB));
      await update(id, { cpuShares: 400n });
      assert.equal(file(id), String(8n * MIB), 'another limit leaves them');
      const refused = await refusal(id, { hugepageLimits: pages(4n), cpusetCpus: '4000' });
      assert.equal(refused.code, status.INVALID_ARGUMENT, refused.details);
      assert.equal(file(id), String(8n * MIB));
      assert.deepEqual((await limitsOf(id))?.hugepageLimits, pages(8n));
    });

    test('updates outlive berthd', async () => {
      const id = await lab.start(pod, { linux: { resources: { memoryLimitInBytes: 64n * MIB } } });
      await update(id, { memoryLimitInBytes: 80n * MIB, cpuShares: 300n });
      await lab.berthd.end('SIGKILL');
      await lab.berthd.start();
      const limits = await limitsOf(id);
      assert.deepEqual([limits?.memoryLimitInBytes, limits?.cpuShares], [80n * MIB, 300n]);
      assert.equal(memoryOf(path(id)), String(80n * MIB));
    });

    test('a pod that is updated: its cgroup, what is known of it, and the same request again', async () => {
      const parent = lab.parentBelow('mine');
      const fields = { linux: { cgroupParent: parent, resources: { memoryLimitInBytes: 128n * MIB } } };
      const config = lab.podConfig(fields);
      const id = await lab.runPod(config);
      assert.equal(memoryOf(parent), String(128n * MIB));
      const request = (fields: Parameters<typeof UpdatePodSandboxResourcesRequest.create>[0]) =>
        UpdatePodSandboxResourcesRequest.create({ podSandboxId: id, ...fields });
      await lab.berthd.call(
        runtime.updatePodSandboxResources,
        request({
          overhead: { cpuShares: 50n, memoryLimitInBytes: 16n * MIB },
          resources: { memoryLimitInBytes: 256n * MIB, cpuShares: 700n },
        }),
      );
      assert.equal(memoryOf(parent), String(272n * MIB), 'what the pod itself costs comes on top');
      const quota = (): string => readCgroup(parent, 'cpu', 'cpu.cfs_quota_us', 'cpu.max').split(' ')[0] ?? '';
      const overhead = { cpuQuota: 10_000n, cpuPeriod: 100_000n };
      await lab.berthd.call(
        runtime.updatePodSandboxResources,
        request({ overhead, resources: { cpuQuota: 20_000n, cpuPeriod: 100_000n } }),
      );
      assert.equal(quota(), '30000');
      // What a kubelet makes of "no limit" when the pod has an overhead.
      await lab.berthd.call(
        runtime.updatePodSandboxResources,
        request({ overhead, resources: { cpuQuota: -10_001n, cpuPeriod: 100_000n } }),
      );
      assert.match(quota(), /^(-1|max)$/);
      const known = (await lab.podStatus(id, true)).info['info'] ?? '';
      assert.match(known, /"memoryLimitBytes":268435456/);
      const refused = await lab.berthd.fails(
        runtime.updatePodSandboxResources,
        request({ resources: { cpusetCpus: '4000', memoryLimitInBytes: 64n * MIB } }),
      );
      assert.equal(refused.code, status.INVALID_ARGUMENT, refused.details);
      assert.equal(memoryOf(parent), String(272n * MIB), 'all or nothing');
      assert.equal(await lab.runPod(config), id);
      const unknown = await lab.berthd.fails(
        runtime.updatePodSandboxResources,
        UpdatePodSandboxResourcesRequest.create({ podSandboxId: 'nosuch' }),
      );
      assert.equal(unknown.code, status.NOT_FOUND);
      await lab.removePod(id);
    });
  });
}
