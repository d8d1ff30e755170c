import assert from 'node:assert/strict';
import { once } from 'node:events';
import {
  closeSync,
  copyFileSync,
  createReadStream,
  existsSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';

import { BerthError, kindOf } from '../../src/base/errors.ts';
import { type LogFields, silentLogger } from '../../src/base/log.ts';
import { silentMeter } from '../../src/base/meter.ts';
import type { Notice } from '../../src/base/notices.ts';
import { ExitError } from '../../src/proc/command.ts';
import { Processes } from '../../src/proc/processes.ts';
import { libc } from '../../src/sys/libc.ts';
import { createPipe } from '../../src/sys/pipe.ts';
import { isSameProcess, readProcessStartTime } from '../../src/sys/process.ts';
import { childPids, openFdCount } from '../fakes/process-facts.ts';
import { isAlive } from '../harness/machine-state.ts';
import { SOON_MS } from '../harness/patience.ts';

const fcntl: (fd: number, command: number, argument: number) => number = libc.func('fcntl', 'int', [
  'int',
  'int',
  'int',
]);
const F_SETLEASE = 1024;
const F_WRLCK = 1;
const F_UNLCK = 2;
const never = new AbortController().signal;
const second = { timeoutMs: 10_000 };
let processes: Processes;
let lines: LogFields[];
let counted: unknown[][];
let told: string[];
let fdsBefore: number;

before(async () => {
  // The first stream and the first poll open the event loop's own descriptors.
  const first = newProcesses();
  await first.run({ path: 'true', args: [], ...second }, never);
  await first.close();
  fdsBefore = openFdCount();
});
beforeEach(() => {
  lines = [];
  counted = [];
  told = [];
  processes = newProcesses();
});
afterEach(async () => {
  await processes.close();
  assert.deepEqual(childPids(), [], 'a child is left');
});
after(() => assert.equal(openFdCount(), fdsBefore, 'a descriptor leaked'));

function newProcesses(): Processes {
  const log = { ...silentLogger, debug: (fields: LogFields) => void lines?.push(fields) };
  const meter = { ...silentMeter, process: (...args: unknown[]) => void counted?.push(args.slice(0, 2)) };
  const notices = { tell: ({ reason, message }: Notice) => void told?.push(`${reason}: ${message}`) };
  return new Processes({ log, meter, notices });
}

function sh(script: string, more?: object): { path: string; args: string[]; timeoutMs: number } {
  return { path: '/bin/sh', args: ['-c', script], ...second, ...more };
}

/** Without those that have ended and are about to be reaped. */
function runningChildren(): number[] {
  return childPids().filter(isAlive);
}

test('output, error output and exit code come back', async () => {
  const result = await processes.run(sh('echo out; echo err >&2; exit 3'), never);
  assert.deepEqual([result.exitCode, result.signal, result.truncated], [3, undefined, false]);
  assert.deepEqual([result.stdout.toString(), result.stderr.toString()], ['out\n', 'err\n']);
  assert.ok(result.durationMs > 0);
  assert.deepEqual([lines[0]?.['program'], lines[0]?.['argCount'], lines[0]?.['exitCode']], ['sh', 2, 3]);
  assert.deepEqual(counted, [['sh', 'internal']]);
  assert.ok(!JSON.stringify(lines).includes('echo'), 'arguments may be secret');
});

test('the environment is only what was asked for', async () => {
  const env = await processes.run({ path: '/usr/bin/env', args: [], ...second }, never);
  assert.match(env.stdout.toString(), /^PATH=[^\n]+\n$/);
  const own = await processes.run({ path: '/usr/bin/env', args: [], env: { A: 'b c' }, cwd: '/', ...second }, never);
  assert.equal(own.stdout.toString(), 'A=b c\n');
});

test('a child starts with default signals, no open files of ours, and in its folder', async () => {
  const inherited = openSync('/etc/passwd', 'r');
  const child = await processes.start({ path: 'yes', args: [], cwd: '/usr', stdout: 'pipe' }, never);
  closeSync(inherited);
  // The dynamic linker has files open for a moment, after the program is the child's and before it does anything.
  assert.ok(child.stdout);
  await once(child.stdout, 'readable');
  // Seen from outside: a shell that looks at itself blocks signals and moves descriptors while it does so.
  const status = readFileSync(`/proc/${child.pid}/status`, 'utf8');
  assert.match(status, /^SigBlk:\t0+\nSigIgn:\t0+$/m);
  assert.deepEqual(readdirSync(`/proc/${child.pid}/fd`), ['0', '1', '2']);
  assert.equal(readlinkSync(`/proc/${child.pid}/fd/0`), '/dev/null');
  assert.equal(readlinkSync(`/proc/${child.pid}/cwd`), '/usr');
  await child.terminate(1000);
  child.stdout.destroy();
});

test('a missing program, folder or interpreter is named', async () => {
  const missing = { path: '/no/such/program', args: [], ...second };
  await assert.rejects(processes.run(missing, never), { kind: 'notFound', message: /^\/no\/such\/program: / });
  await assert.rejects(processes.run({ ...missing, path: 'no-such-program' }, never), { kind: 'notFound' });
  await assert.rejects(processes.run(sh('true', { cwd: '/no/folder' }), never), { message: /\/no\/folder/ });
  await assert.rejects(processes.run({ ...missing, path: '/etc/passwd' }, never), { kind: 'permission' });
  assert.deepEqual(counted[0], ['program', 'notFound']);
});

test('runOk turns an exit code into an error that keeps the words of the program', async () => {
  await assert.rejects(processes.runOk(sh('echo first >&2; echo second >&2; exit 7'), never), (err) => {
    assert.ok(err instanceof ExitError);
    assert.equal(err.message, 'sh failed with exit code 7: first, second');
    return err.exitCode === 7 && err.stderr === 'first\nsecond';
  });
  await assert.rejects(processes.runOk(sh('kill -9 $$'), never), { message: 'sh was ended by SIGKILL', exitCode: 137 });
  assert.equal((await processes.runOk(sh('true'), never)).exitCode, 0);
});

test('stdin goes in, short or long, and need not be read', async () => {
  const cat = { path: 'cat', args: [], ...second };
  for (const size of [1, 4096, 4097, 500_000]) {
    const result = await processes.run({ ...cat, stdin: Buffer.alloc(size, 'x') }, never);
    assert.equal(result.stdout.length, size);
  }
  assert.equal((await processes.run({ ...cat, stdin: 'text ü' }, never)).stdout.toString(), 'text ü');
  assert.equal((await processes.run({ ...cat, stdin: '' }, never)).stdout.length, 0);
  assert.equal((await processes.run(sh('exit 4', { stdin: Buffer.alloc(1_000_000) }), never)).exitCode, 4);
});

test('output over the limit is read and dropped', async () => {
  const cmd = sh('head -c 300000 /dev/zero; head -c 5 /dev/zero >&2', { outputLimitBytes: 1000 });
  const result = await processes.run(cmd, never);
  assert.deepEqual([result.exitCode, result.stdout.length, result.stderr.length], [0, 1000, 5]);
  assert.equal(result.truncated, true);
});

test('a program that prints for ever is ended at the limit, where that is asked for', async () => {
  const result = await processes.run(sh('exec yes', { outputLimitBytes: 1000, endAtLimit: true }), never);
  assert.deepEqual([result.signal, result.stdout.length, result.truncated], ['SIGTERM', 1000, true]);
  assert.deepEqual(runningChildren(), []);
});

test('a descendant that keeps the pipes open does not hold the result back', async () => {
  const result = await processes.run(sh('sleep 30 & echo $!; exit 0'), never);
  assert.ok(result.durationMs < 5000);
  process.kill(Number(result.stdout.toString()), 'SIGKILL');
});

test('a child that has ended is reaped by itself', async () => {
  const child = await processes.start({ path: 'true', args: [] }, never);
  const fds = openFdCount();
  assert.equal((await child.exited).exitCode, 0);
  await until(() => childPids().length === 0);
  assert.equal(openFdCount(), fds - 1, 'its descriptor is left');
});

test('a timeout ends the process, politely first', async () => {
  const cmd = sh('trap "exit 0" TERM; echo $$; while :; do sleep 0.01; done', { timeoutMs: 100 });
  await assert.rejects(processes.run(cmd, never), { kind: 'deadline', message: /\/bin\/sh/ });
  assert.deepEqual(runningChildren(), []);
  assert.deepEqual(counted, [['sh', 'deadline']]);
  assert.deepEqual(told, ['ProgramHanging: /bin/sh did not end within 0.1 s']);
});

test('a process that ignores SIGTERM is killed, and its group with it', async () => {
  const { readFd, writeFd } = createPipe();
  const script = `trap "" TERM; (trap "" TERM; sleep 30) & echo $! >&${3}; echo $$ >&${3}; wait`;
  const started = await processes.start(
    {
      path: '/bin/sh',
      args: ['-c', script],
      extraFds: [writeFd],
      newSession: true,
    },
    never,
  );
  closeSync(writeFd);
  const pids = await firstLines(readFd, 2);
  await started.terminate(50);
  assert.deepEqual(await started.exited, { exitCode: 137, signal: 'SIGKILL' });
  // Orphans are reaped by init; what counts is that none of them runs on.
  for (const pid of pids) await waitGone(Number(pid));
});

test('the group of a leader that left politely does not outlive a timeout', async () => {
  const { readFd, writeFd } = createPipe();
  const script = `(trap "" TERM; echo ready >&3; exec 3>&-; sleep 30) & echo $! >&3; exec 3>&-; wait`;
  const started = await processes.start(
    {
      path: '/bin/sh',
      args: ['-c', script],
      extraFds: [writeFd],
      newSession: true,
    },
    never,
  );
  closeSync(writeFd);
  const seen = await firstLines(readFd, 2);
  await started.terminate(5000);
  assert.equal((await started.exited).signal, 'SIGTERM');
  await waitGone(Number(seen.find((line) => line !== 'ready')));
});

test('an abort kills, and then throws its reason', async () => {
  const abort = new AbortController();
  const reason = new Error('enough');
  const running = processes.run({ path: 'sleep', args: ['30'], ...second }, abort.signal);
  await until(() => processes.running === 1);
  assert.equal(runningChildren().length, 1);
  abort.abort(reason);
  await assert.rejects(running, (err) => err === reason);
  assert.deepEqual(runningChildren(), []);
  await assert.rejects(
    processes.run({ path: 'sleep', args: ['30'], ...second }, abort.signal),
    (err) => err === reason,
  );
});

test('who may finish is let, for a while, whatever calls it off', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'berth-processes-'));
  const file = join(folder, 'half');
  // More than a pipe holds, before its end: nobody wants it, but somebody has to read it.
  const script = `: > ${file}; sleep 0.3; head -c 200000 /dev/zero; echo whole > ${file}`;
  const work = sh(script, { letFinishMs: SOON_MS });
  const assertFinished = (): void => {
    assert.equal(readFileSync(file, 'utf8'), 'whole\n');
    assert.deepEqual(runningChildren(), []);
    rmSync(file);
  };
  try {
    const abort = new AbortController();
    const running = processes.run(work, abort.signal);
    await until(() => existsSync(file));
    abort.abort(new BerthError('cancelled', 'enough'));
    await assert.rejects(running, { kind: 'cancelled' });
    assertFinished();

    await assert.rejects(processes.run({ ...work, timeoutMs: 100 }, never), { kind: 'deadline' });
    assertFinished();

    const closing = processes.run(work, never);
    await until(() => existsSync(file));
    await Promise.all([assert.rejects(closing, { kind: 'cancelled' }), processes.close()]);
    assertFinished();
    processes = newProcesses();

    using program = new HeldProgram('sh');
    const early = new AbortController();
    const starting = processes.run({ ...work, path: program.path }, early.signal);
    await program.wanted;
    early.abort(new BerthError('cancelled', 'enough'));
    program.release();
    await assert.rejects(starting, { kind: 'cancelled' });
    assertFinished();
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

test('who may finish, and does not, is killed', async () => {
  const startedMs = performance.now();
  const endless = processes.run(sh('sleep 30', { letFinishMs: 50 }), AbortSignal.timeout(50));
  await assert.rejects(endless, { name: 'TimeoutError' });
  assert.ok(performance.now() - startedMs < SOON_MS);
  assert.deepEqual(runningChildren(), []);
});

test('the event loop goes on while a program takes its time to start', async () => {
  using program = new HeldProgram();
  const starting = processes.start({ path: program.path, args: [] }, never);
  let hasStarted = false;
  void starting.then(() => (hasStarted = true));
  await program.wanted;
  assert.equal(hasStarted, false);
  program.release();
  assert.equal((await (await starting).exited).exitCode, 0);
});

test('a run that is aborted as it starts leaves no process', async () => {
  using program = new HeldProgram();
  const abort = new AbortController();
  const reason = new Error('enough');
  const running = processes.run({ path: program.path, args: [], ...second }, abort.signal);
  await program.wanted;
  abort.abort(reason);
  program.release();
  await assert.rejects(running, (err) => err === reason);
  assert.deepEqual([processes.running, runningChildren()], [0, []]);
});

test('close waits for what is about to start, and ends it', async () => {
  using program = new HeldProgram('sleep');
  const starting = processes.start({ path: program.path, args: ['30'] }, never);
  await program.wanted;
  const closing = processes.close();
  program.release();
  await closing;
  assert.deepEqual([processes.running, runningChildren()], [0, []]);
  assert.equal((await (await starting).exited).signal, 'SIGTERM');
});

test('a program whose disk hangs is given up, refused until it comes, and then killed', async () => {
  using program = new HeldProgram('sleep');
  const abort = new AbortController();
  const { readFd, writeFd } = createPipe();
  const command = { path: program.path, args: ['30'] };
  const starting = processes.start({ ...command, extraFds: [writeFd] }, abort.signal);
  await program.wanted;
  abort.abort(new BerthError('deadline', 'too late'));
  await assert.rejects(starting, { kind: 'deadline', message: 'too late' });
  await assert.rejects(processes.start(command, never), { kind: 'unavailable', message: /start of it hangs/ });
  await assert.rejects(processes.run({ ...command, ...second }, never), { kind: 'unavailable' });
  program.release();
  closeSync(writeFd);
  assert.equal(await text(createReadStream('', { fd: readFd })), '');
  await until(() => childPids().length === 0);
  const again = await processes.start(command, never);
  await again.terminate(0);
});

test('a child gets what its descriptors were when it was asked for', async () => {
  using program = new HeldProgram();
  const poolSize = Number(process.env['UV_THREADPOOL_SIZE'] ?? 4);
  const held = Array.from({ length: poolSize }, () => processes.start({ path: program.path, args: [] }, never));
  await program.wanted;
  const { readFd, writeFd } = createPipe();
  const starting = processes.start({ path: 'echo', args: ['said'], stdout: writeFd }, never);
  closeSync(writeFd);
  const other = openSync('/dev/null', 'w');
  assert.equal(other, writeFd);
  program.release();
  await (await starting).exited;
  closeSync(other);
  assert.equal(await text(createReadStream('', { fd: readFd })), 'said\n');
  for (const start of held) await (await start).exited;
});

test('two hundred runs at once and one after another leave nothing open', async () => {
  const count = openFdCount();
  await Promise.all(Array.from({ length: 50 }, () => processes.run(sh('cat; exit 1', { stdin: 'x' }), never)));
  for (let i = 0; i < 150; i++) await processes.run({ path: 'true', args: [], ...second }, never);
  await assert.rejects(processes.run({ path: '/no/such', args: [], stdin: Buffer.alloc(9999), ...second }, never));
  await until(() => childPids().length === 0);
  assert.equal(openFdCount(), count);
});

test('start hands over streams and descriptors', async () => {
  const { readFd, writeFd } = createPipe();
  const child = await processes.start(
    {
      path: '/bin/sh',
      args: ['-c', 'read line; echo "got $line"; echo err >&2; echo extra >&3; exit 5'],
      stdin: 'pipe',
      stdout: 'pipe',
      stderr: 'pipe',
      extraFds: [writeFd],
    },
    never,
  );
  closeSync(writeFd);
  assert.ok(child.stdin && child.stdout && child.stderr);
  child.stdin.end('hello\n');
  assert.deepEqual(await Promise.all([text(child.stdout), text(child.stderr)]), ['got hello\n', 'err\n']);
  assert.deepEqual(await firstLines(readFd, 1), ['extra']);
  assert.deepEqual(await child.exited, { exitCode: 5, signal: undefined });
  child.kill('SIGTERM');
});

test('descriptors that would overwrite each other arrive where they belong', async () => {
  const { readFd, writeFd } = createPipe();
  // 1 and 2 swapped: each is the other's target.
  const child = await processes.start(
    { path: 'sleep', args: ['30'], stdout: 2, stderr: 1, extraFds: [writeFd, 0] },
    never,
  );
  const theirs = [1, 2, 3, 4].map((fd) => readlinkSync(`/proc/${child.pid}/fd/${fd}`));
  const ours = [2, 1, writeFd, 0].map((fd) => readlinkSync(`/proc/self/fd/${fd}`));
  assert.deepEqual(theirs, ours);
  closeSync(writeFd);
  closeSync(readFd);
  await child.terminate(1000);
});

test('back-pressure reaches the child', async () => {
  const child = await processes.start({ path: 'yes', args: [], stdout: 'pipe' }, never);
  assert.ok(child.stdout);
  child.stdout.resume();
  await new Promise((resolve) => child.stdout?.once('data', resolve));
  child.stdout.pause();
  // A writer that nobody reads from ends up asleep in write(2).
  await until(() => /pipe/.test(readFileSync(`/proc/${child.pid}/wchan`, 'utf8')) || stateOf(child.pid) === 'S');
  child.stdout.destroy();
  assert.equal((await child.exited).signal, 'SIGPIPE');
});

test('exitOf sees the end of processes that are not ours, and of those gone before', async () => {
  const { stdout } = await processes.run(sh('sleep 30 >/dev/null 2>&1 & echo $!'), never);
  const orphan = Number(stdout.toString());
  const startTime = readProcessStartTime(orphan) ?? 0;
  const exit = processes.exitOf(orphan, startTime, never);
  assert.equal(await Promise.race([exit.then(() => 'ended'), delay(20, 'alive')]), 'alive');
  process.kill(orphan, 'SIGKILL');
  await exit;
  await processes.exitOf(orphan, startTime, never);
  await processes.exitOf(process.pid, 1, never);
});

test('exitOf and exited share a child without losing its exit code', async () => {
  const child = await processes.start({ path: '/bin/sh', args: ['-c', 'exit 9'] }, never);
  const startTime = readProcessStartTime(child.pid) ?? 0;
  await Promise.all([processes.exitOf(child.pid, startTime, never), processes.exitOf(child.pid, startTime, never)]);
  assert.equal((await child.exited).exitCode, 9);
});

test('exitOf ends with its signal, and close ends everything', async () => {
  const startTime = readProcessStartTime(process.pid) ?? 0;
  await assert.rejects(processes.exitOf(process.pid, startTime, AbortSignal.timeout(10)), { name: 'TimeoutError' });
  const waiting = processes.exitOf(process.pid, startTime, never);
  const running = processes.run({ path: 'sleep', args: ['30'], ...second }, never);
  const started = await processes.start({ path: 'sleep', args: ['30'] }, never);
  const all = Promise.allSettled([waiting, running, started.exited]);
  await processes.close();
  const [first, then, last] = await all;
  assert.equal(first.status === 'rejected' && kindOf(first.reason), 'cancelled');
  assert.equal(then.status === 'rejected' && kindOf(then.reason), 'cancelled');
  assert.equal(last.status === 'fulfilled' && last.value.signal, 'SIGTERM');
  await assert.rejects(processes.start({ path: 'true', args: [] }, never), { kind: 'cancelled' });
});

test('the event loop goes on while processes run', async () => {
  let ticks = 0;
  const timer = setInterval(() => ticks++, 5);
  await Promise.all(
    Array.from({ length: 20 }, () => processes.run({ path: 'sleep', args: ['0.3'], ...second }, never)),
  );
  clearInterval(timer);
  assert.ok(ticks > 20, `only ${ticks} ticks`);
});

/**
 * A program whose start waits in execve(2): the kernel has who opens a file wait for whoever has a lease of it, and sends
 * that one SIGIO (fcntl(2), "Leases").
 */
class HeldProgram implements Disposable {
  readonly path: string;
  /** Somebody wants to start it. */
  readonly wanted = once(process, 'SIGIO');
  readonly #folder = mkdtempSync(join(tmpdir(), 'berth-held-'));
  readonly #fd: number;

  constructor(name = 'true') {
    this.path = join(this.#folder, name);
    copyFileSync(join('/bin', name), this.path);
    this.#fd = openSync(this.path, 'r');
    assert.equal(fcntl(this.#fd, F_SETLEASE, F_WRLCK), 0);
  }

  release(): void {
    fcntl(this.#fd, F_SETLEASE, F_UNLCK);
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd);
    rmSync(this.#folder, { recursive: true });
  }
}

/** Reads whole lines from a descriptor until there are enough or all writers are gone; closes it. */
async function firstLines(fd: number, count: number): Promise<string[]> {
  const { Socket } = await import('node:net');
  const socket = new Socket({ fd, readable: true, writable: false });
  let seen = '';
  for await (const chunk of socket as AsyncIterable<Buffer>) {
    seen += String(chunk);
    if (seen.split('\n').length > count) break;
  }
  socket.destroy();
  return seen.trim().split('\n');
}

function stateOf(pid: number): string | undefined {
  return readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.[0];
}

async function waitGone(pid: number): Promise<void> {
  const startTime = readProcessStartTime(pid);
  if (startTime !== undefined) await processes.exitOf(pid, startTime, AbortSignal.timeout(SOON_MS));
  assert.ok(startTime === undefined || !isSameProcess(pid, startTime) || stateOf(pid) === 'Z');
}

async function until(condition: () => boolean): Promise<void> {
  for (let i = 0; i < 6000 && !condition(); i++) await delay(10);
  assert.ok(condition());
}
