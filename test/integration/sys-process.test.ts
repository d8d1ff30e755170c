import assert from 'node:assert/strict';
import { closeSync, openSync, readFileSync, readSync, writeSync } from 'node:fs';
import { afterEach, test } from 'node:test';

import { closeFd } from '../../src/sys/at.ts';
import {
  type ExitStatus,
  pidfdExited,
  pidfdOpen,
  pidfdSendSignal,
  reapKilled,
  waitPidfd,
} from '../../src/sys/pidfd.ts';
import { createPipe, duplicateFd } from '../../src/sys/pipe.ts';
import { killProcess, openProcess, readProcessStartTime } from '../../src/sys/process.ts';
import { posixSpawn, posixSpawnInPool, type SpawnRequest } from '../../src/sys/spawn.ts';
import { childPids, openFdCount } from '../fakes/process-facts.ts';

afterEach(() => assert.deepEqual(childPids(), [], 'a child is left'));

test('a pidfd tells when its process ends, and how', async () => {
  const child = spawn({ path: '/bin/sh', args: ['-c', 'exit 42'] });
  await pidfdExited(child.pidfd);
  assert.deepEqual(waitPidfd(child.pidfd), { exitCode: 42, signal: undefined });
  assert.equal(waitPidfd(child.pidfd), 'notOurs');
  assert.equal(pidfdSendSignal(child.pidfd, 'SIGTERM'), false);
  closeFd(child.pidfd);
  assert.equal(pidfdOpen(child.pid), undefined);
});

test('a wait goes on as soon as the process has ended, with nothing else to wake the loop', async () => {
  const child = spawn({ path: 'sleep', args: ['0.05'] });
  let slept = true;
  // Would hold the continuation back if the end alone did not run it.
  const late = setTimeout(() => {
    slept = false;
  }, 3000);
  await pidfdExited(child.pidfd);
  clearTimeout(late);
  assert.ok(slept);
  waitPidfd(child.pidfd);
  closeFd(child.pidfd);
});

test('a signal ends a process, and its name comes back', async () => {
  const child = spawn({ path: 'sleep', args: ['30'] });
  assert.equal(waitPidfd(child.pidfd), 'running');
  assert.equal(pidfdSendSignal(child.pidfd, 'SIGUSR1'), true);
  assert.deepEqual(await end(child.pidfd), { exitCode: 138, signal: 'SIGUSR1' });
  assert.throws(() => pidfdSendSignal(1_000_000, 'SIGTERM'), { errno: 'EBADF' });
  assert.throws(() => pidfdSendSignal(0, 'SIGNONE' as 'SIGTERM'), { kind: 'invalid' });
});

test('a watch ends with its signal and leaves the descriptor alone', async () => {
  const child = spawn({ path: 'sleep', args: ['30'] });
  const fds = openFdCount();
  const abort = new AbortController();
  const watch = pidfdExited(child.pidfd, abort.signal);
  abort.abort(new Error('enough'));
  await assert.rejects(watch, { message: 'enough' });
  await assert.rejects(pidfdExited(child.pidfd, abort.signal), { message: 'enough' });
  assert.equal(openFdCount(), fds);
  pidfdSendSignal(child.pidfd, 'SIGKILL');
  reapKilled(child.pid);
  assert.equal(waitPidfd(child.pidfd), 'notOurs');
  closeFd(child.pidfd);
});

test('pid and start time name one process', async () => {
  const child = spawn({ path: 'sleep', args: ['30'] });
  const startTime = readProcessStartTime(child.pid) ?? 0;
  assert.equal(openProcess(child.pid, startTime + 1), undefined);
  assert.equal(killProcess(child.pid, startTime + 1, 'SIGKILL'), false);
  assert.equal(waitPidfd(child.pidfd), 'running');
  assert.equal(killProcess(child.pid, startTime, 'SIGKILL'), true);
  assert.equal((await end(child.pidfd)).signal, 'SIGKILL');
  assert.equal(killProcess(child.pid, startTime, 'SIGKILL'), false);
});

