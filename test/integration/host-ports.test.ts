/** A port of the host belongs to one pod at a time, from its creation to its stop, whatever happens to berthd. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:net';
import { after, afterEach, before, describe as suite, test } from 'node:test';

import { status } from '@grpc/grpc-js';

import {
  NamespaceMode,
  type PodSandboxConfig,
  Protocol,
  RunPodSandboxRequest,
  RuntimeServiceService as runtime,
} from '../../proto/gen/cri/api.ts';
import { PodLab } from '../harness/pod-lab.ts';

const PORT = 28_310;

suite('host ports', { timeout: 900_000 }, () => {
  let lab: PodLab;
  before(async () => {
    lab = await PodLab.start();
  });
  afterEach((t) => lab.afterTest(t));
  after(() => lab.close());

  const wants = (hostPort: number, more: { hostIp?: string; protocol?: Protocol } = {}): PodSandboxConfig =>
    lab.podConfig({ portMappings: [{ containerPort: 80 }, { containerPort: 81, hostPort, ...more }] });
  const refused = async (config: PodSandboxConfig) =>
    await lab.berthd.fails(runtime.runPodSandbox, RunPodSandboxRequest.create({ config }));

  test('that another pod has are refused with its name, until it is stopped', async () => {
    const first = await lab.runPod(wants(PORT));
    const { status: holder } = await lab.podStatus(first);
    const told = await refused(wants(PORT, { hostIp: '127.0.0.1' }));
    assert.equal(told.code, status.FAILED_PRECONDITION, told.details);
    assert.match(told.details, /config\.port_mappings\[1\]\.host_port: 127\.0\.0\.1:28310\/tcp is a host port of pod/);
    assert.match(told.details, new RegExp(`pod test/${holder?.metadata?.name} \\(sandbox ${first}, ready\\)`));
    await lab.runPod(wants(PORT, { protocol: Protocol.UDP }));
    await lab.runPod(wants(PORT + 1));

    await lab.berthd.end('SIGKILL');
    await lab.berthd.start();
    assert.match((await refused(wants(PORT))).details, new RegExp(`sandbox ${first}, ready`));

    await lab.berthd.call(runtime.stopPodSandbox, { podSandboxId: first });
    await lab.runPod(wants(PORT));
  });

  test('go to one of several pods that ask at the same time', async () => {
    const configs = Array.from({ length: 4 }, () => wants(PORT));
    const results = await Promise.allSettled(configs.map((config) => lab.runPod(config)));
    const problems = results.flatMap((result) => (result.status === 'rejected' ? [String(result.reason)] : []));
    assert.equal(problems.length, 3, problems.join('\n'));
    for (const problem of problems) assert.match(problem, /is a host port of pod/);
  });

  test("are not those of a pod on the host's network", async () => {
    const config = wants(PORT);
    await lab.runPod({
      ...config,
      linux: lab.podConfig({ linux: { securityContext: { namespaceOptions: { network: NamespaceMode.NODE } } } }).linux,
    });
    await lab.runPod(wants(PORT));
  });

  test('that a process of the host has are told in the log', async () => {
    const server = createServer();
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const address = server.address();
    assert.ok(address !== null && typeof address === 'object');
    const noticed = lab.berthd.logged(`"hostPort":"${address.port}/tcp"`, 1);
    await lab.runPod(wants(address.port));
    await noticed;
    server.close();
    await once(server, 'close');
    assert.match(lab.berthd.wholeLog(), /a process of the host has the host port of this pod too/);
  });
});
