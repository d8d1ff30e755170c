import assert from 'node:assert/strict';
import { after, afterEach, before, suite, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';

import { ListPodSandboxRequest, RuntimeServiceService as runtime } from '../../proto/gen/cri/api.ts';
import { patient } from '../harness/patience.ts';
import { container, KubeletLab } from './kubelet-lab.ts';
import { holds } from './pods.ts';
import { until } from './until.ts';

/** Longer than the kubelet looks at all pods anew, so that a change of its mind would show. */
const SETTLED_MS = 12_000;

for (const evented of [false, true]) {
  suite(`restarts, ${evented ? 'with events of containers' : 'with lists of containers'}`, () => {
    let lab: KubeletLab;
    before(async () => {
      lab = await KubeletLab.start({ features: { EventedPLEG: evented } });
      const probe = { exec: { command: ['true'] }, periodSeconds: 2 };
      lab.run('steady', [{ readinessProbe: probe, livenessProbe: probe }, { name: 'other' }], {
        initContainers: [
          { name: 'done', command: ['true'] },
          { name: 'sidecar', restartPolicy: 'Always' },
        ],
      });
      await lab.ready('steady');
    });
    after(() => lab[Symbol.asyncDispose]());
    afterEach((test) => lab.afterTest(test));

    const unchanged = async (before: ReadonlyMap<string, readonly string[]>): Promise<void> => {
      await delay(SETTLED_MS);
      const pod = await lab.ready('steady');
      const counts = [...(pod.status.containerStatuses ?? []), ...(pod.status.initContainerStatuses ?? [])];
      assert.deepEqual(
        counts.filter(({ restartCount }) => restartCount !== 0),
        [],
        'restarted containers',
      );
      const now = await lab.containers();
      const steady = [...before].filter(([name]) => name.startsWith('steady'));
      for (const [name, ids] of steady) assert.deepEqual(now.get(name), ids, name);
    };

    test('the kubelet is restarted: no container is', async () => {
      const ids = await lab.containers();
      await lab.kubelet.end('SIGTERM');
      await lab.kubelet.start();
      await unchanged(ids);
    });

    test('the kubelet is killed while a pod starts: there is one of it afterwards', async () => {
      lab.run('halfway', [{}, { name: 'second' }, { name: 'third' }]);
      await lab.berthd.logged('CreateContainer', 1);
      await lab.kubelet.end('SIGKILL');
      await lab.kubelet.start();
      await lab.ready('halfway');
      assert.equal((await lab.sandboxes('halfway')).length, 1, 'one sandbox');
      await lab.remove('halfway');
    });

    for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
      test(`berthd is ended by ${signal} and started: no container is restarted, and all works`, async () => {
        const ids = await lab.containers();
        await lab.berthd.end(signal);
        await delay(3000);
        await lab.berthd.start();
        await unchanged(ids);
        assert.equal(await lab.output('steady', 'echo', 'still here'), 'still here');
      });
    }

    test('what ended while berthd was away is restarted afterwards', async () => {
      lab.run('ending', [{ command: ['sh', '-c', 'sleep 8; exit 9'] }]);
      await lab.pod('ending', 'to run', (pod) => container(pod)?.state.running !== undefined);
      await lab.berthd.end('SIGTERM');
      await delay(10_000);
      await lab.berthd.start();
      const pod = await lab.pod('ending', 'to be restarted', (seen) => (container(seen)?.restartCount ?? 0) >= 1);
      assert.equal(container(pod)?.lastState.terminated?.exitCode, 9);
      await lab.remove('ending');
    });

    test('an end is seen at once', async () => {
      lab.run('brief', [{ command: ['sh', '-c', 'sleep 2; exit 4'] }], { restartPolicy: 'Never' });
      const pod = await lab.pod('brief', 'to have failed', ({ status }) => status.phase === 'Failed');
      const ended = container(pod)?.state.terminated;
      assert.equal(ended?.exitCode, 4);
      await lab.remove('brief');
    });

    test("a pod's network is lost with its sandbox: the kubelet makes all anew", async () => {
      lab.run('unlucky', [{}]);
      const before = await lab.ready('unlucky');
      const [sandbox] = await lab.sandboxes('unlucky');
      await lab.berthd.call(runtime.stopPodSandbox, { podSandboxId: sandbox?.id ?? '' });
      const pod = await lab.pod('unlucky', 'to be made anew', (seen) => {
        const status = container(seen);
        return status?.containerID !== container(before)?.containerID && holds(seen, 'Ready');
      });
      assert.equal(container(pod)?.restartCount, 1);
      await lab.remove('unlucky');
    });

    test('what the kubelet no longer needs it removes by itself', { timeout: patient(200_000) }, async () => {
      await until('only the steady pod to be there', 150_000, async () => {
        const { items } = await lab.berthd.call(runtime.listPodSandbox, ListPodSandboxRequest.create());
        return items.every(({ metadata }) => metadata?.name.startsWith('steady')) ? true : undefined;
      });
    });
  });
}
