import assert from 'node:assert/strict';
import { after, afterEach, before, suite, test } from 'node:test';

import { kubeletMinor, NODE } from './kubelet.ts';
import { KubeletLab } from './kubelet-lab.ts';
import { until } from './until.ts';

interface Summary {
  readonly node: { readonly fs?: Usage; readonly runtime?: { readonly imageFs?: Usage; readonly containerFs?: Usage } };
  readonly pods: readonly PodFigures[];
}

interface Usage {
  readonly usedBytes?: number;
  readonly availableBytes?: number;
  readonly capacityBytes?: number;
}

interface PodFigures {
  readonly podRef: { readonly name: string };
  readonly cpu?: { readonly usageCoreNanoSeconds?: number };
  readonly memory?: { readonly workingSetBytes?: number };
  readonly network?: { readonly name?: string; readonly rxBytes?: number; readonly txBytes?: number };
  readonly process_stats?: { readonly process_count?: number };
  readonly volume?: readonly { readonly name: string; readonly usedBytes?: number }[];
  readonly containers?: readonly {
    readonly name: string;
    readonly cpu?: { readonly usageCoreNanoSeconds?: number; readonly usageNanoCores?: number };
    readonly memory?: { readonly workingSetBytes?: number; readonly availableBytes?: number };
    readonly rootfs?: Usage;
    readonly logs?: Usage;
  }[];
}

const WRITE =
  'echo begun; head -c 3000000 /dev/zero > /big; head -c 2000000 /dev/zero > /data/big; while :; do :; done';

const POD_METRIC = /^pod_memory_working_set_bytes\{.*pod="busy-test-node"/m;
const CONTAINER_METRIC = /^container_cpu_usage_seconds_total\{.*pod="busy-test-node"/m;

for (const fromCri of [false, true]) {
  suite(`figures of pods, ${fromCri ? 'all from the CRI' : 'as by default'}`, () => {
    let lab: KubeletLab;
    const figures = async (): Promise<PodFigures | undefined> => {
      const { pods } = (await lab.kubelet.json('/stats/summary')) as Summary;
      return pods.find(({ podRef }) => podRef.name === `busy-${NODE}`);
    };

    before(async () => {
      lab = await KubeletLab.start({ features: { PodAndContainerStatsFromCRI: fromCri } });
      lab.run(
        'busy',
        [
          {
            command: ['sh', '-c', WRITE],
            resources: { limits: { memory: '64Mi', cpu: '100m' } },
            volumeMounts: [{ name: 'data', mountPath: '/data' }],
          },
        ],
        { volumes: [{ name: 'data', emptyDir: {} }] },
      );
      await lab.ready('busy');
    });
    after(() => lab[Symbol.asyncDispose]());
    afterEach((test) => lab.afterTest(test));

    test('the summary has processor, memory, writable layer, log and volumes', async () => {
      const pod = await until('figures', 90_000, async () => {
        const seen = await figures();
        const [first] = seen?.containers ?? [];
        const data = seen?.volume?.find(({ name }) => name === 'data');
        const isWhole =
          (first?.cpu?.usageNanoCores ?? 0) > 0 &&
          (first?.memory?.workingSetBytes ?? 0) > 0 &&
          (first?.rootfs?.usedBytes ?? 0) >= 3_000_000 &&
          (data?.usedBytes ?? 0) >= 2_000_000 &&
          (seen?.memory?.workingSetBytes ?? 0) > 0;
        return isWhole ? seen : undefined;
      }).catch(async (err: unknown) => {
        throw new Error(`the summary says ${JSON.stringify(await figures(), undefined, 1)}`, { cause: err });
      });
      const [main] = pod.containers ?? [];
      assert.ok((main?.memory?.availableBytes ?? 0) < 64 * 2 ** 20);
      assert.ok((main?.logs?.usedBytes ?? 0) > 0, 'its log');
      assert.ok((pod.cpu?.usageCoreNanoSeconds ?? 0) > 0, 'the pod takes processor time');
    });

    test('the summary has the network', {
      skip: fromCri ? false : 'the kubelet asks cAdvisor, which knows no Berth',
    }, async () => {
      const pod = await until('traffic', 60_000, async () => {
        const seen = await figures();
        return (seen?.network?.rxBytes ?? 0) > 0 ? seen : undefined;
      });
      assert.equal(pod.network?.name, 'eth0');
      assert.ok((pod.process_stats?.process_count ?? 0) >= 1);
    });

    test("the file system of images is the one that berthd's root is on", async () => {
      const { node } = (await lab.kubelet.json('/stats/summary')) as Summary;
      assert.ok((node.runtime?.imageFs?.usedBytes ?? 0) > 0, 'images take space');
      assert.equal(node.runtime?.imageFs?.capacityBytes, node.fs?.capacityBytes);
      assert.ok((node.runtime?.containerFs?.usedBytes ?? 0) > 0, 'containers take space');
    });

    test('the metrics of resources name the container and the pod', async () => {
      const minor = await kubeletMinor();
      await until('metrics', 60_000, async () => {
        const { text } = await lab.kubelet.get('/metrics/resource');
        // Older kubelets leave containers out when all comes from the CRI.
        const names = fromCri && minor < 36 ? [POD_METRIC] : [POD_METRIC, CONTAINER_METRIC];
        return names.every((name) => name.test(text)) ? true : undefined;
      });
    });

    test("cAdvisor's metrics", { skip: fromCri ? false : 'cAdvisor knows no Berth: it labels nothing' }, async () => {
      const wanted = [
        'container_cpu_usage_seconds_total',
        'container_memory_working_set_bytes',
        'container_network_receive_bytes_total',
      ];
      await until('metrics', 60_000, async () => {
        const { text } = await lab.kubelet.get('/metrics/cadvisor');
        return wanted.every((name) => new RegExp(`^${name}\\{.*pod="busy-test-node"`, 'm').test(text))
          ? true
          : undefined;
      }).catch(async (err: unknown) => {
        const { text } = await lab.kubelet.get('/metrics/cadvisor');
        throw new Error(`the kubelet shows\n${text.slice(0, 3000)}`, { cause: err });
      });
    });
  });
}
