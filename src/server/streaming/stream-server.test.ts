import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { type Duplex, PassThrough, Readable } from 'node:stream';
import { buffer, text } from 'node:stream/consumers';
import { finished, pipeline } from 'node:stream/promises';
import { afterEach, beforeEach, describe as suite, test } from 'node:test';

import fc from 'fast-check';

import { SpdyClient, UpgradeRefused } from '../../../test/fakes/spdy-client.ts';
import {
  connectCommand,
  connectPortForward,
  exitCodeOf,
  runCommand,
  type Transport,
} from '../../../test/fakes/stream-client.ts';
import { WebSocketClient } from '../../../test/fakes/websocket-client.ts';
import { systemClock } from '../../base/clock.ts';
import { BerthError } from '../../base/errors.ts';
import { silentLogger } from '../../base/log.ts';
import type { PodStreams } from '../../pod/pod-streams.ts';
import type { ClientStreams } from '../../runtime/client-streams.ts';
import type { StreamRequest } from './stream-request.ts';
import { STREAM_TIMES, StreamServer } from './stream-server.ts';

/** Stands for the pods: runs `command` in memory. */
class FakePods implements Pick<PodStreams, 'exec' | 'attach' | 'portForward'> {
  readonly sizes: string[] = [];
  /** Signals of what runs. */
  readonly signals: AbortSignal[] = [];
  producedBytes = 0;
  readonly attached: ClientStreams[] = [];
  readonly began = new PassThrough({ objectMode: true });

  async exec(_id: string, { command }: { command: readonly string[] }, streams: ClientStreams, signal: AbortSignal) {
    const [name, argument = ''] = command;
    const { stdin, stdout, stderr } = streams;
    streams.onResize?.(({ width, height }) => this.sizes.push(`${width}x${height}`));
    this.signals.push(signal);
    this.began.write('exec');
    if (name === 'cat' && stdin && stdout) await pipeline(stdin, stdout, { signal });
    else if (name === 'wc' && stdin) stdout?.end(`${await count(stdin)}`);
    else if (name === 'zeros' && stdout) {
      const source = zeros(Number(argument)).on('data', ({ length }: Buffer) => {
        this.producedBytes += length;
      });
      await pipeline(source, stdout, { signal });
    } else if (name === 'say') {
      stdout?.end('out');
      stderr?.end('err');
    } else if (name === 'wait') await aborted(signal);
    else if (name === 'stuck' && stdin) await aborted(signal);
    else if (name === 'missing') throw new BerthError('notFound', 'no such program');
    return name === 'exit' ? Number(argument) : 0;
  }

  async attach(_id: string, _options: { tty: boolean }, streams: ClientStreams, signal: AbortSignal) {
    this.attached.push(streams);
    streams.stdout?.write('hello');
    await aborted(signal);
  }

  async portForward(_id: string, port: number, client: Duplex, signal: AbortSignal) {
    this.signals.push(signal);
    if (port === 1) throw new BerthError('unavailable', 'connect to port 1: connection refused');
    if (port === 2) {
      const err = new Error('connection reset by the pod');
      client.destroy(err);
      throw err;
    }
    if (port === 3) await aborted(signal);
    client.write(`port ${port}\n`);
    await pipeline(client, client, { signal });
  }
}

async function count(stdin: Readable): Promise<number> {
  let bytes = 0;
  for await (const { length } of stdin as AsyncIterable<Buffer>) bytes += length;
  return bytes;
}

function zeros(bytes: number): Readable {
  let left = bytes;
  return new Readable({
    read() {
      const size = Math.min(left, 65_536);
      left -= size;
      this.push(size > 0 ? Buffer.alloc(size) : null);
    },
  });
}

async function aborted(signal: AbortSignal): Promise<never> {
  if (!signal.aborted) await once(signal, 'abort');
  throw signal.reason;
}

const COMMAND = {
  kind: 'exec',
  containerId: 'c',
  command: ['cat'],
  tty: false,
  stdin: true,
  stdout: true,
  stderr: true,
} as const;

