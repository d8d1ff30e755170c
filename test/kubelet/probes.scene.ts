import assert from 'node:assert/strict';
import { after, afterEach, before, suite, test } from 'node:test';

import { container, KubeletLab } from './kubelet-lab.ts';
import { holds } from './pods.ts';

const WEB = ['sh', '-c', 'mkdir -p /tmp/w; echo ok > /tmp/w/index.html; exec httpd -f -p 8080 -h /tmp/w'];
const SOON = { periodSeconds: 1, failureThreshold: 2, timeoutSeconds: 5 };

suite('probes', () => {
  let lab: KubeletLab;
  before(async () => {
    lab = await KubeletLab.start();
  });
  after(() => lab[Symbol.asyncDispose]());
  afterEach((test) => lab.afterTest(test));

  for (const [kind, probe] of Object.entries({
    exec: { exec: { command: ['cat', '/tmp/w/index.html'] } },
    HTTP: { httpGet: { path: '/index.html', port: 8080 } },
    TCP: { tcpSocket: { port: 8080 } },
  })) {
    test(`a container is ready by ${kind} as long as it answers`, async () => {
      const name = `ready-${kind.toLowerCase()}`;
      const command = ['sh', '-c', `${WEB[2]?.replace('exec ', '')} & while :; do sleep 1; done`];
      lab.run(name, [{ command, readinessProbe: { ...probe, ...SOON } }]);
      await lab.ready(name);
      await lab.output(name, 'sh', '-c', 'rm /tmp/w/index.html; kill $(pidof httpd)');
      const unready = await lab.pod(name, 'not to be ready', (pod) => !holds(pod, 'Ready'));
      assert.equal(container(unready)?.restartCount, 0);
      assert.ok(container(unready)?.state.running, 'it runs on');
      lab.drop(name);
    });

    test(`a container that fails its liveness probe by ${kind} is restarted`, async () => {
      const name = `live-${kind.toLowerCase()}`;
      // In its second life it is as it should be.
      const command = ['sh', '-c', `${WEB[2]?.replace('exec ', '')} & while :; do sleep 1; done`];
      lab.run(name, [{ command, livenessProbe: { ...probe, ...SOON, initialDelaySeconds: 2 } }]);
      const first = await lab.ready(name);
      await lab.output(name, 'sh', '-c', 'rm /tmp/w/index.html; kill $(pidof httpd)');
      const again = await lab.pod(name, 'to be restarted', (pod) => {
        const status = container(pod);
        return status?.restartCount === 1 && status.state.running !== undefined && holds(pod, 'Ready');
      });
      assert.notEqual(container(again)?.containerID, container(first)?.containerID);
      assert.equal(container(again)?.lastState.terminated?.containerID, container(first)?.containerID);
      assert.equal(container(again)?.lastState.terminated?.exitCode, 137);
      lab.drop(name);
    });
  }

  test('a startup probe holds the others back until it succeeds', async () => {
    lab.run('startup', [
      {
        startupProbe: { exec: { command: ['test', '-e', '/tmp/started'] }, periodSeconds: 1, failureThreshold: 60 },
        livenessProbe: { exec: { command: ['test', '-e', '/tmp/started'] }, periodSeconds: 1, failureThreshold: 1 },
      },
    ]);
    const begun = await lab.pod('startup', 'to run', (pod) => container(pod)?.state.running !== undefined);
    assert.equal(container(begun)?.started, false);
    await lab.output('startup', 'touch', '/tmp/started');
    const ready = await lab.ready('startup');
    assert.equal(container(ready)?.started, true);
    assert.equal(container(ready)?.restartCount, 0);
    lab.drop('startup');
  });

  test('an exec probe that hangs counts as failed when its time is over, and leaves no process behind', async () => {
    const livenessProbe = {
      exec: { command: ['sleep', '4321'] },
      periodSeconds: 1,
      failureThreshold: 1,
      timeoutSeconds: 1,
    };
    lab.run('hanging', [{ livenessProbe: { ...livenessProbe, failureThreshold: 3 } }]);
    await lab.pod('hanging', 'to be restarted', (pod) => container(pod)?.restartCount === 1);
    await lab.pod('hanging', 'to run again', (pod) => container(pod)?.state.running !== undefined);
    const sleepers = await lab.output('hanging', 'sh', '-c', 'pidof sleep | wc -w');
    assert.ok(Number(sleepers) <= 2, `${sleepers} probes run`);
    lab.drop('hanging');
  });

  test('a gRPC probe without a server fails and the container is not ready', async () => {
    lab.run('grpc', [{ readinessProbe: { grpc: { port: 9090 }, ...SOON } }]);
    const pod = await lab.pod('grpc', 'to run', (seen) => container(seen)?.state.running !== undefined);
    assert.equal(holds(pod, 'Ready'), false);
    lab.drop('grpc');
  });
});
