/** What pods and containers are said to use is what they do use: burners, eaters, writers and talkers. */

import assert from 'node:assert/strict';
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { basename, join } from 'node:path';
import { after, afterEach, before, describe as suite, test } from 'node:test';

import { status } from '@grpc/grpc-js';

import {
  type ContainerStats,
  ImageServiceService as images,
  ListContainerStatsRequest,
  ListPodSandboxStatsRequest,
  MetricType,
  NamespaceMode,
  type PodSandboxMetrics,
  type PodSandboxStats,
  RuntimeServiceService as runtime,
  StreamContainerStatsRequest,
  StreamPodSandboxStatsRequest,
  UpdateContainerResourcesRequest,
} from '../../proto/gen/cri/api.ts';
import type { Method } from '../harness/cri-connection.ts';
import { eventually } from '../harness/cri-lab.ts';
import { PodLab } from '../harness/pod-lab.ts';

const MIB = 1024 * 1024;
/** What a program that never waits gets of a core at least, however busy the machine is. */
const BUSY_NANO_CORES = 20_000_000n;
const script = (text: string) => ({ command: ['/bin/sh', '-c', text] });
const limited = (memoryLimitInBytes: bigint) => ({ linux: { resources: { memoryLimitInBytes } } });
const num = (value: { value: bigint } | undefined): number => {
  assert.ok(value, 'it is told');
  return Number(value.value);
};

