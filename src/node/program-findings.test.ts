import assert from 'node:assert/strict';
import { describe as suite, test } from 'node:test';

import type { Handler } from '../runtime/handler.ts';
import { handlerFindings, monitorFindings, trialFindings, versionIn } from './program-findings.ts';

const never = new AbortController().signal;
const handler = (name: string, version: string): { name: string; handler: Handler } => ({
  name,
  handler: {
    name,
    version,
    path: `/usr/bin/${name}`,
    root: '',
    features: { recursiveReadOnlyMounts: false, userNamespaces: false, checkpoint: false },
    annotations: [],
    isRunc: false,
    copiesItself: false,
    privilegedWithoutHostDevices: false,
  },
});

suite('programs', () => {
  test('versions are found in what programs say', () => {
    assert.deepEqual(versionIn('runc version 1.1.5+ds1'), [1, 1, 5]);
    assert.deepEqual(versionIn('crun version 1.8'), [1, 8, 0]);
    assert.equal(versionIn('commit: unknown'), undefined);
  });

  test('handlers that cannot be used are errors where pods need them', () => {
    const statuses = [handler('runc', 'runc version 1.0.3'), { name: 'crun', error: 'crun is not installed' }];
    const shown = (defaultName: string): string[] =>
      handlerFindings(statuses, defaultName).map(({ severity, subject, remedy }) => `${severity} ${subject} ${remedy}`);
    assert.deepEqual(shown('runc'), [
      'info runtime.handlers.runc ',
      'warning runtime.handlers.runc apt-get install --only-upgrade runc',
      'warning runtime.handlers.crun apt-get install crun, then systemctl restart berthd; or name another path in [runtime.handlers.crun]',
    ]);
    const spare = [
      handler('runc', 'runc version 1.1.5'),
      { name: 'crun', error: 'crun is not installed', isSpare: true },
    ];
    assert.equal(handlerFindings(spare, 'runc').at(-1)?.severity, 'info');
    assert.equal(handlerFindings(spare, 'crun').at(-1)?.severity, 'error');
    assert.match(shown('crun').join(), /error runtime\.handlers\.crun/);
    assert.equal(handlerFindings(statuses.slice(1), '')[0]?.severity, 'error');
  });

  test('handlers that make no container here are told with their words', () => {
    const trials = new Map([
      ['crun', { passed: false, reason: 'no hugetlb' }],
      ['runc', { passed: true, reason: '' }],
    ]);
    assert.deepEqual(
      trialFindings(trials, 'runc').map(({ severity, message }) => `${severity} ${message}`),
      ['warning cannot make a container on this host: no hugetlb'],
    );
    assert.equal(trialFindings(trials, 'crun')[0]?.severity, 'error');
  });

  test('a monitor that is missing, or broken, is an error', async () => {
    const saying = (exitCode: number, text: string) => ({
      run: async () => ({ exitCode, signal: undefined, stdout: Buffer.from(text), stderr: Buffer.alloc(0) }) as never,
    });
    const found = async (path: string, exitCode: number, text: string): Promise<string[]> =>
      (await monitorFindings(path, saying(exitCode, text), never)).map(
        ({ severity, message }) => `${severity} ${message}`,
      );
    assert.deepEqual(await found('/bin/sh', 0, 'conmon version 2.1.6\ncommit: x'), ['info conmon version 2.1.6']);
    assert.match((await found('/bin/sh', 0, 'conmon version 2.0.9')).join(), /warning conmon 2\.0\.9 is older/);
    assert.match((await found('/bin/sh', 3, '')).join(), /^error .*exit code 3/);
    assert.match((await found('/no/conmon', 0, '')).join(), /^error .*not installed/);
  });
});
