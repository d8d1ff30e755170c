import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readlinkSync } from 'node:fs';
import { type Duplex, duplexPair } from 'node:stream';
import { buffer, text } from 'node:stream/consumers';
import { pipeline } from 'node:stream/promises';
import { after, before, describe, it } from 'node:test';

import { openFdCount } from '../fakes/process-facts.ts';
import { eventually } from '../harness/cri-lab.ts';
import { Counter, type LabSandbox, StreamLab, settledFdCount, zeros } from './stream-lab.ts';

const signal = AbortSignal.timeout(900_000);
const MiB = 1024 * 1024;
const ECHO = 's.pipe(s)';

describe('port-forward', () => {
  let lab: StreamLab;
  let sandbox: LabSandbox;
  let fds = 0;
  before(async () => {
    lab = await StreamLab.open('runc');
    sandbox = await lab.sandbox('pod', signal);
    // The thread and the first connection open descriptors that stay.
    await assert.rejects(lab.streams.portForward(sandbox.id, 1, duplexPair()[0], signal), { kind: 'unavailable' });
    fds = await settledFdCount();
  });
  after(async () => {
    await sandbox[Symbol.asyncDispose]();
    await lab[Symbol.asyncDispose]();
  });

  /** A client's end of a connection to a port, and what becomes of the connection. */
  const connect = (port: number, leave = signal): { client: Duplex; forward: Promise<void> } => {
    const [client, ours] = duplexPair();
    const forward = lab.streams.portForward(sandbox.id, port, ours, leave);
    forward.catch(() => {});
    return { client, forward };
  };
  const noneOpen = async (): Promise<void> => {
    // A server of the test has its pipe closed a moment later.
    await eventually('all is closed', () => openFdCount() === fds || undefined);
  };

  for (const [host, name] of [
    ['127.0.0.1', 'IPv4'],
    ['::1', 'IPv6'],
  ] as const) {
    it(`connects inside of the sandbox by ${name}, and passes each half-close`, async () => {
      {
        using server = await serve(sandbox, "s.on('data', (d) => s.write(d)).on('end', () => s.end('bye'))", host);
        const { client, forward } = connect(server.port);
        client.end('hello');
        assert.equal(await text(client), 'hellobye');
        await forward;
      }
      await noneOpen();
    });
  }

  it('goes on to the program after that has ended its side', async () => {
    {
      using server = await serve(
        sandbox,
        "s.end('greeting'); let n = 0; s.on('data', (d) => (n += d.length)).on('end', () => console.log(n))",
        '127.0.0.1',
      );
      const { client, forward } = connect(server.port);
      assert.equal(await text(client), 'greeting');
      client.write(Buffer.alloc(100_000));
      client.end();
      await forward;
      assert.equal(await server.line(), '100000');
    }
    await noneOpen();
  });

  it('carries a lot both ways, in little memory, no faster than it is taken', async () => {
    {
      using server = await serve(sandbox, ECHO, '127.0.0.1');
      const carry = async (size: number): Promise<void> => {
        const { client, forward } = connect(server.port);
        const output = new Counter();
        output.hold();
        const carried = Promise.all([pipeline(zeros(size), client, { end: true }), pipeline(client, output)]);
        await output.held;
        output.release();
        await carried;
        await forward;
        assert.equal(output.bytes, size);
      };
      await carry(64 * MiB);
      const before = process.memoryUsage.rss();
      await carry(512 * MiB);
      const grown = process.memoryUsage.rss() - before;
      assert.ok(grown < 64 * MiB, `memory has grown by ${grown / MiB} MiB`);
    }
    await noneOpen();
  });

  it('tells the client of a reset, and the program', async () => {
    {
      using server = await serve(sandbox, "s.once('data', () => s.resetAndDestroy())", '127.0.0.1');
      const { client, forward } = connect(server.port);
      client.write('x');
      await assert.rejects(forward, { kind: 'unavailable', message: /^connection to port \d+ of sandbox/ });

      using other = await serve(sandbox, "s.on('error', (e) => console.log(e.code))", '127.0.0.1');
      const [far, near] = duplexPair();
      const second = lab.streams.portForward(sandbox.id, other.port, near, signal);
      second.catch(() => {});
      far.write('x');
      await other.connected();
      near.destroy(new Error('client was reset'));
      await assert.rejects(second, { kind: 'cancelled' });
      assert.equal(await other.line(), 'ECONNRESET');
      assert.ok(near.destroyed);
    }
    await noneOpen();
  });

  it('breaks with the client, and with the sandbox', async () => {
    {
      using server = await serve(sandbox, "s.on('error', (e) => console.log(e.code))", '127.0.0.1');
      const leave = new AbortController();
      const { forward } = connect(server.port, leave.signal);
      await server.connected();
      leave.abort(new Error('gone'));
      await assert.rejects(forward, /gone/);
      assert.equal(await server.line(), 'ECONNRESET');
      const { forward: second } = connect(server.port);
      await server.connected();
      lab.runtime.endForwards(sandbox.id);
      await assert.rejects(second, { kind: 'unavailable', message: /has stopped/ });
    }
    await noneOpen();
  });

  it('says that nobody listens, and leaves the client alone', async () => {
    const [, ours] = duplexPair();
    await assert.rejects(lab.streams.portForward(sandbox.id, 1, ours, signal), (err: Error & { kind: string }) => {
      assert.equal(err.kind, 'unavailable');
      assert.match(String(err.cause), /127\.0\.0\.1:1: connection refused.*\[::1\]:1: connection refused/s);
      return true;
    });
    assert.equal(ours.destroyed, false);
    await noneOpen();
  });

  it('does not wait for ever for a program that accepts nobody', async () => {
    {
      using server = await serve(sandbox, '', '127.0.0.1', 1);
      // Its queue takes a few, whom the kernel lets in; then it answers nobody.
      const leave = new AbortController();
      const many = Array.from({ length: 10 }, () => connect(server.port, leave.signal));
      server.stop();
      setTimeout(() => leave.abort(new Error('enough')), 300);
      await Promise.all(many.map(({ forward }) => assert.rejects(forward, /enough/)));
    }
    await noneOpen();
  });

  it('refuses what is no port, and sandboxes that are not ready', async () => {
    for (const port of [0, -1, 65_536, 1.5, Number.NaN]) {
      await assert.rejects(lab.streams.portForward(sandbox.id, port, duplexPair()[0], signal), { kind: 'invalid' });
    }
    assert.deepEqual(lab.streams.checkPortForward(sandbox.id.slice(0, 12)), { sandboxId: sandbox.id });
    assert.throws(() => lab.streams.checkPortForward('f00'), { kind: 'notFound' });
    await using stopped = await lab.sandbox('pod', signal);
    lab.sandboxes.put({ ...lab.sandboxes.get(stopped.id), state: 'notReady' });
    assert.throws(() => lab.streams.checkPortForward(stopped.id), { kind: 'precondition' });
    await assert.rejects(lab.streams.portForward(stopped.id, 80, duplexPair()[0], signal), { kind: 'precondition' });
  });

  it("connects on the host for a sandbox on the host's network", async () => {
    await using onHost = await lab.sandbox('node', signal);
    using server = await serve({ ...onHost, netns: '/proc/self/ns/net' }, ECHO, '127.0.0.1');
    const [client, ours] = duplexPair();
    const forward = lab.streams.portForward(onHost.id, server.port, ours, signal);
    client.end('to the host');
    assert.equal(await text(client), 'to the host');
    await forward;
    await assert.rejects(lab.streams.portForward(sandbox.id, server.port, duplexPair()[0], signal), {
      kind: 'unavailable',
    });
  });

  it('carries fifty at once, while connections come and go', async () => {
    {
      using server = await serve(sandbox, ECHO, '127.0.0.1');
      const host = readlinkSync('/proc/self/ns/net');
      const one = async (i: number): Promise<void> => {
        for (let round = 0; round < 4; round++) {
          const { client, forward } = connect(server.port);
          const sent = Buffer.alloc(1 + i * 10_007, String(i));
          client.end(sent);
          assert.ok(sent.equals(await buffer(client)));
          await forward;
        }
      };
      await Promise.all(Array.from({ length: 50 }, (_, i) => one(i)));
      assert.equal(readlinkSync('/proc/self/ns/net'), host);
    }
    await noneOpen();
  });
});

