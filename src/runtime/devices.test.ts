import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';

import { BerthError } from '../base/errors.ts';
import type { DeviceSpec } from './container-spec.ts';
import { hostDevices, resolveDevices } from './devices.ts';

// /dev/null and its neighbours are on every Linux machine, and readable by everybody.

let folder: string;
before(() => {
  folder = mkdtempSync(join(tmpdir(), 'berth-devices-'));
});
after(() => rmSync(folder, { recursive: true }));

const spec = (changes: Partial<DeviceSpec>): DeviceSpec => ({
  hostPath: '/dev/null',
  containerPath: '',
  permissions: 'rw',
  ...changes,
});
const refused = (text: RegExp) => (err: unknown) =>
  err instanceof BerthError && err.kind === 'invalid' && text.test(err.message);

test('without devices everything is denied but what the runtime adds', () => {
  assert.deepEqual(resolveDevices([], false), { nodes: [], rules: [{ allow: false, access: 'rwm' }] });
});

test('a device keeps its numbers and mode, and gets a rule', () => {
  const { nodes, rules } = resolveDevices([spec({ containerPath: '/dev/nothing', permissions: 'wr' })], false);
  // Older crun gives the host's own /dev/null away to a container's user.
  const { uid, gid } = statSync('/dev/null');
  assert.deepEqual(nodes, [{ type: 'c', path: '/dev/nothing', major: 1, minor: 3, fileMode: 0o666, uid, gid }]);
  assert.deepEqual(rules.slice(1), [{ allow: true, type: 'c', major: 1, minor: 3, access: 'wr' }]);
});

test('links are resolved, the path in the container stays', () => {
  const link = join(folder, 'link');
  symlinkSync('/dev/zero', link);
  const { nodes } = resolveDevices([spec({ hostPath: link, permissions: '' })], false);
  assert.deepEqual(
    nodes.map(({ path, major, minor }) => [path, major, minor]),
    [[link, 1, 5]],
  );
});

test('a folder stands for its devices', () => {
  const { nodes, rules } = resolveDevices([spec({ hostPath: '/dev/', containerPath: '/hostdev' })], false);
  assert.ok(nodes.some(({ path, major, minor }) => path === '/hostdev/null' && major === 1 && minor === 3));
  assert.equal(rules.length, nodes.length + 1);
  assert.ok(!nodes.some(({ path }) => path.startsWith('/hostdev/pts/')));
});

test('privileged has all devices of the host, and no rule against any', () => {
  const { nodes, rules } = resolveDevices([spec({ containerPath: '/dev/extra' })], true);
  assert.deepEqual(rules, [{ allow: true, access: 'rwm' }]);
  assert.ok(nodes.some(({ path }) => path === '/dev/extra'));
  assert.equal(nodes.length, hostDevices().length + 1);
  assert.ok(!nodes.some(({ path }) => path === '/dev/console'));
});

test('what is no device is refused by field', () => {
  const file = join(folder, 'file');
  writeFileSync(file, '');
  const resolve = (changes: Partial<DeviceSpec>) => () => resolveDevices([spec({}), spec(changes)], false);
  assert.throws(
    resolve({ hostPath: '/dev/none' }),
    refused(/^config.devices\[1\].host_path: \/dev\/none does not exist/),
  );
  assert.throws(resolve({ hostPath: file }), refused(/host_path: .*file is not a device/));
  assert.throws(resolve({ hostPath: folder }), refused(/is a folder outside \/dev/));
  assert.throws(resolve({ hostPath: '/dev/shm' }), refused(/is a folder without devices|does not exist/));
  assert.throws(
    resolve({ hostPath: 'null', containerPath: '/x' }),
    refused(/host_path: "null" is not an absolute path/),
  );
  assert.throws(resolve({ hostPath: '' }), refused(/is empty/));
  assert.throws(resolve({ containerPath: '/dev/../x' }), refused(/container_path: .*must not contain/));
  assert.throws(resolve({ permissions: 'rx' }), refused(/permissions: "rx" is not made of r, w and m/));
});
