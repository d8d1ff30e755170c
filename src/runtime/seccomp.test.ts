import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';

import { BerthError } from '../base/errors.ts';
import { SeccompProfiles } from './seccomp.ts';
import { ALLOWED_CALLS, CALLS_OF_ARCHITECTURE, CALLS_OF_CAPABILITY, REFUSED_CALLS } from './seccomp-calls.ts';
import { defaultSeccomp } from './seccomp-default.ts';

let folder: string;
before(() => {
  folder = mkdtempSync(join(tmpdir(), 'berth-seccomp-'));
});
after(() => rmSync(folder, { recursive: true }));

const refused = (text: RegExp) => (err: unknown) =>
  err instanceof BerthError &&
  err.kind === 'invalid' &&
  err.message.startsWith('config.linux.security_context.seccomp.localhost_ref: ') &&
  text.test(err.message);
const localhost = (reference: string) => ({ type: 'localhost', reference }) as const;
const runtimeDefault = { type: 'runtimeDefault' } as const;

test('the default profile decides each call once', () => {
  for (const capabilities of [[], Object.keys(CALLS_OF_CAPABILITY)]) {
    for (const architecture of ['x64', 'arm64', 's390x', 'unknown']) {
      const { syscalls } = defaultSeccomp(capabilities, architecture);
      const whole = syscalls.filter((rule) => !rule.args).flatMap((rule) => rule.names);
      assert.equal(
        new Set(whole).size,
        whole.length,
        `${architecture}: ${whole.filter((name, at) => whole.indexOf(name) !== at)}`,
      );
      const byArgument = syscalls.filter((rule) => rule.args).flatMap((rule) => rule.names);
      for (const name of byArgument) assert.ok(!whole.includes(name), name);
    }
  }
  for (const list of [ALLOWED_CALLS, REFUSED_CALLS, ...Object.values(CALLS_OF_ARCHITECTURE)]) {
    assert.equal(new Set(list).size, list.length);
    for (const name of list) assert.match(name, /^[a-z_0-9]+$/);
  }
});

test('x32 is in the default profile only where the kernel takes its calls', () => {
  const both = ['SCMP_ARCH_X86_64', 'SCMP_ARCH_X86'];
  assert.deepEqual(defaultSeccomp([], 'x64').architectures, [...both, 'SCMP_ARCH_X32']);
  assert.deepEqual(defaultSeccomp([], 'x64', { takesX32: false }).architectures, both);
  assert.deepEqual(
    defaultSeccomp([], 'arm64', { takesX32: false }).architectures,
    defaultSeccomp([], 'arm64').architectures,
  );
});

test('capabilities open their calls, and only theirs', () => {
  const actionOf = (name: string, capabilities: readonly string[]) =>
    defaultSeccomp(capabilities, 'x64').syscalls.find((rule) => !rule.args && rule.names.includes(name));
  assert.deepEqual(actionOf('mount', ['CAP_CHOWN'])?.errnoRet, 1);
  assert.equal(actionOf('mount', ['CAP_SYS_ADMIN'])?.action, 'SCMP_ACT_ALLOW');
  assert.equal(actionOf('bpf', ['CAP_BPF'])?.action, 'SCMP_ACT_ALLOW');
  assert.equal(actionOf('clone3', []), undefined, 'falls to ENOSYS, so that the C library uses clone');
  assert.equal(actionOf('clone3', ['CAP_SYS_ADMIN'])?.action, 'SCMP_ACT_ALLOW');
  assert.equal(actionOf('io_uring_setup', ['CAP_SYS_ADMIN'])?.errnoRet, 1);
  assert.equal(defaultSeccomp([], 'x64').defaultErrnoRet, 38);
});

test('no profile and unconfined are none, and the default is compiled once for each set of capabilities', () => {
  const profiles = new SeccompProfiles();
  assert.equal(profiles.resolve(undefined, []), undefined);
  assert.equal(profiles.resolve({ type: 'unconfined' }, []), undefined);
  const first = profiles.resolve(runtimeDefault, ['CAP_KILL', 'CAP_CHOWN']);
  assert.ok(first);
  assert.equal(profiles.resolve(runtimeDefault, ['CAP_CHOWN', 'CAP_KILL']), first);
  assert.notEqual(profiles.resolve(runtimeDefault, ['CAP_SYS_ADMIN']), first);
});

test('a profile from a file is read again when it changes', () => {
  const path = join(folder, 'changing.json');
  const profiles = new SeccompProfiles();
  writeFileSync(path, '{"defaultAction":"SCMP_ACT_LOG"}');
  const first = profiles.resolve(localhost(path), []);
  assert.deepEqual(first, { defaultAction: 'SCMP_ACT_LOG', syscalls: [] });
  assert.equal(profiles.resolve(localhost(path), []), first);
  writeFileSync(path, '{"defaultAction":"SCMP_ACT_ERRNO"}');
  assert.deepEqual(profiles.resolve(localhost(path), []), { defaultAction: 'SCMP_ACT_ERRNO', syscalls: [] });
});

test('a configured file replaces the built-in default', () => {
  const path = join(folder, 'default.json');
  writeFileSync(path, '{"defaultAction":"SCMP_ACT_LOG"}');
  assert.deepEqual(new SeccompProfiles(path).resolve(runtimeDefault, []), {
    defaultAction: 'SCMP_ACT_LOG',
    syscalls: [],
  });
});

test('a profile that cannot be used is refused by field, path and reason', () => {
  const profiles = new SeccompProfiles();
  assert.throws(
    () => profiles.resolve(localhost('profile.json'), []),
    refused(/"profile.json" is not an absolute path/),
  );
  assert.throws(() => profiles.resolve(localhost(''), []), refused(/not an absolute path/));
  assert.throws(
    () => profiles.resolve(localhost(join(folder, 'none')), []),
    refused(/none cannot be used: there is no such file/),
  );
  assert.throws(() => profiles.resolve(localhost(folder), []), refused(/it is not a file/));
  const path = join(folder, 'bad.json');
  writeFileSync(path, '{"defaultAction":"SCMP_ACT_FLY"}');
  assert.throws(
    () => profiles.resolve(localhost(path), []),
    refused(/bad.json cannot be used: defaultAction: unknown action "SCMP_ACT_FLY"/),
  );
  writeFileSync(path, ' '.repeat(2 << 20));
  assert.throws(() => profiles.resolve(localhost(path), []), refused(/more than 1048576 bytes/));
  const fifo = join(folder, 'fifo');
  execFileSync('mkfifo', [fifo]);
  assert.throws(() => profiles.resolve(localhost(fifo), []), refused(/it is not a file/));
});
