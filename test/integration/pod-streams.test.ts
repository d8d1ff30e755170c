import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { Readable } from 'node:stream';
import { after, before, describe, it } from 'node:test';

import type { ContainerRecord } from '../../src/pod/records.ts';
import type { ClientStreams } from '../../src/runtime/client-streams.ts';
import { killProcess } from '../../src/sys/process.ts';
import { openFdCount } from '../fakes/process-facts.ts';
import { eventually } from '../harness/cri-lab.ts';
import { mountHugetlb } from './runtime-lab.ts';
import { Counter, StreamLab, settledFdCount, TestClient, zeros } from './stream-lab.ts';

const signal = AbortSignal.timeout(900_000);
const MiB = 1024 * 1024;
/** What escapes from a command's tree in every way that there is, each with a number of its own to sleep. */
const ESCAPES = [
  'sleep 4321 &',
  '(sleep 4322 &)',
  'setsid sleep 4323 &',
  '(setsid sleep 4324 > /dev/null 2>&1 < /dev/null &)',
  'env -i setsid sh -c "(sleep 4325 > /dev/null 2>&1 < /dev/null &)"',
].join('\n');

for (const name of ['runc', 'crun']) {
  describe(`exec with streams and ${name}`, () => {
    let hugetlb: AsyncDisposable | undefined;
    let lab: StreamLab;
    let container: ContainerRecord;
    before(async () => {
      if (name === 'crun') hugetlb = mountHugetlb();
      lab = await StreamLab.open(name);
      container = await lab.run({ args: ['sleep', '1000'] }, signal);
    });
    after(async () => {
      await lab[Symbol.asyncDispose]();
      await hugetlb?.[Symbol.asyncDispose]();
    });

    const start = (client: ClientStreams, ...command: string[]): Promise<number> =>
      lab.streams.exec(container.id, { command, tty: false }, client, signal);
    const sh = (client: ClientStreams, script: string): Promise<number> => start(client, 'sh', '-c', script);
    const onTerminal = (client: ClientStreams, script: string): Promise<number> =>
      lab.streams.exec(container.id, { command: ['sh', '-c', script], tty: true }, client, signal);
    const noFiles = (): void =>
      assert.deepEqual(
        readdirSync(lab.lab.paths(container.id).folder).filter((file) => file.startsWith('exec-')),
        [],
      );
    const running = async (pattern: string): Promise<string> =>
      (
        await lab.lab.exec(container.id, ['sh', '-c', `ps | grep '${pattern}' | grep -v grep || true`], signal)
      ).stdout.toString();

    it('keeps input, output and errors apart, and tells the exit code', async () => {
      const client = new TestClient();
      const exec = sh(client, 'read a; echo "got $a"; echo err >&2; cat; exit 3');
      client.stdin.write('one\n');
      await client.stdout.shows(/^got one\n$/);
      await client.stderr.shows(/^err\n$/);
      client.stdin.end('two\n');
      assert.equal(await exec, 3);
      assert.deepEqual([client.stdout.text, client.stderr.text], ['got one\ntwo\n', 'err\n']);
      assert.ok(client.stdout.writableFinished && client.stderr.writableFinished);
      assert.equal(await sh({}, 'kill -9 $$'), 137);
      noFiles();
    });

    it('gives what the client did not ask for to nobody', async () => {
      const { stdout } = new TestClient();
      assert.equal(await sh({ stdout }, 'echo err >&2; cat; echo out'), 0);
      assert.equal(stdout.text, 'out\n');
    });

    it('says why a command cannot be started, and gives the client no byte', async () => {
      const { stdout, stderr } = new TestClient();
      await assert.rejects(start({ stdout, stderr }, '/no/such'), {
        kind: 'invalid',
        message: /^cmd: \/no\/such cannot/,
      });
      await assert.rejects(lab.streams.exec(container.id, { command: ['/no/such'], tty: true }, { stdout }, signal), {
        kind: 'invalid',
      });
      await assert.rejects(start({ stdout }), { kind: 'invalid', message: /^cmd: is empty/ });
      await assert.rejects(lab.streams.exec('f00', { command: ['true'], tty: false }, {}, signal), {
        kind: 'notFound',
      });
      assert.deepEqual([stdout.text, stderr.text], ['', '']);
      noFiles();
    });

    it('carries a lot in both directions, in little memory', async () => {
      const carry = async (size: number): Promise<void> => {
        const output = new Counter();
        assert.equal(await start({ stdin: zeros(size), stdout: output }, 'cat'), 0);
        assert.equal(output.bytes, size);
      };
      await carry(128 * MiB);
      const before = process.memoryUsage.rss();
      await carry(1024 * MiB);
      const grown = process.memoryUsage.rss() - before;
      assert.ok(grown < 64 * MiB, `memory has grown by ${grown / MiB} MiB`);
    });

    it('has a program wait for a slow client, and loses nothing of what it wrote before it ended', async () => {
      const slow = new Counter();
      slow.hold();
      const exec = sh({ stdout: slow, stderr: slow }, 'head -c 3000000 /dev/zero; echo written > /tmp/written; exit 5');
      await slow.held;
      const file = `${lab.lab.rootfs}/tmp/written`;
      await stalled('head');
      assert.throws(() => readFileSync(file), { code: 'ENOENT' });
      slow.release();
      assert.equal(await exec, 5);
      assert.equal(slow.bytes, 3_000_000);
      await lab.lab.exec(container.id, ['rm', '/tmp/written'], signal);
    });

    it('has a client wait for a program that does not read', async () => {
      const { stdout } = new TestClient();
      let sent = 0;
      const stdin = Readable.from(
        (function* () {
          for (; sent < 4000; sent++) yield Buffer.alloc(1000);
        })(),
        { objectMode: false },
      );
      const exec = sh({ stdin, stdout }, 'echo ready; while [ ! -e /tmp/go ]; do sleep 0.02; done; wc -c; rm /tmp/go');
      await stdout.shows(/ready/);
      const stuckAt = await eventually('the client waits', () => (stdin.readableFlowing === false ? sent : undefined));
      assert.ok(stuckAt < 1000, `${stuckAt} kB were taken`);
      await lab.lab.exec(container.id, ['touch', '/tmp/go'], signal);
      assert.equal(await exec, 0);
      assert.equal(stdout.text, 'ready\n4000000\n');
    });

    it('goes on reading a client whose program does not', async () => {
      const stdin = zeros(20 * MiB);
      assert.equal(await sh({ stdin }, 'exec < /dev/null; sleep 0.1; exit 6'), 6);
      await eventually('the input is read to its end', () => stdin.readableEnded || undefined);
    });

    it('does not wait for what a command leaves behind, which lives on', async () => {
      for (const exec of [sh, onTerminal]) {
        const { stdout } = new TestClient();
        assert.equal(await exec({ stdout }, 'trap "" HUP; sleep 6543 & echo started $!; exit 7'), 7);
        const pid = /^started (\d+)\r?\n$/.exec(stdout.text)?.[1];
        assert.match(await running('sleep 6543'), new RegExp(`^ *${pid} `));
        assert.equal(await sh({}, `kill -9 ${pid}`), 0);
      }
    });

    it('passes the early end of one output on', async () => {
      const client = new TestClient();
      const exec = sh(client, 'exec 2>&-; read a; exit 2');
      await eventually('stderr ends', () => client.stderr.writableFinished || undefined);
      assert.equal(client.stdout.writableFinished, false);
      client.stdin.end('\n');
      assert.equal(await exec, 2);
    });

    it('kills all that a command has started when its client leaves', async () => {
      for (const tty of [false, true]) {
        const { stdin, stdout } = new TestClient();
        const leave = new AbortController();
        const command = ['sh', '-c', `${ESCAPES}\necho ready; sleep 4326`];
        const exec = lab.streams.exec(container.id, { command, tty }, { stdin, stdout }, leave.signal);
        await stdout.shows(/ready/);
        leave.abort(new Error('gone'));
        await assert.rejects(exec, /gone/);
        assert.equal(await running('sleep 432[0-9]'), '');
      }
      noFiles();
    });

    it('kills all that a timed-out command has started', async () => {
      const command = ['sh', '-c', `${ESCAPES}\nsleep 4326`];
      await assert.rejects(lab.lab.exec(container.id, command, signal, 400), { kind: 'deadline' });
      assert.equal(await running('sleep 432[0-9]'), '');
    });

    it('kills a command whose client leaves at any moment of its start', async () => {
      for (const tty of [false, true]) {
        for (const afterMs of [0, 1, 2, 4, 6, 9, 12, 15, 20, 30]) {
          const leave = new AbortController();
          const { stdout } = new TestClient();
          const exec = lab.streams.exec(container.id, { command: ['sleep', '4329'], tty }, { stdout }, leave.signal);
          setTimeout(() => leave.abort(new Error('gone')), afterMs);
          await assert.rejects(exec, /gone/);
          assert.equal(await running('sleep 432[0-9]'), '');
        }
      }
      noFiles();
    });

    it('dies as willingly as its container when memory is short', async () => {
      const resources = { hugepageLimits: [], unified: {}, oomScoreAdj: 700 };
      const { id } = await lab.run({ args: ['sleep', '1000'], spec: { resources } }, signal);
      const { stdout } = new TestClient();
      const command = ['cat', '/proc/self/oom_score_adj'];
      assert.equal(await lab.streams.exec(id, { command, tty: false }, { stdout }, signal), 0);
      assert.equal(stdout.text, '700\n');
    });

    it('lets every user write to its own streams by name', async () => {
      const request = lab.lab.execRequest(container.id, [
        'sh',
        '-c',
        'id -u; echo out > /dev/stdout; echo err > /dev/stderr',
      ]);
      const process = { ...request.process, user: { uid: 1000, gid: 1000, additionalGids: [] } };
      const { stdout, stderr } = await lab.lab.execs.run({ ...request, process }, 0, signal);
      assert.deepEqual([stdout.toString(), stderr.toString()], ['1000\nout\n', 'err\n']);
    });

    it('ends with its container', async () => {
      for (const pid of ['new', 'host'] as const) {
        const made = await lab.run({ args: ['sleep', '1000'], pid }, signal);
        const { stdout } = new TestClient();
        const command = ['sh', '-c', 'echo ready; sleep 5432 & exec sleep 5431'];
        const exec = lab.streams.exec(made.id, { command, tty: false }, { stdout }, signal);
        await stdout.shows(/ready/);
        assert.ok(made.init && killProcess(made.init.pid, made.init.startTime, 'SIGKILL'));
        await lab.lab.processes.exitOf(made.init.pid, made.init.startTime, signal);
        // What the container's end does not end, its record's change does.
        lab.runtime.endExecs(made.id);
        if (pid === 'host') await assert.rejects(exec, { kind: 'precondition', message: /has ended/ });
        else assert.ok([137, 'precondition'].includes(await exec.catch((err: { kind: string }) => err.kind)));
        assert.deepEqual(hostProcesses('^sleep 543[12]'), []);
        await eventually('its monitor is gone', () => hostProcesses('sleep 543[12]').length === 0 || undefined);
        lab.setState(made.id, 'exited');
        await assert.rejects(lab.streams.exec(made.id, { command, tty: false }, {}, signal), { kind: 'precondition' });
        assert.throws(() => lab.streams.checkExec(made.id), { kind: 'precondition' });
      }
    });

    it('gives a terminal, with its size and its signals', async () => {
      const { stdin, stdout } = new TestClient();
      let resize = (_size: { width: number; height: number }): void => {};
      const client = {
        stdin,
        stdout,
        onResize: (listener: typeof resize) => {
          resize = listener;
          resize({ width: 123, height: 45 });
        },
      };
      const exec = onTerminal(
        client,
        'tty; stty size; echo $TERM; trap "stty size" WINCH; trap "echo intr; exit 4" INT; while :; do read a; echo "got $a" >&2; done',
      );
      await stdout.shows(/xterm\r\n$/);
      assert.match(stdout.text, /^\/dev\/pts\/\d+\r\n45 123\r\nxterm\r\n$/);
      stdin.write('word\n');
      await stdout.shows(/word\r\ngot word\r\n$/);
      for (const size of [
        { width: 0, height: 0 },
        { width: -1, height: 70_000 },
        { width: 80, height: 24 },
      ])
        resize(size);
      stdin.write('next\n');
      await stdout.shows(/24 80\r\n/);
      stdin.write('\x03');
      assert.equal(await exec, 4);
      resize({ width: 1, height: 1 });
      assert.match(stdout.text, /intr\r\n$/);
      noFiles();
    });

    it('loses nothing on a terminal', async () => {
      const output = new Counter();
      assert.equal(await onTerminal({ stdout: output }, 'head -c 5000000 /dev/zero'), 0);
      assert.equal(output.bytes, 5_000_000);
      assert.equal(await onTerminal({}, 'echo to nobody; exit 8'), 8);
    });

    it('goes on with a terminal that nobody has open for a while', async () => {
      const { stdout } = new TestClient();
      const script =
        'exec 3<&0 < /dev/null; T=$(readlink /proc/self/fd/3); exec > /dev/null 2>&1 3<&-; sleep 0.3; echo back > $T';
      assert.equal(await onTerminal({ stdout }, script), 0);
      assert.equal(stdout.text, 'back\r\n');
    });

    it('runs a hundred at once, and leaves nothing open', async () => {
      const { id } = await lab.run({ args: ['sleep', '1000'], pidsLimit: 5000 }, signal);
      const fds = await settledFdCount();
      const one = async (i: number): Promise<void> => {
        const { stdin, stdout } = new TestClient();
        stdin.end(`number ${i}\n`);
        const command = i % 4 === 0 ? ['sh', '-c', 'read a; echo $a'] : ['cat'];
        assert.equal(await lab.streams.exec(id, { command, tty: i % 4 === 0 }, { stdin, stdout }, signal), 0);
        assert.match(stdout.text, new RegExp(`number ${i}\r?\n$`));
      };
      await Promise.all(Array.from({ length: 100 }, (_, i) => one(i)));
      await eventually('all is closed', () => openFdCount() === fds || undefined);
      noFiles();
    });
  });
}

/** Waits until a program waits for somebody to read its output. */
async function stalled(program: string): Promise<void> {
  await eventually(
    `${program} waits`,
    () =>
      hostProcesses(`^${program} `).some((pid) => / S /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))) || undefined,
  );
}

function hostProcesses(pattern: string): string[] {
  return readdirSync('/proc').filter((pid) => {
    if (!/^\d+$/.test(pid)) return false;
    try {
      return new RegExp(pattern).test(readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' '));
    } catch {
      return false;
    }
  });
}
