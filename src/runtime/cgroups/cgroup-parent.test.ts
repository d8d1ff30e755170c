import assert from 'node:assert/strict';
import { test } from 'node:test';

import fc from 'fast-check';

import { BerthError } from '../../base/errors.ts';
import { normaliseCgroupfsParent, normaliseSlice, sliceOf, slicePath } from './cgroup-parent.ts';
import type { Hierarchy } from './hierarchies.ts';

const invalidParent = (text: RegExp) => (err: unknown) =>
  err instanceof BerthError &&
  err.kind === 'invalid' &&
  err.message.startsWith('config.linux.cgroup_parent: ') &&
  text.test(err.message);

test('cgroupfs parents become absolute paths without empty parts, relative ones from the top', () => {
  assert.equal(normaliseCgroupfsParent('', '/berth'), '/berth');
  assert.equal(normaliseCgroupfsParent('kubepods/pod1', '/berth'), '/kubepods/pod1');
  assert.equal(normaliseCgroupfsParent('/kubepods//./pod1/', '/berth'), '/kubepods/pod1');
  assert.equal(normaliseCgroupfsParent('/', '/berth'), '/');
});

test('cgroupfs refuses what climbs, slices, control characters and names that are too long', () => {
  assert.throws(() => normaliseCgroupfsParent('/a/../../b', '/berth'), invalidParent(/must not contain \.\./));
  assert.throws(() => normaliseCgroupfsParent('kubepods.slice', '/berth'), invalidParent(/driver is cgroupfs/));
  assert.throws(() => normaliseCgroupfsParent('/a\0b', '/berth'), invalidParent(/control character/));
  assert.throws(() => normaliseCgroupfsParent('/a\nb', '/berth'), invalidParent(/control character/));
  assert.throws(() => normaliseCgroupfsParent(`/${'a'.repeat(256)}`, '/berth'), invalidParent(/too long/));
  assert.throws(() => normaliseCgroupfsParent('/abc'.repeat(1000), '/berth'), invalidParent(/too long/));
});

test('slices expand to the folders of their prefixes', () => {
  assert.equal(slicePath('system.slice'), '/system.slice');
  assert.equal(slicePath('-.slice'), '');
  assert.equal(
    slicePath('kubepods-besteffort-pod1_2.slice'),
    '/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1_2.slice',
  );
});

test('systemd takes slices by name or by their own place, and nothing else', () => {
  assert.equal(normaliseSlice('', 'system.slice'), 'system.slice');
  assert.equal(normaliseSlice('kubepods-pod1.slice', 'system.slice'), 'kubepods-pod1.slice');
  assert.equal(normaliseSlice('/kubepods.slice/kubepods-pod1.slice', 'system.slice'), 'kubepods-pod1.slice');
  assert.throws(() => normaliseSlice('/kubepods/pod1', 'system.slice'), invalidParent(/must end with \.slice/));
  assert.throws(
    () => normaliseSlice('/other.slice/kubepods-pod1.slice', 'system.slice'),
    invalidParent(/not where systemd puts/),
  );
  assert.throws(() => normaliseSlice('/../a.slice', 'system.slice'), invalidParent(/must not contain/));
  for (const bad of ['-a.slice', 'a-.slice', 'a--b.slice', '.slice', 'a b.slice', 'a/.slice']) {
    assert.throws(() => normaliseSlice(bad, 'system.slice'), invalidParent(/./), bad);
  }
});

test('the slice that a process runs in is told by the hierarchy that systemd keeps', () => {
  const of = (version: 1 | 2, name = '', controllers: readonly string[] = []): Hierarchy => ({
    ...{ version, name, controllers },
    mountPoint: '/sys/fs/cgroup',
  });
  const unified = [of(2)];
  assert.equal(sliceOf(unified, '0::/system.slice/berthd.service\n'), 'system.slice');
  assert.equal(
    sliceOf(unified, '0::/runtime.slice/runtime-cri.slice/berthd.service/main.slice\n'),
    'runtime-cri.slice',
  );
  assert.equal(sliceOf(unified, '0::/user.slice/user-0.slice/session-1.scope\n'), 'user-0.slice');
  for (const outside of ['0::/\n', '0::/init.scope\n', '0::/../other.slice/x\n', ''])
    assert.equal(sliceOf(unified, outside), '-.slice');
  const hybrid = [of(1, '', ['memory']), of(2), of(1, 'systemd')];
  const text = '5:memory:/m.slice/x\n1:name=systemd:/system.slice/berthd.service\n0::/u.slice/x\n';
  assert.equal(sliceOf(hybrid, text), 'system.slice');
});

test('no parent ever leads out of the hierarchy', () => {
  fc.assert(
    fc.property(fc.string({ unit: fc.constantFrom('a', '.', '/', '-', '\0', 'é') }), (parent) => {
      try {
        const path = normaliseCgroupfsParent(parent, '/berth');
        assert.match(path, /^\/([^/]+(\/[^/]+)*)?$/);
        assert.ok(!path.split('/').some((part) => part === '..' || part === '.'));
      } catch (err) {
        assert.ok(err instanceof BerthError && err.kind === 'invalid');
      }
    }),
  );
});
