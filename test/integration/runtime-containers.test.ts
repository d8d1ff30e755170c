import assert from 'node:assert/strict';
import {
  closeSync,
  constants,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';

import { reopenLog } from '../../src/runtime/log-reopen.ts';
import type { OciSpec } from '../../src/runtime/oci-spec.ts';
import { toOciResources } from '../../src/runtime/spec-resources.ts';
import { readableBytes } from '../../src/sys/fd-calls.ts';
import { killProcess } from '../../src/sys/process.ts';
import { eventually } from '../harness/cri-lab.ts';
import { Lab, mountHugetlb } from './runtime-lab.ts';

const signal = AbortSignal.timeout(900_000);
const MiB = 1024 * 1024;

for (const name of ['runc', 'crun']) {
  describe(`containers with ${name}`, () => {
    // The hybrid hierarchy of some test machines has no v1 hugetlb, and crun before 1.9 wants one.
    let hugetlb: AsyncDisposable | undefined;
    let lab: Lab;
    before(async () => {
      if (name === 'crun') hugetlb = mountHugetlb();
      lab = await Lab.open(name);
    });
    after(async () => {
      await lab[Symbol.asyncDispose]();
      await hugetlb?.[Symbol.asyncDispose]();
    });

    it('creates, starts, and tells the exit code and its time', async () => {
      const logFile = join(lab.folder, 'logs/main/0.log');
      const made = await lab.create(
        { args: ['sh', '-c', 'echo out; echo err >&2; printf partial; exit 7'], logFile },
        signal,
      );
      assert.deepEqual(await lab.runtime.findState(made.id, signal), { status: 'created', pid: made.init.pid });
      assert.equal(readFileSync(logFile, 'utf8'), '', 'nothing runs before it is started');
      await lab.runtime.start(made.id, signal);
      const { exitCode, finishedAtUs } = await lab.exitOf(made.id);
      assert.equal(exitCode, 7);
      assert.ok(Math.abs(finishedAtUs / 1000 - Date.now()) < 5000);
      const lines = readFileSync(logFile, 'utf8')
        .split('\n')
        .map((line) => line.replace(/^\d{4}-\S+[+Z]\S* /, ''))
        .sort();
      assert.deepEqual(lines, ['', 'stderr F err', 'stdout F out', 'stdout P partial']);
      assert.equal(statSync(logFile).mode & 0o777, 0o640);
      await lab.remove(made.id);
    });

    it('gives the process what the spec says', async () => {
      const logFile = join(lab.folder, 'logs/env.log');
      const source = join(lab.folder, 'source');
      mkdirSync(source, { recursive: true });
      writeFileSync(join(source, 'file'), 'from the host\n');
      if (!existsSync(join(lab.folder, 'link'))) symlinkSync(source, join(lab.folder, 'link'));
      const script = [
        'pwd',
        'hostname > /dev/null && echo "$HOSTNAME $FROM $OWN"',
        'cat /mnt/deep/er/file /etc/hosts',
        'touch /mnt/deep/er/new 2> /dev/null || echo read-only',
        'cat /proc/self/oom_score_adj',
        'ulimit -n',
        'cat /proc/interrupts | wc -c',
        'echo x 2> /dev/null > /proc/sys/kernel/hostname || echo sys-read-only',
        'grep CapEff /proc/self/status',
        'grep NoNewPrivs /proc/self/status',
      ].join('; ');
      const made = await lab.run(
        {
          args: ['sh', '-c', script],
          logFile,
          spec: {
            workingDir: '/made/by/berth',
            env: [{ key: 'OWN', value: 'client' }],
            resources: { hugepageLimits: [], unified: {}, oomScoreAdj: 900 },
            security: { ...(await lab.spec('x', { args: [] })).spec.security, noNewPrivs: true },
          },
          mounts: [{ containerPath: '/mnt/deep/er', hostPath: join(lab.folder, 'link'), readonly: true }],
        },
        signal,
      );
      await lab.exitOf(made.id);
      const config = JSON.parse(readFileSync(lab.paths(made.id).config, 'utf8')) as OciSpec;
      const limit = config.process.rlimits?.[0]?.soft;
      assert.deepEqual(logLines(logFile), [
        '/made/by/berth',
        'lab-host image client',
        'from the host',
        'hosts of the lab',
        'read-only',
        '900',
        String(limit),
        '0',
        'sys-read-only',
        'CapEff:\t0000000000000020',
        'NoNewPrivs:\t1',
      ]);
      await lab.remove(made.id);
    });

    it('says which command is not in the image, and leaves nothing', async () => {
      for (const command of ['/no/such', 'nosuch']) {
        const id = lab.newId();
        await assert.rejects(lab.create({ args: [command] }, signal, id), (err: Error & { kind?: string }) => {
          assert.equal(err.kind, 'invalid');
          assert.match(err.message, new RegExp(`^config.command: ${command} cannot be run in the image`));
          return true;
        });
        assert.equal(await lab.runtime.findState(id, signal), undefined);
        assert.deepEqual(lab.bundles.findMonitors(id), []);
        lab.bundles.remove(id);
      }
    });

    it('passes on why the runtime refuses', async () => {
      const id = lab.newId();
      const wish = { args: ['true'], mounts: [{ containerPath: '/etc/passwd/below', hostPath: lab.folder }] };
      await assert.rejects(lab.create(wish, signal, id), {
        kind: 'internal',
        message: new RegExp(`^${name} create ${id}: .*passwd`),
      });
      lab.bundles.remove(id);
    });

    it('ends cleanly when its caller gives up in the middle', async () => {
      const id = lab.newId();
      const stop = new AbortController();
      const creation = lab.create({ args: ['true'] }, stop.signal, id);
      setImmediate(() => stop.abort(new Error('enough')));
      await assert.rejects(creation, /enough/);
      assert.equal(await lab.runtime.findState(id, signal), undefined);
      assert.deepEqual(lab.bundles.findMonitors(id), []);
      lab.bundles.remove(id);
    });

    it('starts a container once', async () => {
      const made = await lab.run({ args: ['true'] }, signal);
      await lab.exitOf(made.id);
      await assert.rejects(lab.runtime.start(made.id, signal), { kind: 'precondition' });
      await assert.rejects(lab.runtime.start(lab.newId(), signal), { kind: 'notFound' });
      await lab.remove(made.id);
      await lab.runtime.delete(made.id, { force: true }, signal);
      await lab.runtime.delete(made.id, { force: false }, signal);
    });

    it('reports death by a signal as 128+n', async () => {
      const made = await lab.run({ args: ['sleep', '1000'] }, signal);
      assert.ok(killProcess(made.init.pid, made.init.startTime, 'SIGKILL'));
      assert.equal((await lab.exitOf(made.id)).exitCode, 137);
      await lab.remove(made.id);
    });

    it('changes limits of a running container', async () => {
      const { host } = await lab.spec('x', { args: [] });
      const made = await lab.run({ args: ['sleep', '1000'] }, signal);
      const resources = toOciResources(
        { hugepageLimits: [], unified: {}, cpuShares: 512, memoryLimitBytes: 64 * MiB },
        host,
      );
      await lab.runtime.update(made.id, resources, signal);
      const file =
        host.cgroupVersion === 2
          ? `/sys/fs/cgroup/berth-lab/${made.id}/memory.max`
          : `/sys/fs/cgroup/memory/berth-lab/${made.id}/memory.limit_in_bytes`;
      assert.equal(Number(readFileSync(file, 'utf8')), 64 * MiB);
      await lab.remove(made.id);
    });

    it('goes on in a new log file after the old one was renamed', async () => {
      const logFile = join(lab.folder, 'logs/rotated/0.log');
      const made = await lab.run({ args: ['sh', '-c', 'while echo tick; do sleep 0.05; done'], logFile }, signal);
      const reopen = async (): Promise<void> =>
        await reopenLog(
          { containerId: made.id, control: lab.paths(made.id).control, logFile, monitorPid: made.monitor.pid },
          signal,
        );
      const inode = statSync(logFile).ino;
      await reopen();
      assert.equal(statSync(logFile).ino, inode, 'a file that nobody renamed is kept');
      renameSync(logFile, `${logFile}.1`);
      await reopen();
      assert.notEqual(statSync(logFile).ino, inode);
      assert.equal(statSync(logFile).mode & 0o777, 0o640);
      const oldSize = statSync(`${logFile}.1`).size;
      await lab.exec(made.id, ['sleep', '0.3'], signal);
      assert.equal(statSync(`${logFile}.1`).size, oldSize, 'nothing is written to the old file any more');
      assert.match(readFileSync(logFile, 'utf8'), /stdout F tick/);
      await lab.remove(made.id);
      await assert.rejects(reopen(), { kind: 'precondition' });
    });

    it('keeps a log whose monitor hung when it was to go on in a new one', async () => {
      const logFile = join(lab.folder, 'logs/hanging/0.log');
      const made = await lab.run({ args: ['sh', '-c', 'echo first; cat'], logFile, spec: { stdin: true } }, signal);
      const request = {
        containerId: made.id,
        control: lab.paths(made.id).control,
        logFile,
        monitorPid: made.monitor.pid,
      };
      await eventually('its output is logged', () => /first/.test(readFileSync(logFile, 'utf8')) || undefined);
      process.kill(made.monitor.pid, 'SIGSTOP');
      try {
        renameSync(logFile, `${logFile}.1`);
        const fd = openSync(request.control, constants.O_WRONLY | constants.O_NONBLOCK);
        const given = new AbortController();
        const reopening = reopenLog(request, given.signal);
        await eventually('the monitor is told', () => readableBytes(fd) > 0 || undefined);
        closeSync(fd);
        given.abort(new Error('the kubelet has lost patience'));
        await assert.rejects(reopening, /patience/);
        renameSync(`${logFile}.1`, logFile);
      } finally {
        process.kill(made.monitor.pid, 'SIGCONT');
      }
      const inode = statSync(logFile).ino;
      // It comes to this only after what it was told before.
      await reopenLog(request, signal);
      await lab.exec(made.id, ['sh', '-c', 'echo second > /proc/1/fd/1'], signal);
      await eventually('it goes on', () => /second/.test(readFileSync(logFile, 'utf8')) || undefined);
      assert.match(readFileSync(logFile, 'utf8'), /first.*second/s);
      assert.equal(statSync(logFile).ino, inode);
      await lab.remove(made.id);
    });
  });

  describe(`exec with ${name}`, () => {
    let hugetlb: AsyncDisposable | undefined;
    let lab: Lab;
    let id = '';
    before(async () => {
      if (name === 'crun') hugetlb = mountHugetlb();
      lab = await Lab.open(name);
      ({ id } = await lab.run({ args: ['sleep', '1000'] }, signal));
    });
    after(async () => {
      await lab[Symbol.asyncDispose]();
      await hugetlb?.[Symbol.asyncDispose]();
    });

    const sh = async (script: string, timeoutMs = 0) => await lab.exec(id, ['sh', '-c', script], signal, timeoutMs);
    const text = async (script: string): Promise<string> => (await sh(script)).stdout.toString();
    const noFiles = (): void =>
      assert.deepEqual(
        readdirSync(lab.paths(id).folder).filter((file) => file.startsWith('exec-')),
        [],
      );

    it('gives exit code and both outputs', async () => {
      const { exitCode, stdout, stderr } = await sh('echo out; echo err >&2; exit 3');
      assert.deepEqual([exitCode, stdout.toString(), stderr.toString()], [3, 'out\n', 'err\n']);
      assert.equal((await sh('kill -9 $$')).exitCode, 137);
      assert.equal(await text('echo $FROM; cat'), 'image\n', 'the environment of the container, and no input');
      noFiles();
    });

    it('keeps 16 MiB of an endless output, and the command goes on', async () => {
      const { exitCode, stdout } = await sh('head -c 20000000 /dev/zero; exit 4');
      assert.deepEqual([exitCode, stdout.length], [4, 16 * MiB]);
    });

    it('does not wait for what the command leaves behind', async () => {
      const { exitCode, stdout } = await sh('sleep 1000 & echo started');
      assert.deepEqual([exitCode, stdout.toString()], [0, 'started\n']);
      await sh('pkill -f "sleep 1000$" -n');
    });

    it('tells a command that is not there from one that fails', async () => {
      await assert.rejects(lab.exec(id, ['/no/such'], signal), {
        kind: 'invalid',
        message: /^cmd: \/no\/such cannot be run/,
      });
      await assert.rejects(lab.exec(id, [], signal), { kind: 'invalid', message: /^cmd: is empty/ });
      assert.equal((await sh('/no/such')).exitCode, 127);
      noFiles();
    });

    it('kills all that a command has started when its time is over', async () => {
      await assert.rejects(sh('sleep 4321 & (sleep 4322 &); setsid sleep 4323 & sleep 4324', 400), {
        kind: 'deadline',
        message: /: the command was killed after 0\.4 s$/,
      });
      const left = await text("ps | grep 'sleep 432[0-9]' || true");
      assert.equal(left, '');
      noFiles();
    });

    it('kills the command of a caller that gives up', async () => {
      // At different moments: before the monitor runs, while the runtime works, while the command does.
      for (const afterMs of [0, 1, 3, 5, 8, 12, 20, 100]) {
        const stop = new AbortController();
        const exec = lab.exec(id, ['sleep', '5432'], stop.signal);
        setTimeout(() => stop.abort(new Error('enough')), afterMs);
        await assert.rejects(exec, /enough/);
        assert.equal(await text("ps | grep 'sleep 543[0-9]' || true"), '');
      }
      noFiles();
    });

    it('runs many side by side', async () => {
      const codes = await Promise.all([1, 2, 3, 4, 5, 6].map(async (code) => (await sh(`exit ${code}`)).exitCode));
      assert.deepEqual(codes, [1, 2, 3, 4, 5, 6]);
    });

    it('ends with the container', async () => {
      const made = await lab.run({ args: ['sleep', '1000'] }, signal);
      const exec = lab.exec(made.id, ['sh', '-c', 'echo ready > /tmp/ready; exec sleep 999'], signal);
      while (!existsSync(join(lab.rootfs, 'tmp/ready'))) await new Promise((resolve) => setImmediate(resolve));
      killProcess(made.init.pid, made.init.startTime, 'SIGKILL');
      assert.equal((await exec).exitCode, 137);
      await assert.rejects(lab.exec(made.id, ['true'], signal), { kind: 'precondition' });
      await lab.remove(made.id);
    });

    it("ends on demand where the container's end does not end it", async () => {
      const made = await lab.run({ args: ['sleep', '1000'], pid: 'host' }, signal);
      const exec = lab.exec(made.id, ['sleep', '6543'], signal);
      setTimeout(() => lab.execs.end(made.id), 100);
      await assert.rejects(exec, { kind: 'precondition', message: /has ended/ });
      await lab.remove(made.id);
    });
  });
}

it('works in a state folder whose path is too long for a socket', async () => {
  await using lab = await Lab.open('runc', 'state'.repeat(20));
  const made = await lab.run({ args: ['tty'], spec: { tty: true }, logFile: join(lab.folder, '0.log') }, signal);
  assert.equal((await lab.exitOf(made.id)).exitCode, 0);
  assert.match(readFileSync(join(lab.folder, '0.log'), 'utf8'), /stdout F \/dev\/(console|pts\/0)\r\n/);
});

/** The contents of a CRI log without times, streams and tags; of two neighbours from different streams in any order. */
function logLines(file: string): string[] {
  return readFileSync(file, 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => line.split(' ').slice(3).join(' '));
}
