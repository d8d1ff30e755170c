import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';

import fc from 'fast-check';

import { BerthError } from '../../base/errors.ts';
import { type Logger, silentLogger } from '../../base/log.ts';
import { type HookTarget, isHookFor, parseHookFile } from './hook-file.ts';
import { HookFolders } from './hook-folders.ts';

const file = (when: object, more: object = {}) =>
  JSON.stringify({ version: '1.0.0', hook: { path: '/bin/true' }, when, stages: ['prestart'], ...more });
const target = (changes: Partial<HookTarget> = {}): HookTarget => ({
  command: '/usr/bin/python3',
  annotations: { 'com.example.gpu': 'yes', other: 'x' },
  hasBindMounts: false,
  ...changes,
});
const matches = (when: object, changes?: Partial<HookTarget>) =>
  isHookFor(parseHookFile(file(when)).conditions, target(changes));

describe('the conditions of a hook', () => {
  const cases: [object, boolean][] = [
    [{ always: true }, true],
    [{ always: false }, false],
    [{ always: false, commands: ['python'] }, false],
    [{ commands: ['^/usr/bin/python'] }, true],
    [{ commands: ['^python', 'nothing'] }, false],
    [{ commands: ['(?i)PYTHON3\\z'] }, true],
    [{ annotations: { '^com\\.example\\.gpu$': '^yes$' } }, true],
    [{ annotations: { '^com\\.example\\.gpu$': '^no$' } }, false],
    [{ annotations: { gpu: '.*', other: 'y' } }, false],
    [{ annotations: { gpu: '.*' }, commands: ['nothing'] }, false],
    [{ annotations: { gpu: '.*' }, commands: ['nothing', 'python'] }, true],
    [{ hasBindMounts: true }, false],
    [{ hasBindMounts: false }, false],
    [{ always: true, hasBindMounts: true }, false],
  ];
  for (const [when, expected] of cases) {
    it(`${JSON.stringify(when)}: ${expected}`, () => assert.equal(matches(when), expected));
  }

  it('takes no time for an annotation that is made for it', () => {
    const annotations = { gpu: 'x'.repeat(256 * 1024) };
    assert.equal(matches({ annotations: { gpu: '.*.*y' } }, { annotations }), false);
  });

  it('knows bind mounts', () => assert.equal(matches({ hasBindMounts: true }, { hasBindMounts: true }), true));
});

describe('parseHookFile', () => {
  const bad: [string, string, RegExp][] = [
    ['another version', file({ always: true }, { version: '0.1.0' }), /version: version "0\.1\.0" is not known/],
    ['a relative path', file({ always: true }, { hook: { path: 'x' } }), /hook\.path: "x" is not an absolute path/],
    ['no condition', file({}), /when: has no condition/],
    ['no stage', file({ always: true }, { stages: [] }), /stages: there are none/],
    ['an unknown stage', file({ always: true }, { stages: ['precreate'] }), /"precreate" is not a stage/],
    ['a pattern that is none', file({ commands: ['('] }), /when\.commands\.0: Invalid regular expression/],
    ['a pattern for annotations that is none', file({ annotations: { a: '[' } }), /^when\.annotations\.a$/],
    ['what only Go knows', file({ commands: ['\\Qx\\E'] }), /when\.commands\.0: Invalid regular expression/],
    ['no time', file({ always: true }, { hook: { path: '/x', timeout: 0 } }), /hook\.timeout/],
    ['no JSON', '{', /it is not JSON/],
  ];
  for (const [what, text, message] of bad) {
    it(`refuses ${what}`, () => assert.throws(() => parseHookFile(text), { kind: 'invalid', message }));
  }

  it('says invalid of whatever else it is given', () => {
    fc.assert(
      fc.property(fc.oneof(fc.string(), fc.json()), (text) => {
        assert.throws(
          () => parseHookFile(text),
          (err) => err instanceof BerthError && err.kind === 'invalid',
        );
      }),
    );
  });
});

describe('HookFolders', () => {
  let top: string;
  beforeEach(() => {
    top = mkdtempSync(join(tmpdir(), 'berth-hooks-'));
    for (const name of ['vendor', 'owner']) mkdirSync(join(top, name));
  });
  afterEach(() => rmSync(top, { recursive: true }));
  const open = (log: Logger = silentLogger) => new HookFolders([join(top, 'vendor'), join(top, 'owner')], log);
  const write = (path: string, when: object, hook: object, stages = ['prestart']): void =>
    writeFileSync(join(top, path), file(when, { hook, stages }));

  it('gives the hooks of a container by name, and those of the later folder in place of others', async () => {
    const folders = open();
    assert.deepEqual(await folders.hooksFor(target()), []);
    write('vendor/20.json', { always: true }, { path: '/bin/twenty' }, ['poststop', 'prestart', 'poststop']);
    write('vendor/10.json', { always: true }, { path: '/bin/vendor' });
    write('owner/10.json', { always: true }, { path: '/bin/owner', args: ['owner', 'x'], env: ['A=1'], timeout: 9 });
    write('owner/30.json', { commands: ['nothing'] }, { path: '/bin/never' });
    assert.deepEqual(await folders.hooksFor(target()), [
      { stage: 'prestart', hook: { path: '/bin/owner', args: ['owner', 'x'], env: ['A=1'], timeout: 9 } },
      { stage: 'poststop', hook: { path: '/bin/twenty' } },
      { stage: 'prestart', hook: { path: '/bin/twenty' } },
    ]);
  });

  it('tells the log once of a file that it cannot use', async () => {
    const lines: unknown[] = [];
    const folders = open({ ...silentLogger, error: (fields) => void lines.push(fields) });
    writeFileSync(join(top, 'vendor/bad.json'), '{');
    for (let i = 0; i < 3; i++) assert.deepEqual(await folders.hooksFor(target()), []);
    assert.deepEqual(lines, [
      {
        problems: `${join(top, 'vendor/bad.json')}: it is not JSON: ${(await folders.problems())[0]?.problem.split(': ')[1]}`,
      },
    ]);
  });
});
