/** What a pod's containers can reach of the pause process that holds their namespaces: nothing of the host. */

import assert from 'node:assert/strict';
import { after, afterEach, before, describe as suite, test } from 'node:test';

import { NamespaceMode } from '../../proto/gen/cri/api.ts';
import { PodLab } from '../harness/pod-lab.ts';

const SHARED_PID = { namespaceOptions: { pid: NamespaceMode.POD } };

suite('the pause process of a pod', { timeout: 900_000 }, () => {
  let lab: PodLab;
  before(async () => {
    lab = await PodLab.start({ config: '[runtime]\ndefault_runtime = "runc"' });
  });
  afterEach((t) => lab.afterTest(t));
  after(() => lab.close());

  test('gives a container that may trace it no way to the host', async () => {
    const pod = await lab.runPod(lab.podConfig({ linux: { securityContext: SHARED_PID } }));
    const capabilities = { addCapabilities: ['SYS_PTRACE', 'SYS_ADMIN'] };
    const id = await lab.start(pod, { linux: { securityContext: { ...SHARED_PID, capabilities } } });
    assert.equal(await lab.exec(id, 'cat', '/proc/1/comm'), 'pause');
    assert.equal(await lab.exec(id, 'sh', '-c', 'ls -A /proc/1/root/ /proc/1/root/.. /proc/1/cwd/ | grep -v :'), '');
    const status = await lab.exec(id, 'cat', '/proc/1/status');
    assert.match(status, /^CapPrm:\t0+$/m);
    assert.match(status, /^Seccomp:\t2$/m);
    const entered = await lab.tryExec(id, 'nsenter', '-t', '1', '-m', '/bin/true');
    assert.match(entered.text, /can't execute '\/bin\/true': No such file/, 'the mounts around pause are none');
  });

  test('shows others not even its own, and is not ended by them', async () => {
    const pod = await lab.runPod(lab.podConfig({ linux: { securityContext: SHARED_PID } }));
    const id = await lab.start(pod, { linux: { securityContext: SHARED_PID } });
    for (const path of ['/proc/1/root/', '/proc/1/ns/mnt', '/proc/1/fd/'])
      assert.notEqual((await lab.tryExec(id, 'ls', '-L', path)).exitCode, 0, path);
    await lab.exec(id, 'sh', '-c', '(sleep 0.01 &); kill -KILL 1; kill -STOP 1; kill -CONT 1; sleep 0.05');
    assert.equal(await lab.exec(id, 'sh', '-c', "grep -l '^State:.Z' /proc/[0-9]*/status || true"), '', 'it reaps');
  });
});
