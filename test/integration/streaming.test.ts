/** Exec, attach and port-forward through the whole daemon, as kubectl's protocols carry them. */

import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Duplex, Readable } from 'node:stream';
import { buffer, text } from 'node:stream/consumers';
import { pipeline } from 'node:stream/promises';
import { after, afterEach, before, describe as suite, test } from 'node:test';

import { status as grpcStatus } from '@grpc/grpc-js';

import {
  AttachRequest,
  ExecRequest,
  NamespaceMode,
  PortForwardRequest,
  RuntimeServiceService as runtime,
} from '../../proto/gen/cri/api.ts';
import { hasOpenssl, makeCertificate } from '../fakes/certificates.ts';
import {
  type CommandConnection,
  connectCommand,
  connectPortForward,
  exitCodeOf,
  runCommand,
  type Transport,
  type WantedStreams,
} from '../fakes/stream-client.ts';
import { eventually } from '../harness/cri-lab.ts';
import { SOON_MS } from '../harness/patience.ts';
import { PodLab } from '../harness/pod-lab.ts';

const GIB = 1 << 30;
const ECHO_PORT = 7000;
const WEB_PORT = 8080;
const RESET_PORT = 7001;
/** What berthd may grow by while 1 GiB passes through it. */
const MEMORY_LIMIT_KB = 96 * 1024;
/** Reads its input to the end and says on stderr how much it was; busybox's wc would look at each byte. */
const SWALLOW = ['dd', 'of=/dev/null', 'bs=64K', 'iflag=fullblock'];
const SWALLOWED = new RegExp(`^${GIB / 65_536}\\+0 records in`, 'm');
const OUTPUTS = { stdout: true, stderr: true };

let lab: PodLab;

before(async () => {
  lab = await PodLab.start({ files: { 'www/index.html': 'a page\n' } });
});
after(async () => await lab.close());
afterEach(async (context) => await lab.afterTest(context));

async function execUrl(containerId: string, cmd: string[], wanted: WantedStreams = OUTPUTS): Promise<string> {
  return (await lab.berthd.call(runtime.exec, ExecRequest.create({ containerId, cmd, ...wanted }))).url;
}

async function attachUrl(containerId: string, wanted: WantedStreams): Promise<string> {
  return (await lab.berthd.call(runtime.attach, AttachRequest.create({ containerId, ...wanted }))).url;
}

async function forwardUrl(podSandboxId: string): Promise<string> {
  return (await lab.berthd.call(runtime.portForward, PortForwardRequest.create({ podSandboxId }))).url;
}

/** Runs `work` and returns by how many KiB berthd's memory has peaked above what it was. */
async function growthKb(work: () => Promise<void>): Promise<number> {
  const read = (field: string): number => {
    const status = readFileSync(`/proc/${lab.berthd.pid}/status`, 'utf8');
    return Number(new RegExp(`^${field}:\\s+(\\d+) kB$`, 'm').exec(status)?.[1]);
  };
  // 5 sets the peak to what is used now (proc_pid_clear_refs(5)).
  writeFileSync(`/proc/${lab.berthd.pid}/clear_refs`, '5');
  const beforeKb = read('VmRSS');
  await work();
  return read('VmHWM') - beforeKb;
}

function zeros(bytes: number): Readable {
  const chunk = Buffer.alloc(65_536);
  let left = bytes;
  return new Readable({
    read() {
      const size = Math.min(left, chunk.length);
      left -= size;
      this.push(size > 0 ? chunk.subarray(0, size) : null);
    },
  });
}

async function countBytes(stream: Readable): Promise<number> {
  let bytes = 0;
  for await (const { length } of stream as AsyncIterable<Buffer>) bytes += length;
  return bytes;
}

/** Reads a stream until what has come matches. */
async function shows(stream: Readable, pattern: RegExp): Promise<string> {
  let seen = '';
  for await (const chunk of stream.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
    seen += chunk.toString();
    if (pattern.test(seen)) return seen;
  }
  throw new Error(`ended without ${pattern}: ${seen}`);
}

/** The exit code, once all output has been read. */
async function endOf(client: CommandConnection): Promise<number> {
  const code = exitCodeOf(await client.status());
  client.close();
  await client.closed;
  return code;
}

