import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import type { Command, CommandResult } from '../proc/command.ts';
import type { Handler } from './handler.ts';
import { OciRuntime, parseState } from './oci-runtime.ts';

const handler: Handler = {
  name: 'runc',
  path: '/usr/bin/runc',
  root: '/state/runc',
  version: '',
  features: { recursiveReadOnlyMounts: false, userNamespaces: false, checkpoint: false },
  annotations: [],
  isRunc: false,
  copiesItself: false,
  privilegedWithoutHostDevices: false,
};
const signal = AbortSignal.timeout(120_000);

/** A runtime that always answers the same, and what it was asked. */
function runtimeThatSays(answer: { exitCode?: number; stdout?: string; stderr?: string }) {
  const asked: Command[] = [];
  const run = async (command: Command): Promise<CommandResult> => {
    asked.push(command);
    return {
      exitCode: answer.exitCode ?? 0,
      signal: undefined,
      stdout: Buffer.from(answer.stdout ?? ''),
      stderr: Buffer.from(answer.stderr ?? ''),
      truncated: false,
      durationMs: 1,
    };
  };
  return { asked, runtime: new OciRuntime(handler, { run }) };
}

function errorLine(msg: string): string {
  return `${JSON.stringify({ level: 'error', msg })}\n`;
}

describe('OciRuntime', () => {
  it('speaks the command line of the specification', async () => {
    const { asked, runtime } = runtimeThatSays({});
    await runtime.start('c', signal);
    await runtime.delete('c', { force: true }, signal);
    await runtime.update('c', { cpu: { shares: 2 } }, signal);
    const global = ['--root=/state/runc', '--log-format=json'];
    assert.deepEqual(
      asked.map(({ args }) => args),
      [
        [...global, 'start', 'c'],
        [...global, 'delete', '--force', 'c'],
        [...global, 'update', '--resources', '-', 'c'],
      ],
    );
    assert.equal(asked.at(-1)?.stdin, '{"cpu":{"shares":2}}');
  });

  it('deletes what is gone already', async () => {
    await runtimeThatSays({ exitCode: 1, stderr: errorLine('container does not exist') }).runtime.delete(
      'c',
      { force: false },
      signal,
    );
  });

  it('says what went wrong in the words of the runtime', async () => {
    const failing = (msg: string) => runtimeThatSays({ exitCode: 1, stderr: errorLine(msg) }).runtime;
    await assert.rejects(failing('disk on fire').start('c', signal), {
      kind: 'internal',
      message: 'runc start c: disk on fire',
    });
    await assert.rejects(failing('container does not exist').start('c', signal), { kind: 'notFound' });
    await assert.rejects(failing('cannot start a container that has stopped').start('c', signal), {
      kind: 'precondition',
    });
    await assert.rejects(runtimeThatSays({ exitCode: 3 }).runtime.start('c', signal), { message: /exit code 3/ });
  });

  it('tells the state, or that there is none', async () => {
    const state = runtimeThatSays({ stdout: '{"status":"created","pid":7}' }).runtime;
    assert.deepEqual(await state.findState('c', signal), { status: 'created', pid: 7 });
    const none = runtimeThatSays({ exitCode: 1, stderr: errorLine('container does not exist') }).runtime;
    assert.equal(await none.findState('c', signal), undefined);
    await assert.rejects(runtimeThatSays({ stdout: 'garbage' }).runtime.findState('c', signal), /makes no sense/);
  });
});

describe('parseState', () => {
  it('takes no state that the specification does not have', () => {
    assert.throws(() => parseState('{"status":"dreaming"}'), /unknown status "dreaming"/);
    assert.throws(() => parseState('{}'), /no status/);
    assert.deepEqual(parseState('{"status":"stopped"}'), { status: 'stopped', pid: 0 });
  });
});
