import assert from 'node:assert/strict';
import { test } from 'node:test';

import { isSameProcess, killProcess, parseStartTime, readProcessStartTime } from './process.ts';

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