test('a session is made with its group, as asked', async () => {
  const own = statOf(process.pid);
  for (const newSession of [false, true]) {
    const child = spawn({ path: 'sleep', args: ['30'], newSession });
    const stat = statOf(child.pid);
    assert.equal(stat.group, newSession ? child.pid : own.group);
    assert.equal(stat.session, newSession ? child.pid : own.session);
    pidfdSendSignal(child.pidfd, 'SIGKILL');
    await end(child.pidfd);
  }
});

test('arguments, environment and folder arrive as they are', async () => {
  const { readFd, writeFd } = createPipe();
  const args = ['-c', 'printf "%s|" "$0" "$@" "$A" "$PWD"', 'zero', '', 'a b', 'ü', '*'];
  const child = spawn({ path: '/bin/sh', args, env: { A: 'x=y' }, cwd: '/usr', fds: [0, writeFd, 2] });
  closeFd(writeFd);
  await end(child.pidfd);
  const bytes = Buffer.alloc(100);
  assert.equal(bytes.toString('utf8', 0, readSync(readFd, bytes)), 'zero||a b|ü|*|x=y|/usr|');
  closeFd(readFd);
  for (const bad of [{ args: ['a\0b'] }, { env: { A: 'a\0b' } }, { path: '/bin/true\0' }]) {
    assert.throws(() => posixSpawn({ path: '/bin/true', args: [], env: {}, fds: [0, 1, 2], ...bad }), {
      kind: 'invalid',
    });
  }
});

for (const [name, start] of [
  ['by this thread', async (request: SpawnRequest) => await Promise.resolve(request).then(posixSpawn)],
  ['by the pool', posixSpawnInPool],
] as const) {
  test(`a program that cannot start leaves no child and no descriptor, ${name}`, async () => {
    const fds = openFdCount();
    const request = { path: '/bin/true', args: [], env: {}, fds: [2, 0, 1] };
    await assert.rejects(start({ ...request, path: '/no/such' }), { kind: 'notFound' });
    const locked = { errno: 'EACCES', message: /\/etc\/passwd/ };
    await assert.rejects(start({ ...request, path: '/etc/passwd' }), locked);
    await assert.rejects(start({ ...request, cwd: '/no' }), { message: /directory \/no / });
    await assert.rejects(start({ ...request, fds: [0, 1, 99_999] }), { errno: 'EBADF' });
    assert.equal(openFdCount(), fds);
  });
}

test('pipes carry bytes and are closed in children', () => {
  const { readFd, writeFd } = createPipe();
  writeSync(writeFd, 'through');
  const bytes = Buffer.alloc(20);
  assert.equal(bytes.toString('utf8', 0, readSync(readFd, bytes)), 'through');
  for (const fd of [readFd, writeFd]) assert.ok(isCloseOnExec(fd));
  closeFd(writeFd);
  assert.equal(readSync(readFd, bytes), 0);
  closeFd(readFd);
});

test('a duplicate stands where it was asked for', () => {
  const fd = openSync('/dev/null', 'r');
  const copy = duplicateFd(fd, 500);
  assert.ok(copy >= 500 && isCloseOnExec(copy));
  closeFd(copy);
  closeSync(fd);
  assert.throws(() => duplicateFd(99_999, 3), { errno: 'EBADF' });
});

function spawn(request: Pick<SpawnRequest, 'path' | 'args'> & Partial<SpawnRequest>): { pid: number; pidfd: number } {
  const pid = posixSpawn({ env: { PATH: '/usr/bin:/bin' }, fds: [0, 1, 2], ...request });
  const pidfd = pidfdOpen(pid);
  assert.ok(pidfd !== undefined);
  return { pid, pidfd };
}

async function end(pidfd: number): Promise<ExitStatus> {
  await pidfdExited(pidfd);
  const status = waitPidfd(pidfd);
  closeFd(pidfd);
  assert.ok(typeof status === 'object');
  return status;
}

function statOf(pid: number): { group: number; session: number } {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? [];
  return { group: Number(fields[2]), session: Number(fields[3]) };
}

function isCloseOnExec(fd: number): boolean {
  const flags = /flags:\s+(\d+)/.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'))?.[1] ?? '0';
  return (Number.parseInt(flags, 8) & 0o2000000) !== 0;
}
