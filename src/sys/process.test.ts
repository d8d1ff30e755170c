import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { access } from 'node:fs/promises';
import { getPriority, setPriority, tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { Worker } from 'node:worker_threads';

import { SyscallError } from './errno.ts';
import {
  exitAtOnce,
  isSameProcess,
  killProcess,
  killProcessGroup,
  parseStartTime,
  preferThreads,
  readProcessStartTime,
  setSessionNice,
} from './process.ts';

test('the start time is field 22, whatever the command is called', () => {
  const rest = Array.from({ length: 50 }, (_, i) => String(i + 4)).join(' ');
  assert.equal(parseStartTime(`7 (sleep) S ${rest}`), 22);
  assert.equal(parseStartTime(`7 (a) S 1 (b c) S ${rest}`), 22);
  assert.equal(parseStartTime('7 (x) S 1'), undefined);
});

test('this process has a start time, one that never was has none', () => {
  const startTime = readProcessStartTime(process.pid);
  assert.ok(startTime !== undefined && startTime > 0);
  assert.equal(isSameProcess(process.pid, startTime), true);
  assert.equal(isSameProcess(process.pid, startTime + 1), false);
  assert.equal(readProcessStartTime(2 ** 22 + 1), undefined);
});

test('a process ends at once that has a thread of the pool hang', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'berth-exit-'));
  const fifo = join(folder, 'fifo');
  execFileSync('mkfifo', [fifo]);
  const module = JSON.stringify(new URL('process.ts', import.meta.url).href);
  const script = `import { open } from 'node:fs'; import { ${exitAtOnce.name} } from ${module};
    // Nobody opens its other end.
    open(${JSON.stringify(fifo)}, 'r', () => {});
    setTimeout(() => ${exitAtOnce.name}(7), 50);`;
  try {
    const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
      timeout: 60_000,
      killSignal: 'SIGKILL',
    });
    assert.deepEqual(await once(child, 'exit'), [7, null]);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('a signal never reaches a process that only has the same pid', () => {
  const startTime = readProcessStartTime(process.pid) ?? 0;
  assert.equal(killProcess(process.pid, startTime + 1, 'SIGKILL'), false);
  assert.equal(killProcess(2 ** 22 + 1, 1, 'SIGKILL'), false);
});

for (const leads of [true, false]) {
  test(`a process that leads ${leads ? 'a' : 'no'} group is killed ${leads ? 'with it' : 'alone'}`, async () => {
    const script = 'sleep 1000 <&0 & echo $!; wait';
    const child = spawn('/bin/sh', ['-c', script], { detached: leads, stdio: ['pipe', 'pipe', 'ignore'] });
    const { pid = 0, stdout } = child;
    const [said] = (await once(stdout, 'data')) as [Buffer];
    const sleeper = Number(said.toString());
    const startTime = readProcessStartTime(pid) ?? 0;
    assert.equal(killProcessGroup(pid, startTime + 1), false);
    const exited = once(child, 'exit');
    const closed = once(stdout, 'close');
    assert.equal(killProcessGroup(pid, startTime), true);
    assert.deepEqual(await exited, [null, 'SIGKILL']);
    if (!leads) assert.equal(process.kill(sleeper, 'SIGKILL'), true);
    // The other one has its end of the pipe.
    await closed;
    assert.equal(killProcessGroup(pid, startTime), false);
  });
}

test('threads that come before others do not have children and later threads come before them too', async (t) => {
  await access('/');
  try {
    preferThreads(-3);
  } catch (err) {
    if (err instanceof SyscallError && ['EPERM', 'EACCES'].includes(err.errno)) return t.skip('needs CAP_SYS_NICE');
    throw err;
  }
  const tids = readdirSync('/proc/self/task').map(Number);
  try {
    assert.ok(tids.length > 4);
    assert.deepEqual(new Set(tids.map((tid) => getPriority(tid))), new Set([-3]));
    assert.equal(execFileSync('nice', { encoding: 'utf8' }).trim(), '0');
    const worker = new Worker('require("worker_threads").parentPort.once("message", () => {});', {
      eval: true,
    });
    await once(worker, 'online');
    const later = readdirSync('/proc/self/task')
      .map(Number)
      .filter((tid) => !tids.includes(tid));
    assert.deepEqual(new Set(later.map((tid) => getPriority(tid))), new Set([0]));
    await worker.terminate();
    preferThreads(-5);
    assert.equal(getPriority(0), -3, 'what somebody has chosen stays');
  } finally {
    for (const tid of tids) setPriority(tid, 0);
  }
});

const noAutogroups = existsSync('/proc/self/autogroup') ? false : 'this kernel shares nothing out among sessions';
/** Its number and its nice value. Empty where nobody, up to the first process of the machine, ever called setsid(2). */
const autogroup = (pid: number): string => readFileSync(`/proc/${pid}/autogroup`, 'latin1');

test('a session gives way to others', { skip: noAutogroups }, async () => {
  const child = spawn('sleep', ['30'], { detached: true, stdio: 'ignore' });
  const { pid = 0 } = child;
  await once(child, 'spawn');
  setSessionNice(pid, 5);
  assert.match(autogroup(pid), /nice 5\n/);
  child.kill('SIGKILL');
  await once(child, 'exit');
  setSessionNice(pid, 5);
});

for (const leads of [true, false]) {
  test(`a process that leads ${leads ? 'its' : 'no'} session has it come ${leads ? 'first' : 'as before'}`, {
    skip: noAutogroups,
  }, async (t) => {
    const code = `import(${JSON.stringify(import.meta.resolve('./process.ts'))})
      .then(({ preferThreads }) => preferThreads(-4))
      .then(() => process.stdout.write(require('fs').readFileSync('/proc/self/autogroup', 'latin1')));`;
    const before = autogroup(process.pid);
    const child = spawn(process.execPath, ['-e', code], { detached: leads, stdio: ['ignore', 'pipe', 'pipe'] });
    let [said, problem] = ['', ''];
    child.stdout.on('data', (text: Buffer) => (said += text.toString()));
    child.stderr.on('data', (text: Buffer) => (problem += text.toString()));
    const [exitCode] = (await once(child, 'close')) as [number];
    if (/EPERM|EACCES/.test(problem)) return t.skip('needs CAP_SYS_NICE');
    assert.equal(exitCode, 0, problem);
    if (leads) assert.match(said, /nice -4\n/, problem);
    else assert.equal(said, before, problem);
  });
}