/** A program in a sandbox. */
interface Server extends Disposable {
  readonly port: number;
  /** Resolves when somebody has connected since the last time. */
  connected(): Promise<void>;
  /** The next line that it prints. */
  line(): Promise<string>;
  /** Stands still from now on. */
  stop(): void;
}

/** Starts a program that runs `script` for each connection `s`. */
async function serve({ netns }: LabSandbox, script: string, host: string, backlog = 511): Promise<Server> {
  const program = `
    const server = require('net').createServer({ allowHalfOpen: true }, (s) => {
      console.log('connected');
      s.on('error', () => {});
      ${script};
    });
    server.listen(0, '${host}', ${backlog}, () => console.log(server.address().port));`;
  const child = spawn('nsenter', [`--net=${netns}`, process.execPath, '-e', program], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const lines: string[] = [];
  child.stdout.setEncoding('utf8').on('data', (data: string) => lines.push(...data.trim().split('\n')));
  const next = async (matches: (line: string) => boolean): Promise<string> =>
    await eventually('a line', () => {
      const i = lines.findIndex(matches);
      return i < 0 ? undefined : lines.splice(i, 1)[0];
    });
  return {
    port: Number(await next((line) => line !== 'connected')),
    connected: async () => void (await next((line) => line === 'connected')),
    line: async () => await next((line) => line !== 'connected'),
    stop: () => child.kill('SIGSTOP'),
    [Symbol.dispose]: () => child.kill('SIGKILL'),
  };
}
