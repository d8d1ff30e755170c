/** Whether a pod's network is still as the plugins made it: CNI CHECK by the bridge plugin. */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { after, afterEach, before, describe as suite, test } from 'node:test';

import { status } from '@grpc/grpc-js';

import { AdminService } from '../../proto/gen/berth/admin.ts';
import { NamespaceMode, Protocol, RuntimeServiceService as runtime } from '../../proto/gen/cri/api.ts';
import { PodLab } from '../harness/pod-lab.ts';

suite("a pod's network is checked", { timeout: 900_000 }, () => {
  let lab: PodLab;
  before(async () => {
    lab = await PodLab.start();
  });
  afterEach((t) => lab.afterTest(t));
  after(() => lab.close());

  const check = async (podSandboxId: string) => await lab.berthd.call(AdminService.checkPodNetwork, { podSandboxId });

  test('and what has been taken away is told', async () => {
    const pod = await lab.runPod();
    assert.deepEqual(await check(pod), { checked: true, problem: '' });
    const { pid } = await lab.podInfo(pod);
    const route = ['route', 'del', 'default'];
    execFileSync('nsenter', ['--target', String(pid), '--net', 'ip', ...route]);
    const { checked, problem } = await check(pod);
    assert.ok(checked);
    assert.match(problem, /bridge.*CHECK|CHECK.*bridge/);
    await lab.berthd.call(runtime.stopPodSandbox, { podSandboxId: pod });
    assert.deepEqual(await check(pod), { checked: false, problem: '' });
  });

  test('host ports too, as long as their rules are there', async () => {
    const portMappings = [{ protocol: Protocol.TCP, containerPort: 80, hostPort: 38_087, hostIp: '' }];
    const pod = await lab.runPod(lab.podConfig({ portMappings }));
    assert.deepEqual(await check(pod), { checked: true, problem: '' });
    const rules = execFileSync('iptables', ['-t', 'nat', '-S'], { encoding: 'utf8' }).split('\n');
    const own = rules.find((rule) => rule.startsWith('-A CNI-HOSTPORT-DNAT') && rule.includes(pod));
    assert.ok(own);
    const [, chain] = /-j (\S+)/.exec(own) ?? [];
    assert.ok(chain);
    execFileSync('iptables', ['-t', 'nat', '-F', chain]);
    assert.match((await check(pod)).problem, /portmap.*CHECK/);
  });

  test("unless it has none, is on the host's, or there is no such pod", async () => {
    const host = { securityContext: { namespaceOptions: { network: NamespaceMode.NODE } } };
    assert.deepEqual(await check(await lab.runPod(lab.podConfig({ linux: host }))), { checked: false, problem: '' });
    const unknown = await lab.berthd.fails(AdminService.checkPodNetwork, { podSandboxId: 'f'.repeat(64) });
    assert.equal(unknown.code, status.NOT_FOUND);
  });
});
