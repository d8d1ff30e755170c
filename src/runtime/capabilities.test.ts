import assert from 'node:assert/strict';
import { test } from 'node:test';

import { BerthError } from '../base/errors.ts';
import {
  CAPABILITY_NAMES,
  type CapabilityRequest,
  DEFAULT_CAPABILITIES,
  readHostCapabilities,
  resolveCapabilities,
} from './capabilities.ts';
import type { Capabilities } from './container-spec.ts';

const everything = new Set(CAPABILITY_NAMES);
const nothing: Capabilities = { add: [], drop: [], addAmbient: [] };

function resolve(wanted: Partial<Capabilities>, rest: Partial<CapabilityRequest> = {}) {
  const request = { privileged: false, uid: 0, defaults: DEFAULT_CAPABILITIES, host: everything, ...rest };
  return resolveCapabilities({ ...request, wanted: { ...nothing, ...wanted } });
}
const bounding = (wanted: Partial<Capabilities>, rest: Partial<CapabilityRequest> = {}) =>
  resolve(wanted, rest).sets.bounding;

test('knows all capabilities, once', () => {
  assert.equal(CAPABILITY_NAMES.length, 41);
  assert.equal(everything.size, 41);
  assert.equal(CAPABILITY_NAMES.indexOf('SYS_ADMIN'), 21, 'the bit of linux/capability.h');
  assert.equal(CAPABILITY_NAMES.indexOf('CHECKPOINT_RESTORE'), 40);
});

test('the defaults, in every set but the inheritable and ambient ones', () => {
  const { sets, missing } = resolve({});
  const expected = CAPABILITY_NAMES.filter((name) => DEFAULT_CAPABILITIES.includes(name)).map((name) => `CAP_${name}`);
  assert.equal(expected.length, 9);
  assert.deepEqual(sets, {
    bounding: expected,
    effective: expected,
    permitted: expected,
    inheritable: [],
    ambient: [],
  });
  assert.deepEqual(missing, []);
});

test('adds, drops, and lets the drop win for what is in both', () => {
  assert.ok(bounding({ add: ['NET_ADMIN'] }).includes('CAP_NET_ADMIN'));
  assert.ok(bounding({ add: ['CAP_NET_ADMIN'] }).includes('CAP_NET_ADMIN'));
  assert.ok(!bounding({ drop: ['CHOWN'] }).includes('CAP_CHOWN'));
  assert.ok(!bounding({ add: ['CHOWN'], drop: ['CHOWN'] }).includes('CAP_CHOWN'));
});

test('ALL is dropped first, and added before single drops', () => {
  assert.deepEqual(bounding({ drop: ['ALL'] }), []);
  assert.deepEqual(bounding({ drop: ['ALL'], add: ['KILL'] }), ['CAP_KILL']);
  assert.equal(bounding({ add: ['ALL'] }).length, 41);
  assert.equal(bounding({ add: ['ALL'], drop: ['ALL'] }).length, 41);
  assert.ok(!bounding({ add: ['ALL'], drop: ['SYS_ADMIN'] }).includes('CAP_SYS_ADMIN'));
});

test('privileged has all, whatever the lists say', () => {
  assert.equal(bounding({ drop: ['ALL'] }, { privileged: true }).length, 41);
  assert.equal(bounding({ drop: ['KILL'] }, { privileged: true }).length, 41);
});

test('what the host lacks is left out, and named only when it was asked for by name', () => {
  const host = new Set(CAPABILITY_NAMES.filter((name) => name !== 'SYS_RESOURCE'));
  assert.ok(!bounding({}, { privileged: true, host }).includes('CAP_SYS_RESOURCE'));
  assert.deepEqual(resolve({}, { privileged: true, host }).missing, []);
  assert.deepEqual(resolve({ add: ['ALL'] }, { host }).missing, []);
  assert.deepEqual(resolve({ add: ['SYS_RESOURCE', 'KILL'] }, { host }).missing, ['SYS_RESOURCE']);
  assert.ok(!bounding({ add: ['SYS_RESOURCE'] }, { host }).includes('CAP_SYS_RESOURCE'));
});

test('others than root can use ambient capabilities only', () => {
  const { sets } = resolve({ addAmbient: ['NET_RAW'] }, { uid: 1000 });
  assert.deepEqual(sets.effective, ['CAP_NET_RAW']);
  assert.deepEqual(sets.permitted, ['CAP_NET_RAW']);
  assert.deepEqual(sets.inheritable, ['CAP_NET_RAW']);
  assert.deepEqual(sets.ambient, ['CAP_NET_RAW']);
  assert.equal(sets.bounding.length, 10);
  assert.deepEqual(resolve({}, { uid: 1000 }).sets.effective, []);
});

test('an unknown name is refused by field', () => {
  const refused = (field: string) => (err: unknown) =>
    err instanceof BerthError && err.kind === 'invalid' && err.message.includes(`capabilities.${field}: "`);
  assert.throws(() => resolve({ add: ['FLY'] }), refused('add_capabilities'));
  assert.throws(() => resolve({ drop: ['__proto__'] }), refused('drop_capabilities'));
  assert.throws(() => resolve({ addAmbient: ['ALL'] }), refused('add_ambient_capabilities'));
});

test('configured defaults may carry the prefix, and are checked too', () => {
  assert.deepEqual(bounding({}, { defaults: ['CAP_KILL'] }), ['CAP_KILL']);
  assert.throws(() => resolve({}, { defaults: ['FLY'] }), /^BerthError: runtime.default_capabilities: "FLY"/);
});

test('reads what this host can give', () => {
  for (const name of readHostCapabilities()) assert.ok(everything.has(name), name);
});