for (const transport of ['spdy', 'websocket'] as const satisfies Transport[]) {
  suite(`exec over ${transport}`, { timeout: 900_000 }, () => {
    test('input, both outputs and the exit code', async () => {
      const container = await lab.start(await lab.runPod());
      const cmd = ['sh', '-c', 'read line; echo "got $line"; cat; echo bad >&2; exit 3'];
      const url = await execUrl(container, cmd, { stdin: true, ...OUTPUTS });
      const { stdout, stderr, exitCode } = await runCommand(url, transport, { stdin: 'one\ntwo\n' });
      assert.deepEqual([stdout.toString(), stderr.toString(), exitCode], ['got one\ntwo\n', 'bad\n', 3]);
    });

    test('a terminal: its size, what is typed, and one output', async () => {
      const container = await lab.start(await lab.runPod());
      const wanted = { stdin: true, stdout: true, tty: true };
      const url = await execUrl(container, ['sh', '-c', 'tty; read line; stty size; read line; echo bye >&2'], wanted);
      const client = await connectCommand(url, transport, wanted);
      await shows(client.stdout, /\/dev\/pts\/\d+\r\n/);
      client.resize(101, 43);
      client.stdin.write('go\n');
      // The echo and what the command says of its size may come in one piece.
      assert.match(await shows(client.stdout, /\d+ \d+\r\n/), /^go\r\n43 101\r\n$/);
      client.stdin.write('\n');
      await shows(client.stdout, /bye\r\n/);
      client.stdout.resume();
      assert.equal(await endOf(client), 0);
    });

    test('1 GiB out, to a client that reads fast, and memory stays', async () => {
      const container = await lab.start(await lab.runPod());
      const url = await execUrl(container, ['dd', 'if=/dev/zero', 'bs=1M', 'count=1024']);
      const client = await connectCommand(url, transport, OUTPUTS);
      const grownKb = await growthKb(async () => {
        assert.equal(await countBytes(client.stdout), GIB);
        assert.equal(await endOf(client), 0);
      });
      assert.ok(grownKb < MEMORY_LIMIT_KB, `grew by ${grownKb} KiB`);
    });

    test('1 GiB in, and memory stays', async () => {
      const container = await lab.start(await lab.runPod());
      const wanted = { stdin: true, ...OUTPUTS };
      const client = await connectCommand(await execUrl(container, SWALLOW, wanted), transport, wanted);
      const grownKb = await growthKb(async () => {
        const [said] = await Promise.all([text(client.stderr), pipeline(zeros(GIB), client.stdin)]);
        assert.match(said, SWALLOWED);
        assert.equal(await endOf(client), 0);
      });
      assert.ok(grownKb < MEMORY_LIMIT_KB, `grew by ${grownKb} KiB`);
    });

    test('a client that stops reading stops the command, and then gets all of it', async () => {
      const container = await lab.start(await lab.runPod());
      const bytes = 256 << 20;
      const client = await connectCommand(
        await execUrl(container, ['sh', '-c', `echo begin >&2; exec dd if=/dev/zero bs=${bytes} count=1 2>/dev/null`]),
        transport,
        OUTPUTS,
      );
      await shows(client.stderr, /begin/);
      const grownKb = await growthKb(async () => await quiet(lab.berthd.pid));
      assert.ok(grownKb < MEMORY_LIMIT_KB, `grew by ${grownKb} KiB`);
      assert.equal(await countBytes(client.stdout), bytes);
      assert.equal(await endOf(client), 0);
    });

    test('a command that does not read stops its client, and memory stays', async () => {
      const container = await lab.start(await lab.runPod());
      const wanted = { stdin: true, ...OUTPUTS };
      const cmd = ['sh', '-c', 'echo begin; read line; cat | dd of=/dev/null bs=64K iflag=fullblock'];
      const client = await connectCommand(await execUrl(container, cmd, wanted), transport, wanted);
      await shows(client.stdout, /begin/);
      const sent = pipeline(zeros(256 << 20), client.stdin);
      const grownKb = await growthKb(async () => await quiet(lab.berthd.pid));
      assert.ok(grownKb < MEMORY_LIMIT_KB, `grew by ${grownKb} KiB`);
      client.vanish();
      await assert.rejects(sent);
    });

    test('a command ends when its client vanishes, and when its container ends', async () => {
      const container = await lab.start(await lab.runPod());
      const wanted = { stdin: true, ...OUTPUTS };
      const sleeper = async (): Promise<CommandConnection> => {
        const cmd = ['sh', '-c', 'echo up; exec sleep 4321'];
        const client = await connectCommand(await execUrl(container, cmd, wanted), transport, wanted);
        await shows(client.stdout, /up/);
        return client;
      };
      const vanishing = await sleeper();
      vanishing.vanish();
      await eventually('the command has ended', async () => {
        const { text: running } = await lab.tryExec(container, 'ps', '-o', 'args');
        return running.includes('sleep 4321') ? undefined : true;
      });
      const staying = await sleeper();
      await lab.berthd.call(runtime.stopContainer, { containerId: container, timeout: 0n });
      staying.stdout.resume();
      const { status, message } = await staying.status();
      assert.equal(status, 'Failure');
      assert.match(message ?? '', /has ended|137/);
      staying.close();
    });

    test('100 at once', async () => {
      const pod = await lab.runPod();
      const containers = await Promise.all([lab.start(pod), lab.start(pod)]);
      const answers = await Promise.all(
        Array.from({ length: 100 }, async (_, index) => {
          const url = await execUrl(containers[index % 2] ?? '', ['sh', '-c', 'cat; exit 7'], {
            stdin: true,
            ...OUTPUTS,
          });
          const { stdout, exitCode } = await runCommand(url, transport, { stdin: `number ${index}` });
          return `${stdout.toString()} ${exitCode}`;
        }),
      );
      assert.deepEqual(
        answers,
        Array.from({ length: 100 }, (_, index) => `number ${index} 7`),
      );
    });
  });

  suite(`attach over ${transport}`, { timeout: 900_000 }, () => {
    test('several clients see what the program writes, and one of them speaks to it', async () => {
      const wanted = { stdin: true, ...OUTPUTS };
      const container = await lab.start(await lab.runPod(), {
        command: [
          'sh',
          '-c',
          'while read line; do echo "out $line"; echo "err $line" >&2; done; echo over; sleep 1000',
        ],
        stdin: true,
      });
      const one = await connectCommand(await attachUrl(container, wanted), transport, wanted);
      const two = await connectCommand(await attachUrl(container, OUTPUTS), transport, OUTPUTS);
      await saysHello(one, two);
      one.vanish();
      const three = await connectCommand(await attachUrl(container, wanted), transport, wanted);
      await saysHello(three, two);
      two.close();
      three.close();
    });

    test('stdin_once: the first client that ends its input ends the program’s', async () => {
      const wanted = { stdin: true, ...OUTPUTS };
      const container = await lab.start(await lab.runPod(), {
        command: ['sh', '-c', 'cat; echo over; exit 5'],
        stdin: true,
        stdinOnce: true,
      });
      const client = await connectCommand(await attachUrl(container, wanted), transport, wanted);
      client.stdin.end('last words\n');
      await shows(client.stdout, /last words\nover\n/);
      assert.equal((await lab.ended(container)).exitCode, 5);
      client.close();
    });

    test('a terminal is attached to as a terminal only', async () => {
      const wanted = { stdin: true, stdout: true, tty: true };
      const container = await lab.start(await lab.runPod(), { command: ['sh'], stdin: true, tty: true });
      const request = AttachRequest.create({ containerId: container, stdout: true });
      const { code } = await lab.berthd.fails(runtime.attach, request);
      assert.equal(code, grpcStatus.INVALID_ARGUMENT);
      const client = await connectCommand(await attachUrl(container, wanted), transport, wanted);
      client.resize(99, 33);
      client.stdin.write('stty size\n');
      assert.match(await shows(client.stdout, /\d+ \d+\r\n/), /33 99/);
      client.stdin.write('exit 4\n');
      client.stdout.resume();
      assert.equal((await lab.ended(container)).exitCode, 4);
      client.close();
    });

    test('1 GiB through, none lost, and memory stays', async () => {
      const wanted = { stdin: true, ...OUTPUTS };
      const container = await lab.start(await lab.runPod(), {
        command: SWALLOW,
        stdin: true,
        stdinOnce: true,
      });
      const client = await connectCommand(await attachUrl(container, wanted), transport, wanted);
      const grownKb = await growthKb(async () => {
        await Promise.all([shows(client.stderr, SWALLOWED), pipeline(zeros(GIB), client.stdin)]);
      });
      assert.ok(grownKb < MEMORY_LIMIT_KB, `grew by ${grownKb} KiB`);
      client.close();
    });
  });

  suite(`port-forward over ${transport}`, { timeout: 900_000 }, () => {
    async function echoPod(host = false): Promise<string> {
      const pod = await lab.runPod(
        lab.podConfig(
          host ? { linux: { securityContext: { namespaceOptions: { network: NamespaceMode.NODE } } } } : {},
        ),
      );
      const serve = `nc -ll -p ${ECHO_PORT} -e cat & nc -ll -p ${RESET_PORT} -e true & exec httpd -f -p ${WEB_PORT} -h /www`;
      const container = await lab.start(pod, { command: ['sh', '-c', serve] });
      await eventually('the servers listen', async () => {
        const { text: listening } = await lab.tryExec(container, 'netstat', '-ltn');
        return [ECHO_PORT, RESET_PORT, WEB_PORT].every((port) => listening.includes(`:${port} `)) || undefined;
      });
      return pod;
    }

    for (const host of [false, true]) {
      test(`a page from ${host ? 'a pod on the host’s network' : 'a pod'}`, async () => {
        const client = await connectPortForward(await forwardUrl(await echoPod(host)), transport);
        const { data, error } = await client.connect(WEB_PORT);
        data.write('GET / HTTP/1.0\r\n\r\n');
        assert.match(await text(data), /a page\n$/);
        data.end();
        assert.equal(await error, '');
        client.close();
      });
    }

    test('50 connections under load, nothing lost', async () => {
      const client = await connectPortForward(await forwardUrl(await echoPod()), transport);
      const bytes = 4 << 20;
      // One after the other: the server in the pod has room for one that waits, and the kernel resets more of them.
      const connections: Awaited<ReturnType<typeof client.connect>>[] = [];
      for (let index = 0; index < 50; index++) {
        const connection = await client.connect(ECHO_PORT);
        connection.data.write('!');
        await shows(connection.data, /!/);
        connections.push(connection);
      }
      await Promise.all(
        connections.map(async ({ data, error }, index) => {
          const sent = Buffer.alloc(bytes, index + 1);
          const [back] = await Promise.all([buffer(data), pipeline(Readable.from([sent]), asWritable(data))]);
          assert.ok(back.equals(sent), `connection ${index} came back changed`);
          assert.equal(await error, '');
        }),
      );
      client.close();
      await client.closed;
    });

    test('1 GiB each way, and memory stays', async () => {
      const client = await connectPortForward(await forwardUrl(await echoPod()), transport);
      const { data } = await client.connect(ECHO_PORT);
      const grownKb = await growthKb(async () => {
        const [bytes] = await Promise.all([countBytes(data), pipeline(zeros(GIB), asWritable(data))]);
        assert.equal(bytes, GIB);
      });
      assert.ok(grownKb < MEMORY_LIMIT_KB, `grew by ${grownKb} KiB`);
      client.close();
    });

    test('a connection that the pod resets leaves the others alone', async () => {
      const client = await connectPortForward(await forwardUrl(await echoPod()), transport);
      const living = await client.connect(ECHO_PORT);
      for (let count = 0; count < 5; count++) {
        const { data, error } = await client.connect(RESET_PORT);
        data.on('error', () => {});
        data.write(Buffer.alloc(1 << 20));
        data.resume();
        if (!data.closed) await new Promise((resolve) => data.once('end', resolve).once('close', resolve));
        assert.equal(await error, '');
      }
      living.data.end('still there');
      assert.equal(await text(living.data), 'still there');
      client.close();
    });

    test('a port that nobody listens on is told', async () => {
      const client = await connectPortForward(await forwardUrl(await lab.runPod()), transport);
      const { error } = await client.connect(9);
      assert.match(await error, /refused/i);
      client.close();
    });
  });
}

