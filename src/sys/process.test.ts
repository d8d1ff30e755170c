import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { getPriority } from 'node:os';
import { test } from 'node:test';

import { SyscallError } from './errno.ts';
import {
  isSameProcess,
  killProcess,
  parseStartTime,
  preferThisThread,
  readProcessStartTime,
  setThreadNice,
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

test('a signal never reaches a process that only has the same pid', () => {
  const startTime = readProcessStartTime(process.pid) ?? 0;
  assert.equal(killProcess(process.pid, startTime + 1, 'SIGKILL'), false);
  assert.equal(killProcess(2 ** 22 + 1, 1, 'SIGKILL'), false);
});

test('a thread that comes before others does not have its children come before them too', (t) => {
  try {
    preferThisThread(-3);
  } catch (err) {
    if (err instanceof SyscallError && ['EPERM', 'EACCES'].includes(err.errno)) return t.skip('needs CAP_SYS_NICE');
    throw err;
  }
  try {
    assert.equal(getPriority(0), -3);
    assert.equal(execFileSync('nice', { encoding: 'utf8' }).trim(), '0');
    preferThisThread(-5);
    assert.equal(getPriority(0), -3, 'what somebody has chosen stays');
  } finally {
    setThreadNice(0);
  }
});