let pods: FakePods;
let server: StreamServer;

async function start(times: Partial<typeof STREAM_TIMES> = {}): Promise<void> {
  pods = new FakePods();
  server = new StreamServer({
    target: pods,
    log: silentLogger,
    clock: systemClock,
    times: { ...STREAM_TIMES, ...times },
  });
  await server.listen('127.0.0.1', 0);
}

async function exec(command: string[], more: Partial<Omit<StreamRequest, 'kind'>> & object = {}): Promise<string> {
  return await server.urlFor({ ...COMMAND, command, ...more } as StreamRequest);
}

beforeEach(async () => await start());
afterEach(async () => await server.close());

for (const transport of ['spdy', 'websocket'] as const satisfies Transport[]) {
  suite(`exec over ${transport}`, () => {
    test('stdin goes in, both outputs come out, each ends by itself', async () => {
      const cat = await runCommand(await exec(['cat']), transport, { stdin: 'to be echoed' });
      assert.equal(cat.stdout.toString(), 'to be echoed');
      const said = await runCommand(await exec(['say'], { stdin: false }), transport);
      assert.deepEqual([said.stdout.toString(), said.stderr.toString(), said.exitCode], ['out', 'err', 0]);
    });

    test('the exit code is told in the status', async () => {
      const { status, exitCode } = await runCommand(await exec(['exit', '42'], { stdin: false }), transport);
      assert.equal(exitCode, 42);
      assert.deepEqual(status, {
        metadata: {},
        status: 'Failure',
        message: 'command terminated with exit code 42',
        reason: 'NonZeroExitCode',
        details: { causes: [{ reason: 'ExitCode', message: '42' }] },
      });
      assert.equal((await runCommand(await exec(['exit', '0'], { stdin: false }), transport)).status.status, 'Success');
    });

    test('a command that cannot start is told as a failure, with the reason', async () => {
      const { status } = await runCommand(await exec(['missing'], { stdin: false }), transport);
      assert.deepEqual([status.status, status.reason], ['Failure', 'InternalError']);
      assert.match(status.message ?? '', /no such program/);
    });

    test('sizes of the terminal arrive, also the one sent first', async () => {
      const wanted = { stdin: true, stdout: true, tty: true };
      const client = await connectCommand(await exec(['cat'], { ...wanted, stderr: false }), transport, wanted);
      client.resize(0, 0);
      client.resize(80, 24);
      client.stdin.write('x');
      await once(client.stdout, 'data');
      client.resize(100, 50);
      client.stdin.end('y');
      assert.equal(await text(client.stdout), 'y');
      assert.equal(exitCodeOf(await client.status()), 0);
      assert.deepEqual(pods.sizes, ['80x24', '100x50']);
      client.close();
    });

    test('64 MiB pass each way', async () => {
      const bytes = 64 << 20;
      const { stdout } = await runCommand(await exec(['zeros', String(bytes)], { stdin: false }), transport);
      assert.equal(stdout.length, bytes);
      const url = await exec(['wc']);
      const client = await connectCommand(url, transport, { stdin: true, stdout: true, stderr: true });
      const [said] = await Promise.all([text(client.stdout), pipeline(zeros(bytes), client.stdin)]);
      assert.equal(said, String(bytes));
      client.close();
    });

    test('a client that does not read holds back the command, and nothing is lost', async () => {
      const bytes = 64 << 20;
      const url = await exec(['zeros', String(bytes)], { stdin: false });
      const client = await connectCommand(url, transport, { stdout: true, stderr: true });
      await once(pods.began, 'data');
      await stable(() => pods.producedBytes);
      assert.ok(pods.producedBytes < bytes / 2, `${pods.producedBytes} bytes were produced`);
      const { length } = await buffer(client.stdout);
      assert.equal(length, bytes);
      client.close();
    });

    test('a command that does not read holds back the client', async () => {
      const client = await connectCommand(await exec(['stuck']), transport, {
        stdin: true,
        stdout: true,
        stderr: true,
      });
      const source = zeros(1 << 30);
      let sent = 0;
      source.on('data', (chunk: Buffer) => {
        sent += chunk.length;
      });
      source.pipe(client.stdin);
      await stable(() => sent);
      assert.ok(sent < 64 << 20, `${sent} bytes were taken`);
      client.vanish();
    });

    test('the command is told when its client vanishes', async () => {
      const client = await connectCommand(await exec(['wait']), transport, { stdin: true, stdout: true, stderr: true });
      await once(pods.began, 'data');
      const [signal] = pods.signals;
      assert.ok(signal);
      client.vanish();
      if (!signal.aborted) await once(signal, 'abort');
    });

    test('also when it vanishes while nothing is read from it', async () => {
      await server.close();
      await start({ probeIntervalMs: 20 });
      const client = await connectCommand(await exec(['stuck']), transport, {
        stdin: true,
        stdout: true,
        stderr: true,
      });
      let sent = 0;
      const source = zeros(1 << 30).on('data', (chunk: Buffer) => {
        sent += chunk.length;
      });
      source.pipe(client.stdin);
      await stable(() => sent);
      const [signal] = pods.signals;
      assert.ok(signal && !signal.aborted);
      client.vanish();
      if (!signal.aborted) await once(signal, 'abort');
    });

    test('a slow client gets the rest after the command has ended', async () => {
      const url = await exec(['zeros', String(8 << 20)], { stdin: false });
      const client = await connectCommand(url, transport, { stdout: true, stderr: true });
      await once(pods.began, 'data');
      let bytes = 0;
      for await (const { length } of client.stdout as AsyncIterable<Buffer>) {
        bytes += length;
        await new Promise((resolve) => setImmediate(resolve));
      }
      assert.equal(bytes, 8 << 20);
      assert.equal((await client.status()).status, 'Success');
      client.close();
    });

    test('closing the server ends the session with a reason', async () => {
      const client = await connectCommand(await exec(['wait']), transport, { stdin: true, stdout: true, stderr: true });
      await once(pods.began, 'data');
      const closing = server.close();
      assert.match((await client.status()).message ?? '', /berthd is stopping/);
      client.close();
      await closing;
    });

    test('a client that says nothing for too long is sent away', async () => {
      await server.close();
      await start({ idleTimeoutMs: 400 });
      const client = await connectCommand(await exec(['wait']), transport, { stdin: true, stdout: true, stderr: true });
      await once(pods.began, 'data');
      const [signal] = pods.signals;
      assert.ok(signal);
      if (!signal.aborted) await once(signal, 'abort');
      await client.closed;
    });
  });

  suite(`port-forward over ${transport}`, () => {
    test('many connections at once, each with its own end', async () => {
      const client = await connectPortForward(await server.urlFor(portForward()), transport);
      const answers = await Promise.all(
        Array.from({ length: 50 }, async (_, index) => {
          const { data, error } = await client.connect(8000 + index);
          data.end(`hello ${index}`);
          return [await text(data), await error];
        }),
      );
      assert.deepEqual(
        answers,
        Array.from({ length: 50 }, (_, index) => [`port ${8000 + index}\nhello ${index}`, '']),
      );
      client.close();
      await client.closed;
    });

    test('a port that nobody listens on is told on the error stream', async () => {
      const client = await connectPortForward(await server.urlFor(portForward()), transport);
      const { error } = await client.connect(1);
      assert.match(await error, /connection refused/);
      client.close();
    });

    test('a connection that the pod reset is reset, and the next one works', async () => {
      const client = await connectPortForward(await server.urlFor(portForward()), transport);
      const broken = await client.connect(2);
      await finished(broken.data).catch(() => {});
      assert.equal(await broken.error, '');
      const { data } = await client.connect(80);
      data.end('again');
      assert.equal(await text(data), 'port 80\nagain');
      client.close();
    });

    test('all connections end with their client', async () => {
      const client = await connectPortForward(await server.urlFor(portForward()), transport);
      const { data } = await client.connect(80);
      await once(data, 'readable');
      const [signal] = pods.signals;
      client.vanish();
      assert.ok(signal);
      if (!signal.aborted) await once(signal, 'abort');
    });

    test('closing the server ends them', async () => {
      const client = await connectPortForward(await server.urlFor(portForward()), transport);
      await client.connect(80);
      await server.close();
      await client.closed;
    });
  });
}

