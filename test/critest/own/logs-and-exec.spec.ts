/** Facts about logs and commands in containers. */

import assert from 'node:assert/strict';
import { readFileSync, renameSync } from 'node:fs';
import { after, afterEach, before, test } from 'node:test';

import { status } from '@grpc/grpc-js';

import {
  AttachRequest,
  ExecRequest,
  ExecSyncRequest,
  ExecSyncResponse,
  PortForwardRequest,
  RunPodSandboxRequest,
  RuntimeServiceService as runtime,
} from '../../../proto/gen/cri/api.ts';
import {
  connectCommand,
  connectPortForward,
  exitCodeOf,
  runCommand,
  type Transport,
} from '../../fakes/stream-client.ts';
import { eventually, readLog } from '../../harness/cri-lab.ts';
import { Server, WEB_SERVER } from './server.ts';

const MIB = 1 << 20;
const script = (text: string) => ({ command: ['/bin/sh', '-c', text] });
const TRANSPORTS: readonly Transport[] = ['spdy', 'websocket'];
let server: Server;

before(async () => {
  server = await Server.connect();
});
afterEach(async () => await server.removeAll());
// Without any fact that was asked for in this file there is none.
after(async () => await (server as Server | undefined)?.[Symbol.asyncDispose]());

const execSync = async (containerId: string, cmd: readonly string[], timeout = 0n) =>
  await server.connection.call(runtime.execSync, ExecSyncRequest.create({ containerId, cmd: [...cmd], timeout }));
const exec = async (containerId: string, cmd: readonly string[], streams: object): Promise<string> => {
  const request = ExecRequest.create({ containerId, cmd: [...cmd], stdout: true, stderr: true, ...streams });
  return (await server.connection.call(runtime.exec, request)).url;
};

test('fact 36: lines of a log have time, stream and tag', async () => {
  const pod = await server.runPod();
  const { logPath } = await server.run(pod, script('echo out; echo err >&2; printf unfinished'));
  const lines = readLog(logPath).map(({ stream, tag, text }) => [stream, tag, text]);
  assert.ok(lines.some((line) => line.join() === 'stdout,F,out'));
  assert.ok(lines.some((line) => line.join() === 'stderr,F,err'));
  assert.ok(lines.some(([stream, , text]) => stream === 'stdout' && text === 'unfinished'));
});

test('fact 36: with a terminal all is stdout', async () => {
  const pod = await server.runPod();
  const { logPath } = await server.run(pod, { ...script('echo out; echo err >&2'), tty: true });
  const lines = readFileSync(logPath, 'utf8').split('\n');
  assert.ok(lines.every((line) => line === '' || line.includes(' stdout ')));
});

test('fact 37: a long line comes in pieces that make up the whole', async () => {
  const pod = await server.runPod();
  const { logPath } = await server.run(pod, script('head -c 100000 /dev/zero | tr "\\0" a; echo'));
  const pieces = readLog(logPath).filter(({ text }) => text !== '');
  assert.equal(pieces.map(({ text }) => text).join('').length, 100_000);
  assert.ok(pieces.slice(0, -1).every(({ tag }) => tag === 'P'));
  assert.equal(readLog(logPath).at(-1)?.tag, 'F');
});

test('fact 39: a reopened log goes on in a new file', async () => {
  const pod = await server.runPod();
  const id = await server.start(pod, script('while :; do echo line; sleep 0.05; done'));
  const { logPath } = await server.status(id);
  await eventually('a first line', () => (readLog(logPath).length > 0 ? true : undefined));
  renameSync(logPath, `${logPath}.1`);
  await server.connection.call(runtime.reopenContainerLog, { containerId: id });
  await eventually('a line in the new file', () => (readLog(logPath).length > 0 ? true : undefined));
});

test('fact 39: the log of a container that does not run is not reopened', async () => {
  const pod = await server.runPod();
  const { id } = await server.run(pod, script('exit 0'));
  assert.notEqual((await server.connection.fails(runtime.reopenContainerLog, { containerId: id })).code, status.OK);
});

test('fact 40: a relative log directory is refused', async () => {
  const config = server.podConfig({ logDirectory: 'not/absolute' });
  const request = RunPodSandboxRequest.create({ config, runtimeHandler: server.handler });
  assert.equal((await server.connection.fails(runtime.runPodSandbox, request)).code, status.INVALID_ARGUMENT);
});

test('fact 43: the output of ExecSync is cut at what a kubelet can receive, 16 MiB, and the command goes on', async () => {
  const pod = await server.runPod();
  const id = await server.start(pod);
  const answer = await execSync(id, ['sh', '-c', 'head -c 20000000 /dev/zero; head -c 10 /dev/zero >&2; exit 7']);
  assert.deepEqual([answer.stderr.length, answer.exitCode], [10, 7]);
  assert.ok(answer.stdout.length > 16 * MIB - 1024);
  const bytes = ExecSyncResponse.encode(answer).finish().length;
  assert.ok(bytes <= 16 * MIB, `${bytes} bytes are more than the kubelet takes`);
});

