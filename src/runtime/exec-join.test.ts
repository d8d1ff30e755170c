import assert from 'node:assert/strict';
import { test } from 'node:test';

import { canExecute, canJoin, filterFlags, joinArgs, joinEnv } from './exec-join.ts';
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

const seccomp = { defaultAction: 'SCMP_ACT_ERRNO', syscalls: [{ names: ['read'], action: 'SCMP_ACT_ALLOW' }] };

test('commands join a container without a user namespace, a label or a class, under runc', () => {
  assert.equal(canJoin(runc, spec({})), true);
  assert.equal(canJoin(runc, spec({ process: { apparmorProfile: 'berth-default' } })), true);
  assert.equal(canJoin(runc, spec({ linux: { seccomp } })), true);
});

test('a filter is loaded with the flags that its section lists', () => {
  assert.equal(filterFlags(seccomp), 0);
  const flags = ['SECCOMP_FILTER_FLAG_LOG', 'SECCOMP_FILTER_FLAG_SPEC_ALLOW'];
  assert.equal(filterFlags({ ...seccomp, flags }), 2 | 4);
});

test('a command is told where its filter is', () => {
  const joinable = { init: { pid: 1, startTime: 1 }, cgroups: { v1: [], unified: '/pod', unifiedOfInit: undefined } };
  const files = { pid: '/pid', log: '/log' };
  const filterArgs = (args: string[]): string[] => args.filter((arg) => arg.startsWith('filter'));
  assert.deepEqual(filterArgs(joinArgs('c', { ...joinable, filter: 'none' }, process, files)), ['filter=none']);
  const filter = { file: '/state/seccomp/key', flags: 2 };
  assert.deepEqual(filterArgs(joinArgs('c', { ...joinable, filter }, process, files)), [
    'filter=/state/seccomp/key',
    'filter-flags=2',
  ]);
});

const others: Readonly<Record<string, Parameters<typeof spec>[0]>> = {
  'a filter that asks somebody': { linux: { seccomp: { ...seccomp, defaultAction: 'SCMP_ACT_NOTIFY' } } },
  'a rule that asks somebody': {
    linux: { seccomp: { ...seccomp, syscalls: [{ names: ['mount'], action: 'SCMP_ACT_NOTIFY' }] } },
  },
  'a filter with a listener': { linux: { seccomp: { ...seccomp, listenerPath: '/run/agent' } } },
  'a filter with a flag that is not known': {
    linux: { seccomp: { ...seccomp, flags: ['SECCOMP_FILTER_FLAG_NEWER'] } },
  },
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
