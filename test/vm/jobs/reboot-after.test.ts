/** After a reboot: berthd is up by itself, the pods of before are known as ended, nothing of them is in the way. */

import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { after, before, describe as suite, test } from 'node:test';

import {
  ContainerState,
  ListPodSandboxRequest,
  PodSandboxState,
  RuntimeServiceService as runtime,
} from '../../../proto/gen/cri/api.ts';
import { type CriLab, eventually } from '../../harness/cri-lab.ts';
import { answers, assertUntouched, openNode, removeAllPods, startCounting, unitProperty } from './node.ts';

interface Before {
  readonly id: string;
  readonly containerId: string;
}

/** Where host-local keeps the addresses of the network in deploy/cni, one file for each. */
const ADDRESSES = '/var/lib/cni/networks/berth';

const OWN_MOUNT = / \/(run|var\/lib)\/berth\/.*(overlay|nsfs)/;
const mounts = (): string => readFileSync('/proc/self/mountinfo', 'utf8');

suite('after a reboot', () => {
  const pods = JSON.parse(readFileSync('/var/lib/berth-vm/before-reboot.json', 'utf8')) as readonly Before[];
  let node: CriLab & Disposable;
  before(async () => {
    node = openNode('rebooted');
    await answers(node);
  });
  after(() => node[Symbol.dispose]());

  test('systemd has started berthd once', () => {
    assert.equal(unitProperty('ActiveState'), 'active');
    assert.equal(unitProperty('NRestarts'), '0');
  });

  test('pods are not ready, and their containers have ended', async () => {
    for (const { id, containerId } of pods) {
      assert.equal((await node.podStatus(id)).status?.state, PodSandboxState.SANDBOX_NOTREADY);
      const { state, finishedAt, startedAt } = await node.status(containerId);
      assert.equal(state, ContainerState.CONTAINER_EXITED);
      assert.ok(finishedAt >= startedAt);
    }
  });

  test('new ones start beside them', async () => {
    await assertUntouched(node, await startCounting(node, pods.length));
  });

  test('all are removed, and nothing is left of any', async () => {
    await removeAllPods(node);
    assert.deepEqual((await node.client.call(runtime.listPodSandbox, ListPodSandboxRequest.create())).items, []);
    // What berthd has ready for further pods goes when none has come for half a minute, its pins last.
    await eventually('no namespace and no root file system is mounted', () => !OWN_MOUNT.test(mounts()) || undefined);
    const addresses = existsSync(ADDRESSES) ? readdirSync(ADDRESSES).filter((name) => /^[\d.]+$/.test(name)) : [];
    assert.deepEqual(addresses, []);
    const slice = '/sys/fs/cgroup/kubepods.slice/kubepods-besteffort.slice';
    const scopes = existsSync(slice) ? readdirSync(slice).filter((name) => name.endsWith('.scope')) : [];
    assert.deepEqual(scopes, []);
  });
});
