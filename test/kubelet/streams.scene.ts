import assert from 'node:assert/strict';
import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { after, afterEach, before, suite, test } from 'node:test';

import { connectCommand, connectPortForward } from '../fakes/stream-client.ts';
import { NODE } from './kubelet.ts';
import { KubeletLab } from './kubelet-lab.ts';
import { until } from './until.ts';

suite("the kubelet's own API", () => {
  let lab: KubeletLab;
  const tls = (): { ca: Buffer } => ({ ca: lab.kubelet.authority });

  before(async () => {
    const rotation = { containerLogMaxSize: '64Ki', containerLogMaxFiles: 3, containerLogMonitorInterval: '3s' };
    lab = await KubeletLab.start({ config: rotation });
    const command = [
      'sh',
      '-c',
      'echo out; echo err >&2; httpd -p 8080 -h /www; while read -r line; do echo "got $line"; done',
    ];
    lab.run('main', [
      { command, stdin: true },
      { name: 'shell', command: ['sh'], stdin: true, tty: true },
    ]);
    await lab.ready('main');
  });
  after(() => lab[Symbol.asyncDispose]());
  afterEach((test) => lab.afterTest(test));

  for (const transport of ['spdy', 'websocket'] as const) {
    test(`exec over ${transport}: input, both outputs, exit code`, async () => {
      const done = await lab.exec('main', ['sh', '-c', 'cat; echo error >&2; exit 7'], {
        transport,
        stdin: 'some input',
      });
      assert.equal(done.stdout.toString(), 'some input');
      assert.equal(done.stderr.toString(), 'error\n');
      assert.equal(done.exitCode, 7);
    });

    test(`exec over ${transport}: a megabyte each way arrives whole`, async () => {
      const stdin = 'x'.repeat(1_000_000);
      const done = await lab.exec('main', ['cat'], { transport, stdin });
      assert.equal(done.stdout.length, stdin.length);
      assert.equal(done.exitCode, 0);
    });

    test(`exec over ${transport}: a terminal with a size`, async () => {
      const url = `${lab.kubelet.url}/exec/default/main-${NODE}/main?command=sh&input=1&output=1&tty=1`;
      const client = await connectCommand(url, transport, { stdin: true, stdout: true, tty: true }, tls());
      client.resize(101, 42);
      client.stdin.write('until [ "$(stty size)" = "42 101" ]; do sleep 0.1; done; echo "si""zed"; exit 5\n');
      const [output, status] = await Promise.all([buffer(client.stdout), client.status()]);
      assert.match(output.toString(), /sized/);
      assert.equal(status.reason, 'NonZeroExitCode');
      client.close();
    });

    test(`attach over ${transport}: what the container says to what it is told`, async () => {
      const url = `${lab.kubelet.url}/attach/default/main-${NODE}/main?input=1&output=1`;
      const client = await connectCommand(url, transport, { stdin: true, stdout: true }, tls());
      const seen: Buffer[] = [];
      client.stdout.on('data', (chunk: Buffer) => seen.push(chunk));
      client.stdin.write(`${transport}\n`);
      await until('an answer', 20_000, () => (Buffer.concat(seen).includes(`got ${transport}\n`) ? true : undefined));
      client.vanish();
    });

    test(`port-forward over ${transport}`, async () => {
      const url = `${lab.kubelet.url}/portForward/default/main-${NODE}${transport === 'websocket' ? '?port=8080' : ''}`;
      const client = await connectPortForward(url, transport, tls());
      for (let round = 0; round < 3; round++) {
        const { data } = await client.connect(8080);
        data.end('GET /index.html HTTP/1.0\r\n\r\n');
        assert.match((await buffer(data)).toString(), /hello from berth/);
      }
      client.close();
    });
  }

  test('run: a command without streams', async () => {
    const { status, text } = await lab.kubelet.get(`/run/default/main-${NODE}/main?cmd=echo%20hello`, 'POST');
    assert.deepEqual({ status, text }, { status: 200, text: 'hello\n' });
  });

  test('logs: all, the last lines, some bytes, with times, of one stream, since a time', async () => {
    assert.match(await lab.logs('main'), /^out\nerr\n/);
    assert.equal((await lab.logs('main', 'main', '?tailLines=1')).split('\n').length, 2);
    assert.equal(await lab.logs('main', 'main', '?limitBytes=3'), 'out');
    assert.match(await lab.logs('main', 'main', '?timestamps=true&limitBytes=40'), /^\d{4}-\d\d-\d\dT[\d:.]+Z out\n/);
    assert.equal(await lab.logs('main', 'main', `?sinceTime=${new Date(Date.now() + 60_000).toISOString()}`), '');
  });

  test('logs: following ends with the container', async () => {
    lab.run('counting', [{ command: ['sh', '-c', 'for i in 1 2 3 4 5; do echo $i; sleep 0.5; done'] }], {
      restartPolicy: 'Never',
    });
    await lab.pod(
      'counting',
      'to have begun',
      ({ status }) => status.phase === 'Running' || status.phase === 'Succeeded',
    );
    assert.equal(await lab.logs('counting', 'main', '?follow=true'), '1\n2\n3\n4\n5\n');
    lab.drop('counting');
  });

  test('logs are rotated by the kubelet, and the container goes on in a new file', async () => {
    const line = 'x'.repeat(1000);
    lab.run('wordy', [{ command: ['sh', '-c', `i=0; while :; do i=$((i+1)); echo $i ${line}; sleep 0.02; done`] }]);
    const pod = await lab.ready('wordy');
    const folder = join(lab.kubelet.root, 'logs', `default_${pod.metadata.name}_${pod.metadata.uid}`, 'main');
    // One is the newest, one the last before it, which is not packed yet.
    await until('two rotations', 90_000, () => (readdirSync(folder).length >= 3 ? true : undefined));
    const number = async (): Promise<number> => Number((await lab.logs('wordy', 'main', '?tailLines=1')).split(' ')[0]);
    const first = await number();
    await until('more lines', 20_000, async () => ((await number()) > first ? true : undefined));
    assert.ok(statSync(join(folder, '0.log')).size < 1_000_000, 'the newest file is small');
    lab.drop('wordy');
  });

  test('what is not there is told so', async () => {
    const { status } = await lab.kubelet.get(`/containerLogs/default/main-${NODE}/nobody`);
    assert.ok(status >= 400, `it is ${status}`);
    const { exitCode, status: said } = await lab.exec('main', ['/no/such/program']);
    assert.notEqual(exitCode, 0);
    assert.match(`${said.message}`, /no such file|not found|127|126/);
  });
});