for (const handler of ['runc', 'crun'] as const) {
  suite(`statistics of containers by ${handler}`, { timeout: 200_000 }, () => {
    let lab: PodLab;
    /** A pod with a cgroup that is its alone, as the kubelet makes them. */
    let pod: string;
    let ownCgroup: string;

    before(async () => {
      lab = await PodLab.start({ config: `[runtime]\ndefault_runtime = "${handler}"` });
      const namespaceOptions = { pid: NamespaceMode.CONTAINER };
      ownCgroup = `/${basename(lab.berthd.state)}-own`;
      pod = await lab.runPod(
        lab.podConfig({ linux: { cgroupParent: ownCgroup, securityContext: { namespaceOptions } } }),
      );
    });
    afterEach(async (t) => {
      const { containers } = await lab.berthd.call(runtime.listContainers, { filter: undefined });
      await Promise.all(containers.map(({ id }) => lab.berthd.call(runtime.removeContainer, { containerId: id })));
      await lab.afterTest(t, [pod]);
    });
    after(async () => await lab.close());

    type ContainerFilter = Parameters<typeof ListContainerStatsRequest.create>[0];
    type SandboxFilter = Parameters<typeof ListPodSandboxStatsRequest.create>[0];
    const list = async (request: ContainerFilter = {}): Promise<ContainerStats[]> =>
      (await lab.berthd.call(runtime.listContainerStats, ListContainerStatsRequest.create(request))).stats;
    const listPods = async (request: SandboxFilter = {}): Promise<PodSandboxStats[]> =>
      (await lab.berthd.call(runtime.listPodSandboxStats, ListPodSandboxStatsRequest.create(request))).stats;
    const statsOf = async (containerId: string): Promise<ContainerStats> => {
      const { stats } = await lab.berthd.call(runtime.containerStats, { containerId });
      assert.ok(stats);
      return stats;
    };
    const podStats = async (podSandboxId: string): Promise<PodSandboxStats> => {
      const { stats } = await lab.berthd.call(runtime.podSandboxStats, { podSandboxId });
      assert.ok(stats);
      return stats;
    };
    const metricsOf = async (podId: string): Promise<PodSandboxMetrics | undefined> =>
      (await lab.berthd.call(runtime.listPodSandboxMetrics, {})).podMetrics.find(
        ({ podSandboxId }) => podSandboxId === podId,
      );
    const stream = async <Request, Response>(method: Method<Request, Response>, request: Request) => {
      const answers: Response[] = [];
      for await (const answer of lab.berthd.open(method, request) as AsyncIterable<Response>) answers.push(answer);
      return answers;
    };
    const idsOf = (stats: readonly { attributes: { id: string } | undefined }[]): (string | undefined)[] =>
      stats.map(({ attributes }) => attributes?.id);

    test('a container that burns a core is seen burning it, and so is its pod', async () => {
      const idle = await lab.start(pod);
      const burner = await lab.start(pod, script('while :; do :; done'));
      const first = await statsOf(burner);
      const burning = await eventually('the burner has a rate', async () => {
        const found = (await list()).find(({ attributes }) => attributes?.id === burner);
        const cores = found?.cpu?.usageNanoCores;
        return cores && cores.value > BUSY_NANO_CORES ? found : undefined;
      });
      const rate = num(burning.cpu?.usageNanoCores);
      assert.ok(rate < 1.2e9, `${rate / 1e9} cores`);
      assert.ok(num(burning.cpu?.usageCoreNanoSeconds) > num(first.cpu?.usageCoreNanoSeconds));
      assert.ok((burning.cpu?.timestamp ?? 0n) > (first.cpu?.timestamp ?? 0n));
      assert.equal(burning.attributes?.metadata?.name, 'container-2');
      const whole = await eventually('the pod burns as much', async () => {
        const { linux } = await podStats(pod);
        const cores = linux?.cpu?.usageNanoCores;
        return cores && cores.value > BUSY_NANO_CORES ? linux : undefined;
      });
      const own = num(burning.cpu?.usageCoreNanoSeconds);
      assert.ok(num(whole.cpu?.usageCoreNanoSeconds) > own, 'the pod has used at least as much as its container');
      await eventually('the idle one is idle', async () => {
        const found = (await list({ filter: { id: idle } }))[0]?.cpu?.usageNanoCores;
        return (found !== undefined && found.value < BUSY_NANO_CORES / 10n) || undefined;
      });
      const before = num(whole.cpu?.usageCoreNanoSeconds);
      for (const containerId of [idle, burner]) await lab.berthd.call(runtime.removeContainer, { containerId });
      assert.ok(
        num((await podStats(pod)).linux?.cpu?.usageCoreNanoSeconds) >= before,
        'what has ended is not forgotten',
      );
    });

    test('two lists a second apart never tell the same', async () => {
      const id = await lab.start(pod);
      const timeOf = async () => (await list({ filter: { id } }))[0]?.cpu?.timestamp ?? 0n;
      for (let times = 0; times < 3; times++) {
        const earlier = await timeOf();
        assert.notEqual(earlier, 0n);
        await new Promise((resolve) => setTimeout(resolve, 1000));
        assert.ok((await timeOf()) > earlier);
      }
    });

    test('memory that a container fills is seen, and what is left below its limit', async () => {
      const limit = BigInt(64 * MIB);
      // The shell keeps 20 MB in a variable.
      const eater = await lab.start(pod, {
        ...script("x=$(head -c 20000000 /dev/zero | tr '\\0' x); sleep 1000; true"),
        ...limited(limit),
      });
      const { memory, swap, attributes } = await eventually('it has eaten', async () => {
        const stats = await statsOf(eater);
        return num(stats.memory?.rssBytes) > 20e6 ? stats : undefined;
      });
      assert.ok(memory && attributes);
      const workingSet = num(memory.workingSetBytes);
      assert.ok(workingSet > 20e6 && workingSet < 64 * MIB, `${workingSet} bytes`);
      assert.ok(num(memory.usageBytes) >= workingSet);
      assert.equal(num(memory.availableBytes), 64 * MIB - workingSet);
      assert.ok(num(memory.pageFaults) > 4000, 'at least one for each page');
      assert.ok(num(memory.majorPageFaults) >= 0);
      if (swap) assert.ok(num(swap.swapUsageBytes) >= 0 && num(swap.swapAvailableBytes) >= 0);
      const without = await lab.start(pod);
      assert.equal(num((await statsOf(without)).memory?.availableBytes), 0, 'nothing is left of no limit');
      const memoryOfPod = num((await podStats(pod)).linux?.memory?.workingSetBytes);
      assert.ok(memoryOfPod >= 20e6, `${memoryOfPod} bytes in the pod`);
      const update = { containerId: eater, linux: { memoryLimitInBytes: BigInt(96 * MIB) } };
      await lab.berthd.call(runtime.updateContainerResources, UpdateContainerResourcesRequest.create(update));
      const after = (await statsOf(eater)).memory;
      assert.equal(num(after?.availableBytes), 96 * MIB - num(after?.workingSetBytes));
    });

    test('what a container writes to its root is found, in bytes and files', async () => {
      const writer = await lab.start(pod, script('sleep 1000'));
      const empty = await statsOf(writer);
      assert.ok(num(empty.writableLayer?.usedBytes) < MIB, 'the first answer waits for the first walk');
      await lab.exec(
        writer,
        '/bin/sh',
        '-c',
        'mkdir /new; dd if=/dev/zero of=/new/large bs=1M count=5; cd /new; touch a b c d',
      );
      const { writableLayer } = await eventually(
        'the layer has grown',
        async () => {
          const found = (await list({ filter: { id: writer } }))[0];
          return num(found?.writableLayer?.usedBytes) > 5 * MIB ? found : undefined;
        },
        20_000,
      );
      assert.ok(num(writableLayer?.usedBytes) < 7 * MIB);
      assert.equal(num(writableLayer?.inodesUsed) - num(empty.writableLayer?.inodesUsed), 6);
      const info = await lab.berthd.call(images.imageFsInfo, {});
      assert.equal(writableLayer?.fsId?.mountpoint, info.containerFilesystems[0]?.fsId?.mountpoint);
      await lab.berthd.call(runtime.stopContainer, { containerId: writer, timeout: 0n });
      const stopped = await statsOf(writer);
      assert.equal(stopped.cpu, undefined, 'one that has ended uses no processor');
      assert.ok(num(stopped.writableLayer?.usedBytes) > 5 * MIB);
      assert.ok(!idsOf(await list()).includes(writer), 'and is in no list');
    });

    test('traffic is counted by interface, and processes with their pod', async () => {
      const talker = await lab.start(pod);
      const gateway = (await lab.exec(talker, 'ip', 'route')).match(/default via (\S+)/)?.[1] ?? '';
      const before = (await podStats(pod)).linux;
      assert.equal(before?.network?.defaultInterface?.name, 'eth0');
      assert.deepEqual(before?.network?.interfaces, [], 'loopback is none');
      await lab.exec(talker, 'ping', '-c', '5', '-i', '0.01', '-s', '1000', gateway);
      const after = (await podStats(pod)).linux;
      for (const key of ['rxBytes', 'txBytes'] as const) {
        const grown = num(after?.network?.defaultInterface?.[key]) - num(before?.network?.defaultInterface?.[key]);
        assert.ok(grown >= 5000 && grown < 50_000, `${key} grew by ${grown}`);
      }
      assert.equal(num(after?.network?.defaultInterface?.rxErrors), 0);
      const processes = async (count: number): Promise<void> => {
        await eventually(`the pod has ${count} processes`, async () => {
          const found = num((await podStats(pod)).linux?.process?.processCount);
          return found === count || undefined;
        });
      };
      // pause, a monitor, and sleep.
      await processes(3);
      await lab.start(pod, script('sleep 1000 & sleep 1001 & wait'));
      await processes(7);
    });

    test('a pod on the network of the host has no traffic of its own', async () => {
      const namespaceOptions = { network: NamespaceMode.NODE, pid: NamespaceMode.CONTAINER };
      const host = await lab.runPod(lab.podConfig({ linux: { securityContext: { namespaceOptions } } }));
      const { linux, windows } = await podStats(host);
      assert.equal(linux?.network, undefined);
      assert.equal(windows, undefined);
      assert.equal(num(linux?.process?.processCount), 1);
    });

    test('pods that share a cgroup have figures of their own', async () => {
      const [one, two] = [await lab.runPod(), await lab.runPod()];
      await lab.start(two);
      const eater = await lab.start(two, script("x=$(head -c 20000000 /dev/zero | tr '\\0' x); sleep 1000; true"));
      await eventually('it has eaten', async () => num((await statsOf(eater)).memory?.rssBytes) > 20e6 || undefined);
      const [small, large] = [await podStats(one), await podStats(two)];
      assert.ok(num(small.linux?.memory?.workingSetBytes) < 10e6);
      assert.ok(num(large.linux?.memory?.workingSetBytes) > 20e6);
      assert.equal(large.linux?.containers.length, 2);
    });

    test('filters hold together; what does not run is in no list; what is unknown is not found', async () => {
      const labels = { color: 'blue' };
      const second = await lab.runPod(lab.podConfig({ labels }));
      const [a, b] = [await lab.start(pod, { labels }), await lab.start(second, { labels: { color: 'red' } })];
      const created = await lab.create(pod);
      const ended = (await lab.run(pod, script('exit 0'))).id;
      const ask = async (filter: NonNullable<ContainerFilter>['filter']) => idsOf(await list({ filter })).toSorted();
      assert.deepEqual(await ask({}), [a, b].toSorted());
      assert.deepEqual(await ask({ id: a.slice(0, 12) }), [a]);
      assert.deepEqual(await ask({ podSandboxId: second.slice(0, 12) }), [b]);
      assert.deepEqual(await ask({ labelSelector: labels }), [a]);
      assert.deepEqual(await ask({ labelSelector: labels, podSandboxId: second }), []);
      assert.deepEqual(await ask({ id: created }), []);
      assert.deepEqual(await ask({ id: ended }), []);
      assert.deepEqual(idsOf(await listPods({ filter: { labelSelector: labels } })), [second]);
      assert.deepEqual(idsOf(await listPods({ filter: { id: pod.slice(0, 12) } })), [pod]);
      assert.deepEqual(idsOf((await listPods({ filter: { id: second } }))[0]?.linux?.containers ?? []), [b]);
      await lab.berthd.call(runtime.stopPodSandbox, { podSandboxId: second });
      assert.deepEqual(idsOf(await listPods()), [pod], 'a sandbox that was stopped is in no list');
      assert.equal((await podStats(second)).linux?.cpu, undefined);
      const gone = 'f'.repeat(64);
      assert.equal((await lab.berthd.fails(runtime.containerStats, { containerId: gone })).code, status.NOT_FOUND);
      assert.equal((await lab.berthd.fails(runtime.podSandboxStats, { podSandboxId: gone })).code, status.NOT_FOUND);
    });

    test('the streams tell what the lists tell', async () => {
      const ids = [await lab.start(pod), await lab.start(pod)];
      const lists = [idsOf(await list()), idsOf(await listPods())];
      const filter = { id: '', podSandboxId: '', labelSelector: {} };
      const containers = await stream(runtime.streamContainerStats, StreamContainerStatsRequest.create({ filter }));
      assert.deepEqual(idsOf(containers.flatMap(({ containerStats }) => containerStats)), lists[0]);
      const pods = await stream(runtime.streamPodSandboxStats, StreamPodSandboxStatsRequest.create());
      assert.deepEqual(idsOf(pods.flatMap(({ podSandboxStats }) => podSandboxStats)), lists[1]);
      const metrics = await stream(runtime.streamPodSandboxMetrics, {});
      const streamed = metrics.flatMap(({ podSandboxMetrics }) => podSandboxMetrics);
      assert.deepEqual(
        streamed.map(({ podSandboxId }) => podSandboxId),
        [pod],
      );
      assert.deepEqual(streamed[0]?.containerMetrics.map(({ containerId }) => containerId).toSorted(), ids.toSorted());
    });

    test('every metric is described, has its labels, and comes once', async () => {
      const { descriptors } = await lab.berthd.call(runtime.listMetricDescriptors, {});
      const keysOf = new Map(descriptors.map(({ name, labelKeys }) => [name, labelKeys]));
      assert.equal(keysOf.size, descriptors.length);
      for (const { name, help, labelKeys } of descriptors) {
        assert.match(name, /^container_[a-z_]+$/);
        assert.ok(help.length > 10 && labelKeys.length >= 6, name);
      }
      const id = await lab.start(pod, {
        ...script('echo x > /data; sync; exec sleep 1000'),
        linux: {
          resources: { cpuPeriod: 100_000n, cpuQuota: 20_000n, cpuShares: 512n, memoryLimitInBytes: 64n << 20n },
        },
      });
      await lab.exec(id, 'ip', 'addr');
      const found = await eventually('the layer was walked', async () => {
        const metrics = await metricsOf(pod);
        const names = metrics?.containerMetrics[0]?.metrics.map(({ name }) => name) ?? [];
        return names.includes('container_fs_usage_bytes') ? metrics : undefined;
      });
      const [container] = found.containerMetrics;
      assert.equal(container?.containerId, id);
      const all = [...found.metrics, ...(container?.metrics ?? [])];
      const seen = new Set<string>();
      for (const { name, labelValues, timestamp, value } of all) {
        assert.equal(labelValues.length, keysOf.get(name)?.length, name);
        const key = [name, ...labelValues].join('|');
        assert.ok(!seen.has(key), `twice: ${key}`);
        seen.add(key);
        assert.ok(timestamp > 0n && value, name);
      }
      const names = new Set(all.map(({ name }) => name));
      const missing = descriptors.map(({ name }) => name).filter((name) => !names.has(name));
      // What the kernel of the host, its disk or its cgroup version may not tell.
      const optional = /^container_(blkio|fs_(reads|writes)|pressure|hugetlb)_/;
      assert.deepEqual(
        missing.filter((name) => !optional.test(name)),
        [],
      );
      const figure = (name: string): number => {
        const metric = all.find((candidate) => candidate.name === name);
        assert.ok(metric?.value, name);
        return Number(metric.value.value);
      };
      const { attributes } = await statsOf(id);
      const labels = all.find(({ name }) => name === 'container_memory_rss')?.labelValues;
      assert.deepEqual([labels?.[0], labels?.[3], labels?.[5]], [id, 'test', attributes?.metadata?.name]);
      assert.equal(figure('container_spec_cpu_quota'), 20_000);
      assert.equal(figure('container_spec_cpu_shares'), 512);
      assert.equal(figure('container_spec_memory_limit_bytes'), 64 * MIB);
      assert.equal(figure('container_processes'), 1);
      assert.equal(figure('container_threads'), 1);
      assert.ok(figure('container_file_descriptors') >= 3);
      assert.ok(figure('container_ulimits_soft') > 0);
      assert.ok(Math.abs(figure('container_last_seen') - Date.now() / 1000) < 10);
      assert.ok(figure('container_memory_max_usage_bytes') >= figure('container_memory_rss'));
      assert.ok(figure('container_network_receive_bytes_total') > 0);
      const types = new Map(all.map(({ name, metricType }) => [name, metricType]));
      assert.equal(types.get('container_memory_rss'), MetricType.GAUGE);
      assert.equal(types.get('container_network_receive_bytes_total'), MetricType.COUNTER);
    });

    test('lists go on while containers come and go, and nothing is kept of those that went', async () => {
      let isOver = false;
      const churn = (async () => {
        for (let times = 0; times < 8; times++) {
          const ids = await Promise.all([lab.start(pod, script('sleep 1000')), lab.start(pod, script('exit 0'))]);
          await Promise.all(ids.map((containerId) => lab.berthd.call(runtime.removeContainer, { containerId })));
        }
      })().finally(() => {
        isOver = true;
      });
      let lists = 0;
      for (; !isOver; lists++)
        await Promise.all([list(), listPods(), lab.berthd.call(runtime.listPodSandboxMetrics, {})]);
      await churn;
      assert.ok(lists > 8, `${lists} lists`);
      assert.deepEqual(await list(), []);
      const open = readdirSync(`/proc/${lab.berthd.pid}/fd`).flatMap((fd) => {
        try {
          const target = readlinkSync(join(`/proc/${lab.berthd.pid}/fd`, fd));
          return target.startsWith('/sys/fs/cgroup') ? target : [];
        } catch {
          return [];
        }
      });
      const left = open.filter((file) => !file.includes(pod) && !new RegExp(`${ownCgroup}/[^/]+$`).test(file));
      assert.deepEqual(left, [], 'files of containers that went are closed');
      assert.ok(open.length > 0, 'those of the pod are open');
      assert.doesNotMatch(readFileSync(lab.berthd.logFile, 'utf8'), /"level":"error"/);
    });
  });
}