suite('streams with TLS', { skip: hasOpenssl() ? false : 'openssl, which makes the certificate, is missing' }, () => {
  test('a command runs for a client that trusts the certificate', async () => {
    const dir = mkdtempSync(join(tmpdir(), 'berth-stream-tls-'));
    const { cert, key } = makeCertificate(dir, 'streams');
    const own = await PodLab.start({ config: `[stream]\ntls_cert = "${cert}"\ntls_key = "${key}"` });
    try {
      const container = await own.start(await own.runPod());
      const request = ExecRequest.create({ containerId: container, cmd: ['echo', 'hidden'], stdout: true });
      for (const transport of ['spdy', 'websocket'] as const) {
        const { url } = await own.berthd.call(runtime.exec, request);
        const client = await connectCommand(url, transport, { stdout: true }, { ca: readFileSync(cert) });
        assert.equal(await text(client.stdout), 'hidden\n');
        assert.equal(await endOf(client), 0);
      }
    } finally {
      await own.close();
      rmSync(dir, { recursive: true });
    }
  });
});

suite('what Exec, Attach and PortForward refuse', { timeout: 900_000 }, () => {
  test('unknown, stopped and half-made things, before a URL is given out', async () => {
    const pod = await lab.runPod();
    const created = await lab.create(pod);
    const ended = (await lab.run(pod, { command: ['true'] })).id;
    const execs = [
      [{ containerId: 'nothing', cmd: ['ls'], ...OUTPUTS }, grpcStatus.NOT_FOUND],
      [{ containerId: '', cmd: ['ls'], ...OUTPUTS }, grpcStatus.INVALID_ARGUMENT],
      [{ containerId: created, cmd: ['ls'], ...OUTPUTS }, grpcStatus.FAILED_PRECONDITION],
      [{ containerId: ended, cmd: ['ls'], ...OUTPUTS }, grpcStatus.FAILED_PRECONDITION],
      [{ containerId: created, cmd: ['ls'] }, grpcStatus.INVALID_ARGUMENT],
      [{ containerId: created, cmd: ['ls'], ...OUTPUTS, tty: true }, grpcStatus.INVALID_ARGUMENT],
    ] as const;
    for (const [fields, code] of execs) {
      const request = ExecRequest.create({ ...fields, cmd: [...fields.cmd] });
      assert.equal((await lab.berthd.fails(runtime.exec, request)).code, code, JSON.stringify(fields));
    }
    const attach = async (fields: object): Promise<number> =>
      (await lab.berthd.fails(runtime.attach, AttachRequest.create(fields))).code;
    assert.equal(await attach({ containerId: 'nothing', ...OUTPUTS }), grpcStatus.NOT_FOUND);
    assert.equal(await attach({ containerId: ended, ...OUTPUTS }), grpcStatus.FAILED_PRECONDITION);
    const forward = async (podSandboxId: string): Promise<number> =>
      (await lab.berthd.fails(runtime.portForward, PortForwardRequest.create({ podSandboxId }))).code;
    assert.equal(await forward('nothing'), grpcStatus.NOT_FOUND);
    await lab.berthd.call(runtime.stopPodSandbox, { podSandboxId: pod });
    assert.equal(await forward(pod), grpcStatus.FAILED_PRECONDITION);
  });

  test('a stop of berthd ends sessions with a reason, and soon', async () => {
    const container = await lab.start(await lab.runPod());
    const client = await connectCommand(await execUrl(container, ['sh', '-c', 'echo up; sleep 1000']), 'spdy', OUTPUTS);
    await shows(client.stdout, /up/);
    client.stdout.resume();
    const startedMs = performance.now();
    const ended = lab.berthd.end('SIGTERM');
    assert.match((await client.status()).message ?? '', /berthd is stopping/);
    client.close();
    await ended;
    assert.ok(performance.now() - startedMs < SOON_MS, 'berthd waited for its clients');
    await lab.berthd.start();
    assert.equal(await lab.exec(container, 'echo', 'the pod goes on'), 'the pod goes on');
  });
});

async function saysHello(speaker: CommandConnection, listener: CommandConnection): Promise<void> {
  const seen = Promise.all([
    shows(speaker.stdout, /out hello\n/),
    shows(listener.stdout, /out hello\n/),
    shows(listener.stderr, /err hello\n/),
  ]);
  speaker.stdin.write('hello\n');
  await seen;
}

/** A stream's way in alone: a pipeline would wait for its other way as well. */
function asWritable(stream: Duplex): NodeJS.WritableStream {
  return stream;
}

/** Waits until a process has used no processor for a while. */
async function quiet(pid: number): Promise<void> {
  const ticks = (): number => {
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? [];
    return Number(fields[11]) + Number(fields[12]);
  };
  for (let last = -1; last !== ticks(); ) {
    last = ticks();
    await new Promise((resolve) => setTimeout(resolve, 300));
  }
}
