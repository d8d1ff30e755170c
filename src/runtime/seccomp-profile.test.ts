import assert from 'node:assert/strict';
import { test } from 'node:test';

import fc from 'fast-check';

import { BerthError } from '../base/errors.ts';
import { compileSeccompProfile, parseSeccompProfile } from './seccomp-profile.ts';

const target = { capabilities: ['CAP_CHOWN'], architecture: 'x64', kernel: '6.1.0-13-amd64' };
const compile = (profile: object, changes: Partial<typeof target> = {}) =>
  compileSeccompProfile(parseSeccompProfile(JSON.stringify(profile)), { ...target, ...changes });

test('a profile in the OCI form passes through', () => {
  const profile = {
    defaultAction: 'SCMP_ACT_ERRNO',
    defaultErrnoRet: 1,
    architectures: ['SCMP_ARCH_X86_64'],
    flags: ['SECCOMP_FILTER_FLAG_LOG'],
    syscalls: [
      { names: ['read', 'write'], action: 'SCMP_ACT_ALLOW' },
      {
        names: ['clone'],
        action: 'SCMP_ACT_ERRNO',
        errnoRet: 38,
        args: [{ index: 0, value: 2114060288, valueTwo: 0, op: 'SCMP_CMP_MASKED_EQ' }],
      },
    ],
  };
  assert.deepEqual(compile(profile), profile);
});

test("Docker's form: the architecture with those that come along, null for nothing, one name for many", () => {
  const profile = {
    defaultAction: 'SCMP_ACT_ERRNO',
    archMap: [
      { architecture: 'SCMP_ARCH_X86_64', subArchitectures: ['SCMP_ARCH_X86', 'SCMP_ARCH_X32'] },
      { architecture: 'SCMP_ARCH_RISCV64', subArchitectures: null },
    ],
    syscalls: [
      { name: 'read', names: null, action: 'SCMP_ACT_ALLOW', args: null, comment: 'x', includes: {}, excludes: {} },
    ],
  };
  assert.deepEqual(compile(profile), {
    defaultAction: 'SCMP_ACT_ERRNO',
    architectures: ['SCMP_ARCH_X86_64', 'SCMP_ARCH_X86', 'SCMP_ARCH_X32'],
    syscalls: [{ names: ['read'], action: 'SCMP_ACT_ALLOW' }],
  });
  assert.deepEqual(compile(profile, { architecture: 'riscv64' }).architectures, ['SCMP_ARCH_RISCV64']);
});

const conditional = (condition: object) => ({
  defaultAction: 'SCMP_ACT_ERRNO',
  syscalls: [{ names: ['bpf'], action: 'SCMP_ACT_ALLOW', ...condition }],
});
const applies = (condition: object) => compile(conditional(condition)).syscalls.length === 1;

test('rules apply by capability, architecture and kernel', () => {
  assert.ok(applies({ includes: { caps: ['CAP_CHOWN'] } }));
  assert.ok(!applies({ includes: { caps: ['CAP_CHOWN', 'CAP_BPF'] } }));
  assert.ok(!applies({ excludes: { caps: ['CAP_BPF', 'CAP_CHOWN'] } }));
  assert.ok(applies({ excludes: { caps: ['CAP_BPF'] } }));
  assert.ok(applies({ includes: { arches: ['amd64', 'x32'] } }));
  assert.ok(!applies({ includes: { arches: ['arm64'] } }));
  assert.ok(!applies({ excludes: { arches: ['amd64'] } }));
  assert.ok(applies({ includes: { minKernel: '4.8' } }));
  assert.ok(applies({ includes: { minKernel: '6.1' } }));
  assert.ok(!applies({ includes: { minKernel: '6.10' } }));
  assert.ok(!applies({ excludes: { minKernel: '4.8' } }));
});

test('what is wrong is said, and where', () => {
  const refused = (profile: string, text: RegExp) =>
    assert.throws(
      () => parseSeccompProfile(profile),
      (err: unknown) => err instanceof BerthError && err.kind === 'invalid' && text.test(err.message),
      profile,
    );
  refused('no', /not JSON/);
  refused('[]', /^defaultAction/);
  refused('{}', /^defaultAction/);
  refused('{"defaultAction":"SCMP_ACT_FLY"}', /^defaultAction: unknown action "SCMP_ACT_FLY"/);
  refused(
    '{"defaultAction":"SCMP_ACT_LOG","syscalls":[{"names":["a"],"action":"ALLOW"}]}',
    /^syscalls.0.action: unknown action "ALLOW"/,
  );
  refused(
    '{"defaultAction":"SCMP_ACT_LOG","syscalls":[{"action":"SCMP_ACT_LOG"}]}',
    /^syscalls.0: names no system call/,
  );
  refused('{"defaultAction":"SCMP_ACT_LOG","flags":["X"]}', /^flags.0: unknown flag "X"/);
  refused(
    '{"defaultAction":"SCMP_ACT_LOG","architectures":["amd64"]}',
    /^architectures.0: unknown architecture "amd64"/,
  );
  refused(
    '{"defaultAction":"SCMP_ACT_LOG","syscalls":[{"names":["a"],"action":"SCMP_ACT_LOG","args":[{"index":6,"value":0,"op":"SCMP_CMP_EQ"}]}]}',
    /^syscalls.0.args.0.index/,
  );
});

test('any JSON is either a profile or refused', () => {
  fc.assert(
    fc.property(fc.json(), fc.jsonValue(), (text, value) => {
      for (const candidate of [
        text,
        JSON.stringify({ defaultAction: 'SCMP_ACT_LOG', syscalls: [value], flags: value }),
      ]) {
        try {
          compileSeccompProfile(parseSeccompProfile(candidate), target);
        } catch (err) {
          assert.ok(err instanceof BerthError && err.kind === 'invalid', String(err));
        }
      }
    }),
  );
});
