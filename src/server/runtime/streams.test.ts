import assert from 'node:assert/strict';
import { describe as suite, test } from 'node:test';

import { AttachRequest, ExecRequest, PortForwardRequest } from '../../../proto/gen/cri/api.ts';
import { BerthError } from '../../base/errors.ts';
import type { ContainerId, SandboxId } from '../../base/ids.ts';
import type { StreamRequest } from '../streaming/stream-request.ts';
import { attach } from './attach.ts';
import { exec } from './exec.ts';
import { portForward } from './port-forward.ts';

const { signal } = new AbortController();
const call = { signal, patience: signal };

function setUp() {
  const granted: StreamRequest[] = [];
  const server = {
    urlFor: async (request: StreamRequest) => {
      granted.push(request);
      return `http://127.0.0.1:1/${request.kind}/token`;
    },
  };
  const found = (id: string): ContainerId & SandboxId => {
    if (id !== 'short') throw new BerthError('notFound', `${id}: not there`);
    return 'whole' as ContainerId & SandboxId;
  };
  const pods = {
    checkExec: (id: string) => ({ containerId: found(id) }),
    checkAttach: (id: string) => ({ containerId: found(id) }),
    checkPortForward: (id: string) => ({ sandboxId: found(id) }),
  };
  return { granted, exec: exec(pods, server), attach: attach(pods, server), portForward: portForward(pods, server) };
}

suite('the RPCs that prepare streams', () => {
  test('Exec answers a URL for the container it has found', async () => {
    const { granted, ...rpcs } = setUp();
    const request = ExecRequest.create({
      containerId: 'short',
      cmd: ['ls', '/'],
      stdout: true,
      stdin: true,
      tty: true,
    });
    assert.deepEqual(await rpcs.exec(request, call), { url: 'http://127.0.0.1:1/exec/token' });
    assert.deepEqual(granted, [
      { kind: 'exec', containerId: 'whole', command: ['ls', '/'], stdin: true, stdout: true, stderr: false, tty: true },
    ]);
  });

  test('Attach and PortForward do', async () => {
    const { granted, ...rpcs } = setUp();
    await rpcs.attach(AttachRequest.create({ containerId: 'short', stdout: true, stderr: true }), call);
    await rpcs.portForward(PortForwardRequest.create({ podSandboxId: 'short', port: [1, 65_535] }), call);
    assert.deepEqual(granted, [
      { kind: 'attach', containerId: 'whole', command: [], stdin: false, stdout: true, stderr: true, tty: false },
      { kind: 'portforward', sandboxId: 'whole', ports: [1, 65_535] },
    ]);
  });

  for (const [name, fields, field] of [
    ['no stream', { cmd: ['ls'] }, 'stdin'],
    ['a terminal with stderr', { cmd: ['ls'], stdout: true, stderr: true, tty: true }, 'stderr'],
    ['no command', { stdout: true }, 'cmd'],
    ['an empty command', { cmd: [''], stdout: true }, 'cmd'],
    ['a NUL byte', { cmd: ['ls', 'a\0b'], stdout: true }, 'cmd'],
  ] as const) {
    test(`Exec with ${name} is invalid, whatever the container`, async () => {
      const { granted, ...rpcs } = setUp();
      const request = ExecRequest.create({
        containerId: 'unknown',
        ...fields,
        cmd: [...('cmd' in fields ? fields.cmd : [])],
      });
      await assert.rejects(async () => await rpcs.exec(request, call), {
        kind: 'invalid',
        message: new RegExp(`^${field}:`),
      });
      assert.deepEqual(granted, []);
    });
  }

  test('Attach with a terminal and stderr, or with no stream, is invalid', async () => {
    const rpcs = setUp();
    for (const fields of [{}, { tty: true, stdout: true, stderr: true }])
      await assert.rejects(async () => await rpcs.attach(AttachRequest.create(fields), call), { kind: 'invalid' });
  });

  test('PortForward with a number that is no port is invalid', async () => {
    const rpcs = setUp();
    for (const port of [0, -1, 65_536]) {
      const request = PortForwardRequest.create({ podSandboxId: 'short', port: [80, port] });
      await assert.rejects(async () => await rpcs.portForward(request, call), {
        kind: 'invalid',
        message: /^port\[1\]:/,
      });
    }
  });

  test('what is not there is not found before a URL is given out', async () => {
    const { granted, ...rpcs } = setUp();
    const gone = { kind: 'notFound' };
    await assert.rejects(
      async () => await rpcs.exec(ExecRequest.create({ containerId: 'x', cmd: ['ls'], stdout: true }), call),
      gone,
    );
    await assert.rejects(
      async () => await rpcs.attach(AttachRequest.create({ containerId: 'x', stdout: true }), call),
      gone,
    );
    await assert.rejects(
      async () => await rpcs.portForward(PortForwardRequest.create({ podSandboxId: 'x' }), call),
      gone,
    );
    assert.deepEqual(granted, []);
  });
});