test('facts 44, 45: a command that takes too long is gone with its children when the answer comes', async () => {
  const pod = await server.runPod();
  const id = await server.start(pod);
  const slow = ['sh', '-c', 'sleep 4321 & (sleep 4322 &) ; setsid sleep 4323 & sleep 4324'];
  const request = ExecSyncRequest.create({ containerId: id, cmd: slow, timeout: 1n });
  assert.equal((await server.connection.fails(runtime.execSync, request)).code, status.DEADLINE_EXCEEDED);
  assert.doesNotMatch(await server.exec(id, 'ps'), /sleep 432/);
});

test('fact 45: a process that is left behind does not keep the answer', async () => {
  const pod = await server.runPod();
  const id = await server.start(pod);
  const startedMs = performance.now();
  const answer = await execSync(id, ['sh', '-c', 'sleep 60 & echo done'], 30n);
  assert.equal(Buffer.from(answer.stdout).toString(), 'done\n');
  assert.ok(performance.now() - startedMs < 10_000);
});

test('fact 46: no command, or a container that does not run, is an error', async () => {
  const pod = await server.runPod();
  const id = await server.start(pod);
  const ended = (await server.run(pod, script('exit 0'))).id;
  await server.connection.fails(runtime.execSync, ExecSyncRequest.create({ containerId: id }));
  await server.connection.fails(runtime.execSync, ExecSyncRequest.create({ containerId: ended, cmd: ['true'] }));
  await server.connection.fails(runtime.exec, ExecRequest.create({ containerId: ended, cmd: ['true'], stdout: true }));
});

test('fact 48: a terminal has no stderr, and one stream there must be', async () => {
  const pod = await server.runPod();
  const id = await server.start(pod);
  const wishes = [{ tty: true, stdout: true, stderr: true }, {}];
  for (const wish of wishes) {
    const request = ExecRequest.create({ containerId: id, cmd: ['true'], ...wish });
    assert.equal((await server.connection.fails(runtime.exec, request)).code, status.INVALID_ARGUMENT);
  }
});

for (const transport of TRANSPORTS) {
  test(`fact 49: a URL is good for one connection (${transport})`, async () => {
    const pod = await server.runPod();
    const id = await server.start(pod);
    const url = await exec(id, ['true'], {});
    assert.equal((await runCommand(url, transport)).exitCode, 0);
    await assert.rejects(runCommand(url, transport));
  });

  test(`fact 50: output, input and exit code of a command (${transport})`, async () => {
    const pod = await server.runPod();
    const id = await server.start(pod);
    const url = await exec(id, ['sh', '-c', 'cat; echo err >&2; exit 5'], { stdin: true });
    const result = await runCommand(url, transport, { stdin: 'hello' });
    assert.deepEqual([result.stdout.toString(), result.stderr.toString(), result.exitCode], ['hello', 'err\n', 5]);
    assert.equal(result.status.reason, 'NonZeroExitCode');
  });

  test(`fact 24: a command ends when its container stops (${transport})`, async () => {
    const pod = await server.runPod();
    const id = await server.start(pod);
    const client = await connectCommand(await exec(id, ['sleep', '600'], {}), transport, {
      stdout: true,
      stderr: true,
    });
    const told = client.status();
    client.stdout.resume();
    client.stderr.resume();
    await server.connection.call(runtime.stopContainer, { containerId: id, timeout: 0n });
    assert.notEqual(exitCodeOf(await told), 0);
    client.close();
  });

  test(`fact 51: an attached client writes and reads, and its end leaves the container (${transport})`, async () => {
    const pod = await server.runPod();
    const id = await server.start(pod, { ...script('while read line; do echo "got $line"; done'), stdin: true });
    const request = AttachRequest.create({ containerId: id, stdin: true, stdout: true, stderr: true });
    const { url } = await server.connection.call(runtime.attach, request);
    const client = await connectCommand(url, transport, { stdin: true, stdout: true, stderr: true });
    let said = '';
    client.stdout.on('data', (chunk: Buffer) => {
      said += chunk.toString();
    });
    client.stderr.resume();
    client.stdin.write('one\n');
    await eventually('an answer', () => (said.includes('got one\n') ? true : undefined));
    client.vanish();
    assert.equal(await server.exec(id, 'echo', 'alive'), 'alive');
  });

  test(`fact 53: a port of the pod, and the end of a connection (${transport})`, async () => {
    const pod = await server.runPod();
    const id = await server.start(pod, { command: [...WEB_SERVER] });
    await eventually('it listens', async () =>
      /:8080/.test(await server.exec(id, 'netstat', '-ltn')) ? true : undefined,
    );
    const request = PortForwardRequest.create({ podSandboxId: pod, port: [8080] });
    const { url } = await server.connection.call(runtime.portForward, request);
    const client = await connectPortForward(url, transport);
    for (let i = 0; i < 3; i++) {
      const { data } = await client.connect(8080);
      data.write('GET / HTTP/1.0\r\n\r\n');
      let said = '';
      for await (const chunk of data as AsyncIterable<Buffer>) said += chunk.toString();
      assert.match(said, /page\n$/);
    }
    const { error, data } = await client.connect(9);
    data.resume();
    assert.notEqual(await error, '');
    client.close();
  });
}