suite('older protocols', () => {
  test('before v4, SPDY clients are told of a failure in plain words, and of success by nothing', async () => {
    for (const [command, said] of [
      [['exit', '3'], 'command terminated with exit code 3'],
      [['exit', '0'], ''],
    ] as const) {
      const client = await SpdyClient.connect(await exec([...command], { stdin: false, stderr: false }), [
        'v3.channel.k8s.io',
        'v2.channel.k8s.io',
      ]);
      assert.equal(client.protocol, 'v3.channel.k8s.io');
      const error = await client.open({ streamtype: 'error' });
      await client.open({ streamtype: 'stdout' });
      assert.equal(await text(error), said);
      client.close();
    }
  });

  for (const protocol of ['v4.channel.k8s.io', 'v4.base64.channel.k8s.io', 'channel.k8s.io', 'base64.channel.k8s.io']) {
    test(`${protocol} over WebSocket, without half-close`, async () => {
      const client = await WebSocketClient.connect(await exec(['cat']), [protocol]);
      assert.equal(client.protocol, protocol);
      client.channel(0).write('echo');
      const [chunk] = (await once(client.channel(1), 'data')) as [Buffer];
      assert.equal(chunk.toString(), 'echo');
      client.socket.close();
      await client.closed;
    });
  }

  test('a WebSocket client that names no protocol gets the first one', async () => {
    const client = await WebSocketClient.connect(await exec(['exit', '7'], { stdin: false }), []);
    assert.equal(await text(client.channel(3)), 'command terminated with exit code 7');
    assert.equal(await client.closed, 1000);
    // It is greeted with an empty message on stdout.
    assert.deepEqual(client.firstMessages[0], Buffer.from([1]));
  });

  test('port-forward by WebSocket channels: two a port, each begins with the port', async () => {
    const url = await server.urlFor({ ...portForward(), ports: [8080, 1] });
    const client = await WebSocketClient.connect(url, ['v4.channel.k8s.io'], { channels: 4 });
    client.channel(0).write('ping');
    let said = Buffer.alloc(0);
    for await (const chunk of client.channel(0) as AsyncIterable<Buffer>) {
      said = Buffer.concat([said, chunk]);
      if (said.includes('ping')) break;
    }
    assert.deepEqual(said, Buffer.concat([Buffer.from([0x90, 0x1f]), Buffer.from('port 8080\nping')]));
    const failed = Buffer.concat(
      client.firstMessages.filter((message) => message[0] === 3).map((one) => one.subarray(1)),
    );
    assert.deepEqual(failed.subarray(0, 2), Buffer.from([1, 0]));
    assert.match(failed.subarray(2).toString(), /connection refused/);
    client.socket.terminate();
  });

  test('a stream that the client gives up before it has opened the other one is forgotten', async () => {
    const url = await server.urlFor({ kind: 'portforward', sandboxId: 's', ports: [] });
    const client = await SpdyClient.connect(url, ['portforward.k8s.io']);
    const headers = { port: '80', requestid: '0' };
    client.reset(await client.open({ streamtype: 'error', ...headers }));
    // Would complete the pair of the stream that is gone, if that one had stayed.
    await client.open({ streamtype: 'data', ...headers });
    assert.equal(pods.signals.length, 0);
    const error = await client.open({ streamtype: 'error', ...headers });
    error.end();
    assert.equal(pods.signals.length, 1);
    client.close();
    await client.closed;
  });

  test('connections that the client resets count as long as they are carried', async () => {
    const url = await server.urlFor({ kind: 'portforward', sandboxId: 's', ports: [] });
    const client = await SpdyClient.connect(url, ['portforward.k8s.io']);
    const connect = async (id: number): Promise<void> => {
      const headers = { port: '3', requestid: String(id) };
      const error = await client.open({ streamtype: 'error', ...headers });
      client.reset(await client.open({ streamtype: 'data', ...headers }));
      client.reset(error);
    };
    await Promise.all(Array.from({ length: 1024 }, (_, id) => connect(id)));
    await assert.rejects(connect(1024), /status 3/);
    assert.equal(pods.signals.length, 1024);
    client.close();
    await client.closed;
  });

  test('old port-forward clients give no request id', async () => {
    const client = await SpdyClient.connect(await server.urlFor(portForward()), ['portforward.k8s.io']);
    await client.open({ streamtype: 'error', port: '80' });
    const data = await client.open({ streamtype: 'data', port: '80' });
    data.end();
    assert.equal(await text(data), 'port 80\n');
    client.close();
  });
});

