import assert from 'node:assert/strict';
import { test } from 'node:test';

import { canExecute, canJoin, joinEnv } from './exec-join.ts';
import type { OciLinux, OciProcess, OciSpec } from './oci-spec.ts';

const process: OciProcess = {
  terminal: false,
  user: { uid: 1000, gid: 1000, additionalGids: [7] },
  args: ['true'],
  env: ['PATH=/bin', 'EMPTY=', 'A1=x'],
  cwd: '/',
  capabilities: { bounding: ['CAP_KILL'], effective: [], permitted: [], inheritable: [], ambient: [] },
  rlimits: [{ type: 'RLIMIT_NOFILE', soft: 10, hard: 20 }],
  noNewPrivileges: false,
};
const linux: OciLinux = {
  namespaces: [{ type: 'pid' }, { type: 'network', path: '/run/netns' }, { type: 'mount' }],
  devices: [],
  cgroupsPath: '/pod/container',
  resources: {},
  maskedPaths: [],
  readonlyPaths: [],
};
const spec = (parts: { linux?: Partial<OciLinux>; process?: Partial<OciProcess> }): OciSpec => ({
  ociVersion: '1.0.2',
  process: { ...process, ...parts.process },
  root: { path: '/rootfs', readonly: false },
  mounts: [],
  annotations: {},
  linux: { ...linux, ...parts.linux },
});
const runc = { isRunc: true };

test('commands join a container without a filter, a user namespace, a label or a class, under runc', () => {
  assert.equal(canJoin(runc, spec({})), true);
  assert.equal(canJoin(runc, spec({ process: { apparmorProfile: 'berth-default' } })), true);
});

const others: Readonly<Record<string, Parameters<typeof spec>[0]>> = {
  'a seccomp filter': { linux: { seccomp: {} } },
  'a class of resctrl': { linux: { intelRdt: {} } },
  'a user namespace': { linux: { namespaces: [...linux.namespaces, { type: 'user' }] } },
  'an SELinux label': { process: { selinuxLabel: 'system_u:system_r:container_t:s0' } },
  'a limit that is not known': { process: { rlimits: [{ type: 'RLIMIT_NEWER', soft: 1, hard: 1 }] } },
  'a capability that is not known': { process: { capabilities: { ...process.capabilities, bounding: ['CAP_NEWER'] } } },
};
for (const [what, parts] of Object.entries(others))
  test(`they go by the runtime with ${what}`, () => assert.equal(canJoin(runc, spec(parts)), false));

test('they go by another runtime', () => assert.equal(canJoin({ isRunc: false }, spec({})), false));

test('a command is executed that its program can be told of', () => assert.equal(canExecute(process), true));

const untold: Readonly<Record<string, Partial<OciProcess>>> = {
  'a terminal': { terminal: true },
  'a variable without a value': { env: ['PATH=/bin', 'A'] },
  'a variable without a name': { env: ['=x'] },
  'a number for a name, which would lose its place': { env: ['1=x'] },
  'many arguments': { args: ['x'.repeat(100_001)] },
  'a user whom runc refuses': { user: { ...process.user, uid: 2 ** 31 } },
  'a group that is none': { user: { ...process.user, additionalGids: [-1] } },
  'many groups': { user: { ...process.user, additionalGids: Array.from({ length: 1000 }, (_, gid) => gid) } },
};
for (const [what, parts] of Object.entries(untold))
  test(`not with ${what}`, () => assert.equal(canExecute({ ...process, ...parts }), false));

test('of a variable that is there twice the last one counts', () => {
  assert.deepEqual(joinEnv({ ...process, env: ['A=1', 'B==', 'A=2'] }), { A: '2', B: '=' });
});
