import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { specInput } from '../../../test/fakes/spec-input.ts';
import { buildSpec } from '../spec.ts';
import { applyEdits } from './apply-edits.ts';
import { parseCdiSpec } from './cdi-spec.ts';

const edits = (containerEdits: object) => {
  const spec = { cdiVersion: '0.6.0', kind: 'v.com/c', devices: [{ name: 'a', containerEdits }] };
  return [...parseCdiSpec(JSON.stringify(spec)).devices.values()];
};
const facts = { mode: 0o20660, rdevMajor: 195, rdevMinor: 7 };
const findDevice = (path: string) =>
  path === '/dev/gpu7' ? { path, type: 'c' as const, facts: { ...host, ...facts } } : undefined;
const host = {
  uid: 0,
  gid: 44,
  size: 0,
  links: 1,
  inode: 1n,
  allocatedBytes: 0,
  deviceMajor: 0,
  deviceMinor: 6,
  modifiedAt: { seconds: 0, nanoseconds: 0 },
};
const apply = (containerEdits: object, changes: Parameters<typeof specInput>[0] = {}) =>
  applyEdits(buildSpec(specInput(changes)), edits(containerEdits), findDevice);

describe('applyEdits', () => {
  it('replaces variables, and adds groups that are not there', () => {
    const { process } = apply(
      { env: ['A=cdi', 'B=cdi'], additionalGids: [44, 0, 44] },
      { spec: { env: [{ key: 'A', value: 'own' }] } },
    );
    assert.deepEqual(process.env.slice(-2), ['A=cdi', 'B=cdi']);
    assert.deepEqual(process.user.additionalGids, [0, 44]);
  });

  it('looks up a device on the host, and gives it to the user of the container', () => {
    const user = { uid: 1000, gid: 1001, supplementalGroups: [1001] };
    const { linux } = apply({ deviceNodes: [{ path: '/dev/gpu0', hostPath: '/dev/gpu7' }] }, { user });
    const numbers = { major: 195, minor: 7 };
    assert.deepEqual(linux.devices, [
      { type: 'c', path: '/dev/gpu0', ...numbers, fileMode: 0o660, uid: 1000, gid: 1001 },
    ]);
    assert.deepEqual(linux.resources.devices?.slice(1), [{ allow: true, type: 'c', ...numbers, access: 'rwm' }]);
  });

  it('takes what a file says of a device, and replaces one of the same path', () => {
    const node = { path: '/dev/x', type: 'b', major: 8, minor: 1, fileMode: 0o600, permissions: 'r', uid: 5, gid: 6 };
    const once = apply({ deviceNodes: [node] });
    const twice = applyEdits(once, edits({ deviceNodes: [{ ...node, minor: 2 }] }), findDevice);
    assert.deepEqual(twice.linux.devices, [
      { type: 'b', path: '/dev/x', major: 8, minor: 2, fileMode: 0o600, uid: 5, gid: 6 },
    ]);
    assert.deepEqual(once.linux.resources.devices?.at(-1), { allow: true, type: 'b', major: 8, minor: 1, access: 'r' });
  });

  it('says which device this host has not', () => {
    for (const node of [{ path: '/dev/none' }, { path: '/dev/gpu7', type: 'b' }])
      assert.throws(() => apply({ deviceNodes: [node] }), {
        kind: 'precondition',
        message: /^CDI device node \/dev\/\w+: .* is not a (block )?device on this host$/,
      });
    assert.equal(apply({ deviceNodes: [{ path: '/dev/pipe', type: 'p' }] }).linux.devices[0]?.type, 'p');
  });

  it('puts mounts where they belong, in place of those of the same path', () => {
    const { mounts } = apply({
      mounts: [
        { hostPath: '/lib/a', containerPath: '/lib/a', options: ['ro', 'bind'] },
        { hostPath: '/h', containerPath: '/etc/hosts' },
        { hostPath: 'tmpfs', containerPath: '/deep/down/here/x', type: 'tmpfs', options: ['size=1m'] },
      ],
    });
    assert.deepEqual(
      mounts.filter(({ destination }) => destination === '/etc/hosts'),
      [{ destination: '/etc/hosts', type: 'bind', source: '/h', options: ['rbind'] }],
    );
    assert.deepEqual(mounts.find(({ source }) => source === '/lib/a')?.options, ['ro', 'bind']);
    assert.equal(mounts.at(-1)?.type, 'tmpfs');
  });

  it('adds hooks by their stage, and what the processor shall do', () => {
    const spec = apply({
      hooks: [{ hookName: 'createContainer', path: '/bin/hook', args: ['hook', 'x'], env: ['A=1'], timeout: 3 }],
      intelRdt: { closID: 'gold', l3CacheSchema: null, enableCMT: true },
    });
    assert.deepEqual(spec.hooks, {
      createContainer: [{ path: '/bin/hook', args: ['hook', 'x'], env: ['A=1'], timeout: 3 }],
    });
    assert.deepEqual(spec.linux.intelRdt, { closID: 'gold', enableCMT: true });
  });

  it('leaves a container without devices as it is', () => {
    const spec = buildSpec(specInput({}));
    assert.equal(applyEdits(spec, []), spec);
  });
});