suite('clients that behave oddly', () => {
  test('one that resets its output hears the exit code all the same', async () => {
    const client = await SpdyClient.connect(await exec(['zeros', String(1 << 30)], { stdin: false, stderr: false }), [
      'v4.channel.k8s.io',
    ]);
    const error = await client.open({ streamtype: 'error' });
    const stdout = await client.open({ streamtype: 'stdout' });
    await once(stdout, 'readable');
    client.reset(stdout);
    assert.match(await text(error), /"status":"Failure"/);
    client.close();
    await client.closed;
  });

  test('WebSocket messages in any order break nothing but the session', async () => {
    const channel = fc.constantFrom(0, 1, 2, 3, 4, 5, 48, 49, 52, 100, 255);
    const message = fc
      .tuple(fc.option(channel), fc.uint8Array({ maxLength: 30 }))
      .map(([number, rest]) => Buffer.from([...(number === null ? [] : [number]), ...rest]));
    const protocols = ['v5.channel.k8s.io', 'v4.channel.k8s.io', 'v4.base64.channel.k8s.io', 'channel.k8s.io'];
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...protocols),
        fc.array(message, { maxLength: 20 }),
        async (protocol, messages) => {
          const client = await WebSocketClient.connect(await exec(['cat']), [protocol]);
          for (const bytes of messages) client.socket.send(bytes);
          client.socket.close(1000);
          await client.closed;
        },
      ),
      { numRuns: 100 },
    );
    assert.equal((await runCommand(await exec(['cat']), 'websocket', { stdin: 'alive' })).stdout.toString(), 'alive');
  });
});

