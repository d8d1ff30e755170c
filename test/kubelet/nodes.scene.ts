import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { after, afterEach, before, suite, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { patient } from '../harness/patience.ts';
import { container, KubeletLab } from './kubelet-lab.ts';
import { until } from './until.ts';

const deployed = (name: string): string => fileURLToPath(new URL(`../../deploy/kubelet/${name}`, import.meta.url));
const PODS = 20;

suite("a node with deploy's configuration", () => {
  let lab: KubeletLab;
  before(async () => {
    lab = await KubeletLab.start({ given: { file: deployed('config.yaml'), dropIns: [deployed('10-berth.conf')] } });
  });
  after(() => lab[Symbol.asyncDispose]());
  afterEach((test) => lab.afterTest(test));

  test('the kubelet takes it, and it holds', async () => {
    const { kubeletconfig } = (await lab.kubelet.json('/configz')) as { kubeletconfig: Record<string, unknown> };
    assert.equal(kubeletconfig['seccompDefault'], true);
    assert.equal(kubeletconfig['maxParallelImagePulls'], 4);
    lab.run('plain', [{}]);
    await lab.ready('plain');
    assert.match(await lab.output('plain', 'cat', '/proc/self/status'), /^Seccomp:\s+2$/m);
    lab.drop('plain');
  });

  test(`${PODS} pods at once start, are told apart, and go at once`, { timeout: patient(400_000) }, async () => {
    const names = Array.from({ length: PODS }, (_, index) => `many-${index}`);
    for (const name of names) lab.run(name, [{ env: [{ name: 'OWN', value: name }] }]);
    const pods = await Promise.all(names.map((name) => lab.pod(name, 'to be ready', isReady, 300_000)));
    const ips = new Set(pods.map(({ status }) => status.podIP));
    assert.equal(ips.size, PODS, 'each has an address of its own');
    for (const pod of pods) assert.equal(container(pod)?.restartCount, 0);
    const last = names.at(-1) ?? '';
    assert.equal(await lab.output(last, 'sh', '-c', 'echo $OWN'), last);
    for (const name of names) lab.drop(name);
    await until('all to be gone', 200_000, async () => {
      const left = await Promise.all(names.map((name) => lab.sandboxes(name)));
      return left.flat().some((sandbox) => sandbox.isReady) ? undefined : true;
    });
  });
});

suite('processors of their own', { skip: availableParallelism() < 2 ? 'the machine has one processor' : false }, () => {
  let lab: KubeletLab;
  const allowed = async (name: string): Promise<string> => {
    const status = await lab.output(name, 'cat', '/proc/self/status');
    return /^Cpus_allowed_list:\s+(\S+)$/m.exec(status)?.[1] ?? '';
  };
  before(async () => {
    lab = await KubeletLab.start({ config: { cpuManagerPolicy: 'static', reservedSystemCPUs: '0' } });
  });
  after(() => lab[Symbol.asyncDispose]());
  afterEach((test) => lab.afterTest(test));

  test('a container that asks for a whole one gets it, and those that run already leave it', async () => {
    const all = /^Cpus_allowed_list:\s+(\S+)$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? '';
    lab.run('shared', [{}]);
    const before = await lab.ready('shared');
    assert.equal(await allowed('shared'), all);
    const whole = { cpu: '1', memory: '32Mi' };
    lab.run('alone', [{ resources: { limits: whole, requests: whole } }]);
    await lab.ready('alone');
    const own = await allowed('alone');
    assert.match(own, /^[1-9]\d*$/, 'one that is not reserved');
    await until('the other to leave it', 60_000, async () => ((await allowed('shared')) === all ? undefined : true));
    assert.ok(!(await allowed('shared')).split(',').includes(own));
    await lab.remove('alone');
    const after = await lab.ready('shared');
    assert.equal(container(after)?.containerID, container(before)?.containerID);
    await until('the other to have it back', 60_000, async () =>
      (await allowed('shared')) === all ? true : undefined,
    );
    lab.drop('shared');
  });
});

function isReady(pod: Parameters<typeof container>[0]): boolean {
  return container(pod)?.ready === true;
}
