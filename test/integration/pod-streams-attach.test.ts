import assert from 'node:assert/strict';
import { appendFileSync, existsSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';

import { silentLogger } from '../../src/base/log.ts';
import type { ContainerRecord } from '../../src/pod/records.ts';
import { Attaches, type AttachTarget } from '../../src/runtime/attach.ts';
import type { ClientStreams, WindowSize } from '../../src/runtime/client-streams.ts';
import { killProcess } from '../../src/sys/process.ts';
import { openFdCount } from '../fakes/process-facts.ts';
import { eventually } from '../harness/cri-lab.ts';
import { mountHugetlb } from './runtime-lab.ts';
import { Counter, StreamLab, settledFdCount, TestClient, zeros } from './stream-lab.ts';

const signal = AbortSignal.timeout(900_000);
const MiB = 1024 * 1024;
/** Answers each line of its input, and tells of the input's end. */
const ECHO = 'echo before; while read line; do echo "got $line"; echo "err $line" >&2; done; echo eof; sleep 1000';

for (const name of ['runc', 'crun']) {
  describe(`attach with ${name}`, () => {
    let hugetlb: AsyncDisposable | undefined;
    let lab: StreamLab;
    let logFile = '';
    before(async () => {
      if (name === 'crun') hugetlb = mountHugetlb();
      lab = await StreamLab.open(name);
      logFile = join(lab.lab.folder, 'attach.log');
    });
    after(async () => {
      await lab[Symbol.asyncDispose]();
      await hugetlb?.[Symbol.asyncDispose]();
    });

    const run = async (script: string, spec: Partial<ContainerRecord['spec']>): Promise<ContainerRecord> => {
      logFile = join(lab.lab.folder, `${lab.lab.newId()}.log`);
      return await lab.run({ args: ['sh', '-c', script], spec, logFile }, signal);
    };
    const echo = async (spec: Partial<ContainerRecord['spec']>): Promise<ContainerRecord> => {
      const container = await run(ECHO, { stdin: true, ...spec });
      await logged('before');
      return container;
    };
    const attach = ({ id, spec }: ContainerRecord, client: ClientStreams, leave = signal): Promise<void> =>
      lab.streams.attach(id, { tty: spec.tty }, client, leave);
    const targetOf = ({ id: containerId, spec, init }: ContainerRecord): AttachTarget => {
      const { attach: socket, window } = lab.lab.paths(containerId);
      const ended = async (until: AbortSignal): Promise<void> => {
        if (init) await lab.lab.processes.exitOf(init.pid, init.startTime, until);
      };
      return { ...spec, containerId, socket, window, ended };
    };
    const logged = async (text: string): Promise<void> => {
      await eventually(`the log has ${text}`, () => readFileSync(logFile, 'utf8').includes(text) || undefined);
    };
    /** Resolves when the monitor waits for a client: then nothing is written to the log either. */
    const logStands = async (): Promise<void> => {
      for (let size = -1; size !== statSync(logFile).size; ) {
        size = statSync(logFile).size;
        await delay(100);
      }
    };
    const kill = ({ init }: ContainerRecord): void => {
      assert.ok(init && killProcess(init.pid, init.startTime, 'SIGKILL'));
    };

    it('passes input and both outputs, from now on, until the container ends', async () => {
      const container = await echo({});
      const client = new TestClient();
      const attached = attach(container, client);
      client.stdin.write('one\n');
      await client.stdout.shows(/^got one\n$/);
      await client.stderr.shows(/^err one\n$/);
      kill(container);
      await attached;
      assert.ok(client.stdout.writableFinished && client.stderr.writableFinished);
      assert.equal((await lab.lab.exitOf(container.id)).exitCode, 137);
    });

    it('leaves with the end of the input, which the container does not see', async () => {
      const container = await echo({});
      for (const line of ['one', 'two']) {
        const { stdin, stdout } = new TestClient();
        const attached = attach(container, { stdin, stdout });
        stdin.end(`${line}\n`);
        await attached;
        await logged(`got ${line}`);
      }
      assert.doesNotMatch(readFileSync(logFile, 'utf8'), /eof/);
    });

    it('has the end of the input close that of a container that takes input once, and stays', async () => {
      const container = await echo({ stdinOnce: true });
      const { stdin, stdout } = new TestClient();
      const attached = attach(container, { stdin, stdout });
      stdin.end('one\n');
      await stdout.shows(/^got one\neof\n$/);
      kill(container);
      await attached;
    });

    it('closes the input of such a container when its first client has gone', async () => {
      const container = await echo({ stdinOnce: true });
      const { stdin, stdout } = new TestClient();
      const leave = new AbortController();
      const attached = attach(container, { stdin, stdout }, leave.signal);
      stdin.write('one\n');
      await stdout.shows(/got one/);
      leave.abort(new Error('gone'));
      await assert.rejects(attached, /gone/);
      await logged('eof');
    });

    it('does not close it when a client goes that only looked on', async () => {
      const container = await echo({ stdinOnce: true });
      const fds = await settledFdCount();
      const { stdin, stdout } = new TestClient();
      const staying = attach(container, { stdin, stdout });
      for (let i = 0; i < 3; i++) {
        const onlooker = new TestClient();
        const leave = new AbortController();
        const looking = attach(container, { stdout: onlooker.stdout }, leave.signal);
        stdin.write(`line ${i}\n`);
        await onlooker.stdout.shows(new RegExp(`got line ${i}`));
        leave.abort(new Error('gone'));
        await assert.rejects(looking, /gone/);
      }
      stdin.write('last\n');
      await stdout.shows(/got last/);
      assert.doesNotMatch(readFileSync(logFile, 'utf8'), /eof/);
      kill(container);
      await staying;
      lab.runtime.endExecs(container.id);
      await eventually('all is closed', () => openFdCount() === fds || undefined);
    });

    it('serves several clients at once, and goes on when one leaves', async () => {
      const container = await echo({});
      const clients = Array.from({ length: 5 }, () => new TestClient());
      const leave = new AbortController();
      const attached = clients.map((client, i) => attach(container, client, i === 0 ? leave.signal : signal));
      for (const [i, { stdin }] of clients.entries()) stdin.write(`from ${i}\n`);
      await Promise.all(
        clients.flatMap(({ stdout }) => [0, 1, 2, 3, 4].map((i) => stdout.shows(new RegExp(`got from ${i}`)))),
      );
      leave.abort(new Error('gone'));
      await assert.rejects(Promise.race(attached), /gone/);
      clients[1]?.stdin.write('still\n');
      await clients[2]?.stdout.shows(/got still/);
      kill(container);
      await Promise.all(attached.slice(1));
    });

    it('joins a terminal, whose size follows the client', async () => {
      const script = 'trap "stty size" WINCH; echo ready; while :; do read a && echo "got $a" >&2; done';
      const container = await run(script, { stdin: true, tty: true });
      await logged('ready');
      const client = new TestClient();
      const attached = attach(container, client);
      const { monitor } = container;
      assert.ok(monitor);
      const resizes = async (...widths: number[]): Promise<void> => {
        killProcess(monitor.pid, monitor.startTime, 'SIGSTOP');
        // One that came by its control fifo waits here, where the monitor itself has put it.
        appendFileSync(lab.lab.paths(container.id).window, '50 90\n');
        for (const width of widths) {
          client.resize(width, 50);
          await delay(20);
        }
        // All that it was told meanwhile it reads at once.
        killProcess(monitor.pid, monitor.startTime, 'SIGCONT');
        const last = `50 ${widths.at(-1)}`;
        // A shell that begins to read as the signal comes looks for it after the next line.
        await eventually(`the size ${last} arrives`, () => {
          client.stdin.write('x\n');
          // Where its line ends an echo may come before that.
          return client.stdout.text.includes(last) || undefined;
        });
      };
      await resizes(100, 110, 120);
      await resizes(130);
      await client.stdout.shows(/got x\r\n/);
      assert.equal(client.stderr.text, '');
      kill(container);
      await attached;
      client.resize(1, 1);
    });

    it('joins a container before it is started, and sees its first byte', async () => {
      const container = await lab.create(
        { args: ['sh', '-c', 'echo first; read a; echo "got $a"'], spec: { stdin: true } },
        signal,
      );
      const { stdin, stdout } = new TestClient();
      const attached = attach(container, { stdin, stdout });
      stdin.write('early\n');
      await lab.lab.runtime.start(container.id, signal);
      await attached;
      assert.equal(stdout.text, 'first\ngot early\n');
    });

    it('refuses what cannot be', async () => {
      const container = await run('sleep 1000', {});
      const refused = (id: string, tty: boolean, kind: string): void => {
        assert.throws(() => lab.streams.checkAttach(id, { tty }), { kind });
      };
      refused(container.id, true, 'invalid');
      refused('f00', false, 'notFound');
      assert.deepEqual(lab.streams.checkAttach(container.id.slice(0, 20), { tty: false }), {
        containerId: container.id,
      });
      kill(container);
      await lab.lab.exitOf(container.id);
      const { monitor } = container;
      assert.ok(monitor);
      await lab.lab.processes.exitOf(monitor.pid, monitor.startTime, signal);
      await assert.rejects(attach(container, {}), { kind: 'precondition', message: /no monitor/ });
      lab.setState(container.id, 'exited');
      refused(container.id, false, 'precondition');
    });

    it('drops the input for a container that takes none', async () => {
      const container = await run('read a; echo "read $?"; sleep 1000', {});
      await logged('read 1');
      const stdin = zeros(MiB);
      const attached = attach(container, { stdin });
      await eventually('it is read', () => stdin.readableEnded || undefined);
      kill(container);
      await attached;
    });

    it('carries a lot in both directions, in little memory', async () => {
      // The log is on the way: it gets a part only.
      const container = await run('head -c 134217728 | wc -c; head -c 268435456 /dev/zero; read a', {
        stdin: true,
        stdinOnce: true,
      });
      const before = process.memoryUsage.rss();
      const output = new Counter();
      await attach(container, { stdin: zeros(128 * MiB), stdout: output });
      assert.equal(output.bytes, '134217728\n'.length + 268_435_456);
      assert.equal((await lab.lab.exitOf(container.id)).exitCode, 1);
      const grown = process.memoryUsage.rss() - before;
      // Garbage of the transfer is among it, some 70 MiB at times, however much passes.
      assert.ok(grown < 96 * MiB, `memory has grown by ${grown / MiB} MiB`);
    });

    it('has a container wait for a slow client, but not for one that takes nothing', async () => {
      const container = await run('read a; head -c 5000000 /dev/zero; echo done >&2; sleep 1000', { stdin: true });
      const attaches = new Attaches({ log: silentLogger, stallTimeoutMs: 300 });
      const target = { ...targetOf(container), ended: () => new Promise<void>(() => {}) };
      const [stuck, slow, other] = [new Counter(), new Counter(), new Counter()];
      const client = new TestClient();
      stuck.hold();
      const given = attaches.attach(target, { stdout: stuck }, signal);
      const stdout = slow;
      const kept = attaches.attach(target, { stdin: client.stdin, stdout }, signal);
      const alsoKept = attaches.attach(target, { stdout: other, stderr: client.stderr }, signal);
      client.stdin.write('go\n');
      await assert.rejects(given, { kind: 'unavailable', message: /its output was not taken/ });
      await client.stderr.shows(/done/);
      await eventually('all is there', () => (slow.bytes === 5_000_000 && other.bytes === 5_000_000) || undefined);
      kill(container);
      await Promise.all([kept, alsoKept]);
    });

    it('does not hold up the exit of a container for a client that takes nothing', async () => {
      const container = await run('trap "exit 9" TERM; read a; head -c 5000000 /dev/zero', { stdin: true });
      // Nobody is let go: only the container's end can end the wait.
      const attaches = new Attaches({ log: silentLogger, stallTimeoutMs: 500_000 });
      const { stdin } = new TestClient();
      const stuck = new Counter();
      stuck.hold();
      const leave = new AbortController();
      const attached = attaches.attach(targetOf(container), { stdin, stdout: stuck }, leave.signal);
      stdin.write('go\n');
      await stuck.held;
      await logStands();
      kill(container);
      assert.equal((await lab.lab.exitOf(container.id)).exitCode, 137);
      stuck.release();
      await attached;
      assert.ok(stuck.writableFinished);
    });

    it('leaves without harm at any moment', async () => {
      const container = await run('while :; do echo line; done', { stdin: true });
      const fds = await settledFdCount();
      for (let i = 0; i < 20; i++) {
        const leave = new AbortController();
        const attached = attach(container, { stdin: new TestClient().stdin, stdout: new Counter() }, leave.signal);
        setTimeout(() => leave.abort(new Error('gone')), i % 5);
        await assert.rejects(attached, /gone/);
      }
      await eventually('all is closed', () => openFdCount() === fds || undefined);
      assert.ok(existsSync(`/proc/${container.init?.pid}`));
      kill(container);
    });

    it('hears of many sizes, of which it tells the last', async () => {
      const container = await run('sleep 1000', { tty: true });
      const listeners: ((size: WindowSize) => void)[] = [];
      const leave = new AbortController();
      const attached = attach(container, { onResize: (listener) => void listeners.push(listener) }, leave.signal);
      leave.abort(new Error('gone'));
      await assert.rejects(attached, /gone/);
      for (const listener of listeners) listener({ width: 10, height: 10 });
      kill(container);
    });
  });
}