suite('what a client may not do', () => {
  test('a URL works once', async () => {
    const url = await exec(['exit', '0'], { stdin: false });
    await runCommand(url, 'spdy');
    await assert.rejects(runCommand(url, 'spdy'), refusal(404));
    await assert.rejects(runCommand(url, 'websocket'), refusal(404));
  });

  test('a URL works only for what it was given out for', async () => {
    const url = await exec(['cat']);
    await assert.rejects(runCommand(url.replace('/exec/', '/attach/'), 'spdy'), refusal(404));
    await assert.rejects(runCommand(url, 'spdy'), refusal(404));
  });

  test('an upgrade to anything else, or none', async () => {
    const client = SpdyClient.connect(await exec(['cat']), ['v4.channel.k8s.io'], { headers: { Upgrade: 'h2c' } });
    await assert.rejects(client, refusal(400));
    const response = await fetch(await exec(['cat']));
    assert.equal(response.status, 400);
    assert.equal((await fetch(`${(await exec(['cat'])).replace(/\/exec\/.*/, '')}/healthz`)).status, 404);
  });

  test('protocols that the server does not have', async () => {
    await assert.rejects(SpdyClient.connect(await exec(['cat']), []), refusal(400));
    const refused = await SpdyClient.connect(await exec(['cat']), ['v9.channel.k8s.io']).catch((err: unknown) => err);
    assert.ok(refused instanceof UpgradeRefused);
    assert.equal(refused.status, 403);
    assert.match(String(refused.headers['x-accepted-stream-protocol-versions']), /v4\.channel\.k8s\.io/);
    await assert.rejects(WebSocketClient.connect(await exec(['cat']), ['v9.channel.k8s.io']), refusal(403));
    await assert.rejects(
      WebSocketClient.connect(await server.urlFor(portForward()), ['v4.channel.k8s.io']),
      refusal(403),
    );
  });

  test('not opening its streams', async () => {
    await server.close();
    await start({ creationTimeoutMs: 1000 });
    const client = await SpdyClient.connect(await exec(['cat']), ['v4.channel.k8s.io']);
    const error = await client.open({ streamtype: 'error' });
    assert.match(await text(error), /did not open its streams within 1000 ms/);
    await client.closed;
    assert.equal(pods.signals.length, 0);
    const forward = await SpdyClient.connect(await server.urlFor(portForward()), ['portforward.k8s.io']);
    assert.match(await text(await forward.open({ streamtype: 'error', port: '80', requestid: '0' })), /timed out/);
    forward.close();
  });

  test('streams that mean nothing are reset', async () => {
    const client = await SpdyClient.connect(await exec(['cat']), ['v4.channel.k8s.io']);
    await client.open({ streamtype: 'error' });
    await assert.rejects(client.open({ streamtype: 'error' }), /reset/);
    await assert.rejects(client.open({ streamtype: 'music' }), /reset/);
    await assert.rejects(client.open({}), /reset/);
    client.vanish();
    const forward = await SpdyClient.connect(await server.urlFor(portForward()), ['portforward.k8s.io']);
    for (const port of ['0', '65536', '-1', 'http', ''])
      await assert.rejects(forward.open({ streamtype: 'data', port, requestid: '0' }), /reset/);
    forward.close();
  });

  test('connections without a word do not keep out who was granted something', async () => {
    const running = await connectCommand(await exec(['wait']), 'spdy', { stdin: true, stdout: true, stderr: true });
    const { hostname, port } = new URL(await exec(['say']));
    const idle: Socket[] = [];
    let left = 0;
    for (let count = 0; count < 600; count++) {
      const socket = connect(Number(port), hostname).on('error', () => {});
      idle.push(socket.once('close', () => left++));
      await once(socket, 'connect');
    }
    const said = await runCommand(await exec(['say'], { stdin: false }), 'spdy');
    assert.equal(said.stdout.toString(), 'out');
    assert.ok(left > 80 && left < 100, `${left} gave way`);
    for (const socket of idle) socket.destroy();
    assert.equal(pods.signals[0]?.aborted, false);
    running.vanish();
  });

  test('more than 1000 URLs at once', async () => {
    const urls = await Promise.all(Array.from({ length: 1000 }, async () => await exec(['cat'])));
    assert.equal(new Set(urls).size, 1000);
    await assert.rejects(exec(['cat']), { kind: 'exhausted' });
    await runCommand(urls[0] ?? '', 'spdy', { stdin: 'x' });
    await exec(['cat']);
  });

  test('bytes that are no SPDY end the connection, not the server', async () => {
    const client = await SpdyClient.connect(await exec(['cat']), ['v4.channel.k8s.io']);
    client.transport.write(Buffer.alloc(1 << 16, 0xff));
    await client.closed;
    const web = await WebSocketClient.connect(await exec(['cat']), ['v5.channel.k8s.io']);
    web.socket.send(Buffer.from([255, 200]));
    assert.equal(await web.closed, 1002);
    assert.equal((await runCommand(await exec(['cat']), 'spdy', { stdin: 'alive' })).stdout.toString(), 'alive');
  });
});

function portForward(): StreamRequest & { kind: 'portforward' } {
  return { kind: 'portforward', sandboxId: 's', ports: [] };
}

function refusal(status: number): (err: unknown) => boolean {
  return (err) => err instanceof UpgradeRefused && err.status === status;
}

/** Waits until a number no longer changes. */
async function stable(read: () => number): Promise<void> {
  let [last, quiet] = [-1, 0];
  while (quiet < 20) {
    await new Promise((resolve) => setTimeout(resolve, 5));
    const now = read();
    quiet = now === last ? quiet + 1 : 0;
    last = now;
  }
}
