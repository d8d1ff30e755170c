import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { specInput } from '../../test/fakes/spec-input.ts';
import { execProcess, parseExecAnswer } from './exec-process.ts';
import { buildProcess } from './spec-process.ts';

describe('execProcess', () => {
  const own = buildProcess(specInput({ spec: { tty: true, workingDir: '/srv' } }));

  it("runs other arguments with the container's own rights and places", () => {
    assert.deepEqual(execProcess(own, ['ls', '-l'], false), { ...own, args: ['ls', '-l'], terminal: false });
  });

  it('names the terminal where there is one', () => {
    const plain = { ...own, env: ['A=b'] };
    assert.deepEqual(execProcess(plain, ['sh'], true).env, ['A=b', 'TERM=xterm']);
    assert.deepEqual(execProcess({ ...own, env: ['TERM=vt100'] }, ['sh'], true).env, ['TERM=vt100']);
  });

  it('refuses to run nothing', () => {
    for (const args of [[], [''], ['a\0']]) {
      assert.throws(() => execProcess(own, args, false), { kind: 'invalid', message: /^cmd: / });
    }
  });
});

describe('parseExecAnswer', () => {
  it('understands what the exec monitor says', () => {
    assert.deepEqual(parseExecAnswer('started 42'), { what: 'started', value: 42 });
    assert.deepEqual(parseExecAnswer('ended -1'), { what: 'ended', value: -1 });
  });

  it('takes nothing else', () => {
    for (const line of ['', 'ended', 'ended x', 'ended 1 2', ' ended 1', 'ended 99999999999', 'Ended 1']) {
      assert.throws(() => parseExecAnswer(line), { kind: 'internal', message: /^exec monitor answered/ });
    }
  });
});
