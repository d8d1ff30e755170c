import assert from 'node:assert/strict';
import { afterEach, describe as suite, test } from 'node:test';

import { eventually } from '../../harness/cri-lab.ts';
import type { CrictlLab } from './lab.ts';

interface ContainerStats {
  readonly attributes: { readonly id: string; readonly metadata: { readonly name: string } };
  readonly cpu: { readonly usageCoreNanoSeconds: { readonly value: string } };
  readonly memory: { readonly workingSetBytes: { readonly value: string } };
  readonly writableLayer: { readonly usedBytes: { readonly value: string } };
}

interface PodStats {
  readonly attributes: { readonly id: string };
  readonly linux: {
    readonly network: { readonly defaultInterface: { readonly name: string } };
    readonly process: { readonly processCount: { readonly value: string } };
  };
}

/** crictl about what pods use: stats, statsp, metricdescs, metricsp. */
export function statsTests(lab: () => CrictlLab): void {
  suite('figures', () => {
    afterEach(() => lab().afterTest());

    test('stats shows what containers use, as a table and as JSON, by id, pod and label', async () => {
      const busy = await lab().pod('busy', { labels: { tier: 'front' }, command: ['sh', '-c', 'while :; do :; done'] });
      const idle = await lab().pod('idle', { labels: { tier: 'back' } });
      const ids = async (...filters: string[]): Promise<string[]> => {
        const { stats } = await lab().json<{ stats: ContainerStats[] }>('stats', '--seconds', '0', ...filters);
        return stats.map(({ attributes }) => attributes.id).sort();
      };
      assert.deepEqual(await ids(), [busy.container, idle.container].sort());
      assert.deepEqual(await ids('--id', busy.container), [busy.container]);
      assert.deepEqual(await ids('--pod', idle.pod), [idle.container]);
      assert.deepEqual(await ids('--label', 'tier=back'), [idle.container]);
      const table = await lab().run('stats');
      assert.match(table, /CONTAINER +NAME +CPU % +MEM +DISK +INODES/);
      const [, percent] = new RegExp(`${busy.container.slice(0, 13)} +busy +([\\d.]+) `).exec(table) ?? [];
      assert.ok(Number(percent) > 5, table);
      await lab().run('stop', '--timeout', '0', idle.container);
      assert.deepEqual(await ids(), [busy.container]);
    });

    test('statsp shows what pods use', async () => {
      const { pod } = await lab().pod('web', { command: ['sh', '-c', 'sleep 1000 & sleep 1000'] });
      const own = await eventually('both processes are counted', async () => {
        const { stats } = await lab().json<{ stats: PodStats[] }>('statsp', '--seconds', '0', '--id', pod);
        return stats.find(({ linux }) => Number(linux.process.processCount.value) >= 3);
      });
      assert.equal(own.attributes.id, pod);
      assert.equal(own.linux.network.defaultInterface.name, 'eth0');
      assert.match(await lab().run('statsp'), new RegExp(`POD +POD ID +CPU % +MEM.*\nweb +${pod.slice(0, 13)} `));
    });

    test('metricsp has only metrics that metricdescs describes', async () => {
      const { pod } = await lab().pod('web');
      const { descriptors } = await lab().json<{ descriptors: { name: string; labelKeys: string[] }[] }>('metricdescs');
      const { podMetrics } = await lab().json<{
        podMetrics: { podSandboxId: string; metrics: Metric[]; containerMetrics: { metrics: Metric[] }[] }[];
      }>('metricsp');
      interface Metric {
        readonly name: string;
        readonly labelValues: string[];
      }
      const own = podMetrics.find(({ podSandboxId }) => podSandboxId === pod);
      assert.ok(own);
      const metrics = [...own.metrics, ...own.containerMetrics.flatMap((container) => container.metrics)];
      assert.ok(metrics.length > 20, `${metrics.length} metrics`);
      const keys = new Map(descriptors.map(({ name, labelKeys }) => [name, labelKeys.length]));
      for (const { name, labelValues } of metrics) assert.equal(labelValues.length, keys.get(name), name);
      assert.ok(metrics.some(({ name }) => name === 'container_memory_working_set_bytes'));
    });
  });
}
