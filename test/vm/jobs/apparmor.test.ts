/** AppArmor profiles really confine what runs under the installed berthd: the default one, one of the node's, and none. */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { after, before, describe as suite, test } from 'node:test';

import { status } from '@grpc/grpc-js';

import { SecurityProfile_ProfileType as ProfileType } from '../../../proto/gen/cri/api.ts';
import type { ContainerFields, CriLab } from '../../harness/cri-lab.ts';
import { openNode, removeAllPods } from './node.ts';

type Security = NonNullable<NonNullable<ContainerFields['linux']>['securityContext']>;

const PROFILE =
  'profile berth-vm-no-tmp flags=(attach_disconnected) { file, capability, network, signal, deny /tmp/** w, }';
const PARSER_TIMEOUT_MS = 120_000;
const MOUNT = ['sh', '-c', 'mkdir -p /tmp/m && mount -t tmpfs none /tmp/m'];
const capabilities = { addCapabilities: ['SYS_ADMIN'] };
const local = { profileType: ProfileType.Localhost, localhostRef: 'berth-vm-no-tmp' };

suite('AppArmor on the node', () => {
  let node: CriLab & Disposable;
  let pod: string;
  before(async () => {
    node = openNode('apparmor');
    pod = await node.runPod();
  });
  after(async () => {
    await removeAllPods(node);
    node[Symbol.dispose]();
  });

  const secured = (securityContext: Security): ContainerFields => ({ linux: { securityContext } });
  const load = (action: '--replace' | '--remove'): void => {
    execFileSync('apparmor_parser', [action], { input: PROFILE, timeout: PARSER_TIMEOUT_MS });
  };
  const confinementOf = async (id: string): Promise<string> =>
    (await node.exec(id, 'cat', '/proc/self/attr/current')).replace(/\0?\s*$/, '');

  test('RuntimeDefault: a container that may mount is kept from it', async () => {
    const id = await node.start(pod, secured({ capabilities, apparmor: { profileType: ProfileType.RuntimeDefault } }));
    assert.equal(await confinementOf(id), 'berth-default (enforce)');
    assert.notEqual((await node.tryExec(id, ...MOUNT)).exitCode, 0);
    await node.exec(id, 'touch', '/tmp/x');
  });

  test('nothing said is the default profile', async () => {
    const id = await node.start(pod);
    assert.equal(await confinementOf(id), 'berth-default (enforce)');
  });

  test('Unconfined: the same container mounts', async () => {
    const id = await node.start(pod, secured({ capabilities, apparmor: { profileType: ProfileType.Unconfined } }));
    assert.equal(await confinementOf(id), 'unconfined');
    await node.exec(id, ...MOUNT);
  });

  test('Localhost: a profile that is not loaded is refused, and a loaded one is enforced', async () => {
    const refused = await node.refused(pod, secured({ apparmor: local }));
    assert.equal(refused.code, status.FAILED_PRECONDITION);
    assert.match(refused.details, /berth-vm-no-tmp is not loaded/);
    load('--replace');
    try {
      const id = await node.start(pod, secured({ apparmor: local }));
      assert.equal(await confinementOf(id), 'berth-vm-no-tmp (enforce)');
      assert.match((await node.tryExec(id, 'touch', '/tmp/x')).text, /Permission denied/);
      await node.exec(id, 'touch', '/root/x');
    } finally {
      load('--remove');
    }
  });
});
