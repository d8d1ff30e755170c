import assert from 'node:assert/strict';
import { test } from 'node:test';

import type { Hierarchy } from './hierarchies.ts';
import { chooseDriver } from './open-cgroups.ts';

const v2: Hierarchy = { version: 2, controllers: [], name: '', mountPoint: '/sys/fs/cgroup' };
const memory: Hierarchy = { version: 1, controllers: ['memory'], name: '', mountPoint: '/sys/fs/cgroup/memory' };
const named: Hierarchy = { version: 1, controllers: [], name: 'systemd', mountPoint: '/sys/fs/cgroup/systemd' };

test('auto is systemd where it runs the machine and manages its cgroups', () => {
  assert.equal(chooseDriver('auto', [v2], true), 'systemd');
  assert.equal(chooseDriver('auto', [memory, named], true), 'systemd');
  assert.equal(chooseDriver('auto', [memory], true), 'cgroupfs');
  assert.equal(chooseDriver('auto', [v2], false), 'cgroupfs');
});

test('a setting is obeyed, or refused where it cannot be', () => {
  assert.equal(chooseDriver('cgroupfs', [v2], true), 'cgroupfs');
  assert.equal(chooseDriver('systemd', [v2], true), 'systemd');
  assert.throws(() => chooseDriver('systemd', [v2], false), /systemd does not run this host/);
});
