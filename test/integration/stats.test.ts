/** What pods and containers are said to use is what they do use: burners, eaters, writers and talkers. */

import assert from 'node:assert/strict';
import { existsSync, globSync, readdirSync, readFileSync, readlinkSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
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
import { readMounts } from '../../src/sys/mount.ts';
import type { Method } from '../harness/cri-connection.ts';
import { eventually } from '../harness/cri-lab.ts';
import { patient } from '../harness/patience.ts';
import { PodLab } from '../harness/pod-lab.ts';
import { mountHugetlb } from './runtime-lab.ts';

const MIB = 1024 * 1024;
/** What a program that never waits gets of a core at least, however busy the machine is. */
const BUSY_NANO_CORES = 20_000_000n;
/** Keeps 24 MiB, which the kernel fills, because nobody reads what dd would write. */
const EATER = 'dd if=/dev/zero bs=24M count=1 | sleep 1000';
/** What every metric is labelled with, then those with labels of their own. */
const BASE_LABELS = ['id', 'name', 'image', 'namespace', 'pod', 'container'];
const METRICS: Readonly<Record<string, readonly string[]>> = {
  ...Object.fromEntries(
    `cpu_user_seconds_total cpu_system_seconds_total cpu_cfs_periods_total cpu_cfs_throttled_periods_total
    cpu_cfs_throttled_seconds_total fs_inodes_free fs_inodes_total fs_limit_bytes fs_usage_bytes memory_cache memory_rss
    memory_kernel_usage memory_mapped_file memory_swap memory_failcnt memory_usage_bytes memory_max_usage_bytes
    memory_working_set_bytes memory_total_active_file_bytes memory_total_inactive_file_bytes file_descriptors processes
    sockets threads threads_max oom_events_total last_seen start_time_seconds spec_memory_limit_bytes
    spec_memory_reservation_limit_bytes spec_memory_swap_limit_bytes spec_cpu_period spec_cpu_quota spec_cpu_shares
    pressure_cpu_stalled_seconds_total pressure_cpu_waiting_seconds_total pressure_memory_stalled_seconds_total
    pressure_memory_waiting_seconds_total pressure_io_stalled_seconds_total pressure_io_waiting_seconds_total`
      .split(/\s+/)
      .map((name) => [`container_${name}`, []]),
  ),
  ...Object.fromEntries(
    ['receive', 'transmit'].flatMap((way) =>
      ['bytes', 'packets', 'packets_dropped', 'errors'].map((what) => [
        `container_network_${way}_${what}_total`,
        ['interface'],
      ]),
    ),
  ),
  ...Object.fromEntries(
    ['reads_bytes', 'reads', 'writes_bytes', 'writes'].map((what) => [`container_fs_${what}_total`, ['device']]),
  ),
  container_cpu_usage_seconds_total: ['cpu'],
  container_memory_failures_total: ['failure_type', 'scope'],
  container_blkio_device_usage_total: ['device', 'major', 'minor', 'operation'],
  container_hugetlb_usage_bytes: ['pagesize'],
  container_hugetlb_max_usage_bytes: ['pagesize'],
  container_ulimits_soft: ['ulimit'],
};
/** What a file says, which the kernel may not let us read; for messages. */
const readable = (file: string): string => {
  try {
    return readFileSync(file, 'utf8').trim();
  } catch (err) {
    return String(err);
  }
};
const script = (text: string) => ({ command: ['/bin/sh', '-c', text] });
const limited = (memoryLimitInBytes: bigint) => ({ linux: { resources: { memoryLimitInBytes } } });
const num = (value: { value: bigint } | undefined): number => {
  assert.ok(value, 'it is told');
  return Number(value.value);
};

/** Puts a container's only process back where berthd is, and takes its cgroups away. */
function loseCgroup(pid: number, containerId: string): void {
  for (const { mountPoint, type } of readMounts()) {
    if (!type.startsWith('cgroup')) continue;
    const [folder] = globSync(join(mountPoint, `**/berth-${containerId}*`));
    if (folder === undefined) continue;
    writeFileSync(join(mountPoint, 'cgroup.procs'), String(pid));
    try {
      rmdirSync(folder);
    } catch (err) {
      // A scope that is empty systemd removes by itself.
      if (!(err instanceof Error && 'code' in err && err.code === 'ENOENT')) throw err;
    }
  }
}

// Once for all suites: each is described before the first one runs.
const hugetlb = mountHugetlb();
after(() => hugetlb?.[Symbol.asyncDispose]());

for (const handler of ['runc', 'crun'] as const) {
  suite(`statistics of containers by ${handler}`, { timeout: patient(900_000) }, () => {
    let lab: PodLab;
    /** A pod with a cgroup that is its alone, as the kubelet makes them. */
    let pod: string;
    let ownCgroup: string;

    before(async () => {
      lab = await PodLab.start({ config: `[runtime]\ndefault_runtime = "${handler}"` });
      const namespaceOptions = { pid: NamespaceMode.CONTAINER };
      ownCgroup = lab.parentBelow('own');
      pod = await lab.runPod(
        lab.podConfig({ linux: { cgroupParent: ownCgroup, securityContext: { namespaceOptions } } }),
      );
    });
    afterEach(async (t) => {
      const { containers } = await lab.berthd.call(runtime.listContainers, { filter: undefined });
      await Promise.all(containers.map(({ id }) => lab.berthd.call(runtime.removeContainer, { containerId: id })));
      await lab.afterTest(t, [pod]);
    });
    after(() => lab.close());

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
      const eater = await lab.start(pod, {
        ...script(EATER),
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
      assert.ok(num(memory.pageFaults) >= 10, 'at least one for each page, be they huge ones');
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
      const eater = await lab.start(two, script(EATER));
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
        ...script('echo x > /data; exec sleep 1000'),
        linux: {
          resources: { cpuPeriod: 100_000n, cpuQuota: 20_000n, cpuShares: 512n, memoryLimitInBytes: 64n << 20n },
        },
      });
      await lab.exec(id, 'ip', 'addr');
      const found = await eventually('the layer was walked, and the shell has become sleep', async () => {
        const metrics = await metricsOf(pod);
        const figures = metrics?.containerMetrics[0]?.metrics ?? [];
        const isWalked = figures.some(({ name }) => name === 'container_fs_usage_bytes');
        const processes = figures.find(({ name }) => name === 'container_processes');
        return isWalked && processes?.value?.value === 1n ? metrics : undefined;
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

    test('the metrics are those that cAdvisor has, by the same names and labels', async () => {
      const { descriptors } = await lab.berthd.call(runtime.listMetricDescriptors, {});
      const own = new Map(descriptors.map(({ name, labelKeys }) => [name, labelKeys.slice(BASE_LABELS.length)]));
      for (const { name, labelKeys } of descriptors)
        assert.deepEqual(labelKeys.slice(0, BASE_LABELS.length), BASE_LABELS, name);
      assert.deepEqual([...own.keys()].toSorted(), Object.keys(METRICS).toSorted());
      for (const [name, labels] of Object.entries(METRICS)) assert.deepEqual(own.get(name), labels, name);
    });

    test('who waits for a processor is seen waiting, where the kernel tells', async (t) => {
      const id = await lab.start(pod, {
        ...script('while :; do :; done & while :; do :; done & wait'),
        linux: { resources: { cpusetCpus: '0' } },
      });
      const cgroup = readFileSync(`/proc/${(await lab.info(id)).pid}/cgroup`, 'utf8').match(/^0::(.*)$/m)?.[1];
      const mount = existsSync('/sys/fs/cgroup/cgroup.controllers') ? '/sys/fs/cgroup' : '/sys/fs/cgroup/unified';
      if (!cgroup?.includes(id) || !existsSync(join(mount, cgroup, 'cpu.pressure'))) {
        assert.equal((await statsOf(id)).cpu?.psi, undefined);
        t.skip('the kernel does not tell the pressure of this container');
        return;
      }
      const { cpu, memory, io } = await eventually('two loops on one processor wait', async () => {
        const stats = await statsOf(id);
        return (stats.cpu?.psi?.Some?.Total ?? 0n) > 50_000_000n ? stats : undefined;
      });
      assert.ok(cpu?.psi?.Some && cpu.psi.Full && memory?.psi?.Some && io?.psi?.Some);
      assert.ok(cpu.psi.Some.Total <= BigInt(Date.now()) * 1_000_000n && cpu.psi.Full.Total <= cpu.psi.Some.Total);
      for (const { Avg10, Avg60, Avg300 } of [cpu.psi.Some, cpu.psi.Full, memory.psi.Some, io.psi.Some])
        for (const share of [Avg10, Avg60, Avg300]) assert.ok(share >= 0 && share <= 100);
      const waiting = await eventually('the metrics say so too', async () => {
        const metrics = (await metricsOf(pod))?.containerMetrics[0]?.metrics ?? [];
        return metrics.find(
          ({ name, value }) => name === 'container_pressure_cpu_waiting_seconds_total' && value?.value,
        );
      });
      assert.equal(waiting.metricType, MetricType.COUNTER);
    });

    test('what a container writes to a device is counted by device', async (t) => {
      const id = await lab.start(pod, script('sleep 1000'));
      const wrote = await lab.tryExec(id, 'dd', 'if=/dev/zero', 'of=/file', 'bs=1M', 'count=4', 'oflag=direct');
      if (wrote.exitCode !== 0) return t.skip('this file system knows no direct writes');
      const isCounted = globSync([
        `/sys/fs/cgroup/blkio${lab.cgroupOf(id, ownCgroup)}/blkio.*.io_service_bytes_recursive`,
        `/sys/fs/cgroup${lab.cgroupOf(id, ownCgroup)}/io.stat`,
      ]).some((file) => /^\d+:\d+ /m.test(readFileSync(file, 'utf8')));
      if (!isCounted) return t.skip('this kernel does not count what a cgroup writes to its disk');
      const metrics = await eventually('four megabytes are there', async () => {
        const all =
          (await metricsOf(pod))?.containerMetrics.find(({ containerId }) => containerId === id)?.metrics ?? [];
        const written = all.filter(({ name }) => name === 'container_fs_writes_bytes_total');
        return written.some((metric) => num(metric.value) >= 4 * MIB) ? all : undefined;
      });
      const device = metrics
        .find(({ name, value }) => name === 'container_fs_writes_bytes_total' && num(value) >= 4 * MIB)
        ?.labelValues.at(-1);
      assert.match(device ?? '', /^\/dev\/|^\d+:\d+$/);
      const count = metrics.find(
        ({ name, labelValues }) => name === 'container_fs_writes_total' && labelValues.at(-1) === device,
      );
      assert.ok(num(count?.value) >= 1);
      const usage = metrics.filter(({ name }) => name === 'container_blkio_device_usage_total');
      const written = usage.find(({ labelValues }) => labelValues[6] === device && labelValues.at(-1) === 'Write');
      assert.ok(num(written?.value) >= 4 * MIB);
      assert.match(written?.labelValues.slice(7, 9).join(':') ?? '', /^\d+:\d+$/);
    });

    test('huge pages are told by their size', {
      skip: hugetlb === undefined && 'this host cannot count them',
    }, async () => {
      const id = await lab.start(pod);
      const metrics = (await metricsOf(pod))?.containerMetrics.find(({ containerId }) => containerId === id)?.metrics;
      for (const wanted of ['container_hugetlb_usage_bytes', 'container_hugetlb_max_usage_bytes']) {
        const found = metrics?.find(({ name, labelValues }) => name === wanted && labelValues.at(-1) === '2MB');
        assert.equal(num(found?.value), 0, wanted);
      }
    });

    test('a process that is killed for lack of memory is counted', async () => {
      // The kernel fills dd's buffer at once, and takes it for its victim and not the shell, which waits.
      const id = await lab.start(pod, {
        ...script(
          '(echo 1000 > /proc/self/oom_score_adj; exec dd if=/dev/zero of=/dev/null bs=96M count=1); exec sleep 1000',
        ),
        ...limited(BigInt(24 * MIB)),
      });
      const isCounted = async (): Promise<true | undefined> => {
        const metrics = (await metricsOf(pod))?.containerMetrics.find(({ containerId }) => containerId === id)?.metrics;
        const killed = metrics?.find(({ name }) => name === 'container_oom_events_total')?.value;
        return (killed?.value ?? 0n) > 0n || undefined;
      };
      await eventually('the kernel has killed one', isCounted).catch(async (err: unknown) => {
        const { state, exitCode, reason, logPath } = await lab.status(id);
        const own = lab.cgroupOf(id, ownCgroup);
        const files = globSync([
          `/sys/fs/cgroup/memory${own}/memory.*`,
          `/sys/fs/cgroup${own}/{memory.*,cgroup.procs}`,
        ]);
        const facts = files.map((file) => `${file}: ${readable(file)}`).join('\n');
        throw new Error(`state ${state} ${exitCode} ${reason}\n${readable(logPath)}\n${facts}`, { cause: err });
      });
    });

    test('one whose cgroup is not to be read costs the others nothing', async () => {
      const [good, bad] = [await lab.start(pod), await lab.start(pod)];
      const { pid } = await lab.info(bad);
      loseCgroup(pid, bad);
      assert.deepEqual(idsOf(await list()), [good]);
      const whole = (await listPods())[0];
      assert.deepEqual(idsOf(whole?.linux?.containers ?? []), [good]);
      assert.ok(num(whole?.linux?.cpu?.usageCoreNanoSeconds) > 0);
      assert.deepEqual(
        (await metricsOf(pod))?.containerMetrics.map(({ containerId }) => containerId),
        [good],
      );
      const { cpu, writableLayer } = await statsOf(bad);
      assert.equal(cpu, undefined);
      assert.ok(writableLayer);
      process.kill(pid, 'SIGKILL');
    });

    test('a berthd that is started anew tells the same', async () => {
      const id = await lab.start(pod, script('while :; do :; done'));
      const before = num((await statsOf(id)).cpu?.usageCoreNanoSeconds);
      await lab.berthd.end('SIGKILL');
      await lab.berthd.start();
      const again = await eventually('it has a rate again', async () => {
        const found = (await list({ filter: { id } }))[0];
        return (found?.cpu?.usageNanoCores?.value ?? 0n) > BUSY_NANO_CORES ? found : undefined;
      });
      assert.ok(num(again.cpu?.usageCoreNanoSeconds) > before);
      await eventually('its layer is walked again', async () => (await list({ filter: { id } }))[0]?.writableLayer);
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
