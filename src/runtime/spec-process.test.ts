import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import fc from 'fast-check';

import { specInput } from '../../test/fakes/spec-input.ts';
import { buildArgs, buildEnv, buildProcess, chooseWorkingDir } from './spec-process.ts';

const image = { entrypoint: ['/entry'], cmd: ['one', 'two'], env: [], workingDir: '' };

describe('buildArgs', () => {
  const cases = [
    { command: [], args: [], expected: ['/entry', 'one', 'two'] },
    { command: [], args: ['x'], expected: ['/entry', 'x'] },
    { command: ['sh'], args: [], expected: ['sh'] },
    { command: ['sh'], args: ['-c'], expected: ['sh', '-c'] },
  ];
  for (const { command, args, expected } of cases) {
    it(`makes [${expected}] of command [${command}] and args [${args}]`, () => {
      assert.deepEqual(buildArgs({ command, args }, image), expected);
    });
  }

  it('takes the cmd alone where there is no entrypoint', () => {
    assert.deepEqual(buildArgs({ command: [], args: [] }, { ...image, entrypoint: [] }), ['one', 'two']);
  });

  it('refuses to run nothing, an empty name, or a NUL byte', () => {
    const none = { ...image, entrypoint: [], cmd: [] };
    assert.throws(() => buildArgs({ command: [], args: [] }, none), { kind: 'invalid', message: /^config\.command: / });
    assert.throws(() => buildArgs({ command: [''], args: [] }, image), { kind: 'invalid' });
    assert.throws(() => buildArgs({ command: ['sh'], args: ['a\0b'] }, image), { kind: 'invalid' });
  });
});

describe('buildEnv', () => {
  it('lets the client win over the image, and the image over the defaults', () => {
    const env = buildEnv(
      specInput({
        spec: {
          env: [
            { key: 'A', value: 'client=1' },
            { key: 'HOSTNAME', value: 'mine' },
          ],
        },
        image: { ...image, env: ['A=image', 'PATH=/bin', 'B=image', 'NOVALUE'] },
      }),
    );
    assert.deepEqual(env, ['PATH=/bin', 'HOSTNAME=mine', 'HOME=/root', 'A=client=1', 'B=image', 'NOVALUE=']);
  });

  it("puts the node's variables below those of image and client", () => {
    const env = buildEnv(
      specInput({
        defaultEnv: ['A=node', 'B=node', 'C=node'],
        image: { ...image, env: ['B=image'] },
        spec: { env: [{ key: 'C', value: 'client' }] },
      }),
    );
    assert.deepEqual(env.slice(1, 4), ['A=node', 'B=image', 'C=client']);
  });

  it('sets TERM for a terminal', () => {
    assert.ok(buildEnv(specInput({ spec: { tty: true } })).includes('TERM=xterm'));
    assert.ok(!buildEnv(specInput({})).some((entry) => entry.startsWith('TERM=')));
  });

  it('leaves out a home that would forge lines elsewhere', () => {
    const env = buildEnv(specInput({ user: { uid: 0, gid: 0, supplementalGroups: [], home: '/root\nroot::0:0' } }));
    assert.ok(!env.some((entry) => entry.startsWith('HOME=')));
  });

  it('names the bad variable', () => {
    const bad = (key: string, value: string) => () =>
      buildEnv(
        specInput({
          spec: {
            env: [
              { key: 'OK', value: '' },
              { key, value },
            ],
          },
        }),
      );
    assert.throws(bad('', 'x'), { kind: 'invalid', message: /^config\.envs\[1\]\.key: / });
    assert.throws(bad('A=B', 'x'), { kind: 'invalid', message: /^config\.envs\[1\]\.key: / });
    assert.throws(bad('A', 'x\0'), { kind: 'invalid', message: /^config\.envs\[1\]\.value: / });
  });

  it('never gives a name twice', () => {
    const variable = fc.record({
      key: fc.stringMatching(/^[A-Z_]{1,3}$/),
      value: fc.string().filter((v) => !v.includes('\0')),
    });
    fc.assert(
      fc.property(fc.array(variable), fc.array(fc.stringMatching(/^[A-Z_]{1,3}=[a-z=]*$/)), (env, imageEnv) => {
        const names = buildEnv(specInput({ spec: { env }, image: { ...image, env: imageEnv } })).map(
          (entry) => entry.split('=')[0],
        );
        assert.equal(new Set(names).size, names.length);
      }),
    );
  });
});

describe('chooseWorkingDir', () => {
  const cases = [
    { own: '', image: '', expected: '/' },
    { own: '', image: '/srv', expected: '/srv' },
    { own: '', image: 'app', expected: '/app' },
    { own: '/a//b/../c', image: '/srv', expected: '/a/c' },
  ];
  for (const { own, image: dir, expected } of cases) {
    it(`is ${expected} for ${own || 'none'} and an image's ${dir || 'none'}`, () => {
      assert.equal(chooseWorkingDir({ workingDir: own }, { ...image, workingDir: dir }), expected);
    });
  }

  it('refuses a relative one from the client', () => {
    assert.throws(() => chooseWorkingDir({ workingDir: 'x' }, image), {
      kind: 'invalid',
      message: /^config\.working_dir: /,
    });
  });
});

describe('buildProcess', () => {
  it('never asks for less than the lowest oom_score_adj that the host can give', () => {
    const score = (wanted: number | undefined, floor: number) =>
      buildProcess(
        specInput({
          spec: {
            resources: { hugepageLimits: [], unified: {}, ...(wanted !== undefined ? { oomScoreAdj: wanted } : {}) },
          },
          host: { oomScoreAdjFloor: floor },
        }),
      ).oomScoreAdj;
    assert.equal(score(-997, -1000), -997);
    assert.equal(score(-997, 0), 0);
    assert.equal(score(undefined, 500), 500);
    assert.equal(score(900, 0), 900);
  });

  it('limits open files to what the host allows', () => {
    const { rlimits } = buildProcess(specInput({ host: { rlimitCeilings: new Map([['RLIMIT_NOFILE', 4096]]) } }));
    assert.deepEqual(rlimits, [{ type: 'RLIMIT_NOFILE', soft: 4096, hard: 4096 }]);
  });

  it('takes an AppArmor profile, unless it may do anything', () => {
    const profile = (privileged: boolean) =>
      buildProcess(specInput({ apparmorProfile: 'mine', security: { privileged } })).apparmorProfile;
    assert.deepEqual([profile(false), profile(true)], ['mine', undefined]);
  });
});
