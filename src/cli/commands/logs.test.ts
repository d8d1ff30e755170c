import assert from 'node:assert/strict';
import { appendFileSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';

import { CliError } from '../cli-error.ts';
import type { Output } from '../output.ts';
import { followLog } from './logs.ts';

const T1 = '2026-01-02T03:04:05.000000001Z';
const T2 = '2026-01-02T03:04:06.000000002Z';

let folder: string;
let path: string;
let out: string;
let err: string;
const output: Output = {
  out: (text) => {
    out += text;
  },
  err: (text) => {
    err += text;
  },
};
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'berth-logs-'));
  path = join(folder, '0.log');
  out = '';
  err = '';
});
afterEach(() => rmSync(folder, { recursive: true }));

const follow = (how: { timestamps?: boolean; json?: boolean; ended?: () => Promise<boolean> } = {}): Promise<void> =>
  followLog(output, path, { timestamps: false, json: false, ended: async () => true, ...how });

test('lines go to the streams that they came from, and parts are put together', async () => {
  writeFileSync(path, `${T1} stdout P one \n${T1} stderr F oops\n${T1} stdout F two\n${T2} stdout P:X end`);
  appendFileSync(path, '\n');
  await follow();
  assert.deepEqual([out, err], ['one two\nend', 'oops\n']);
});

test('with times, each whole line has one', async () => {
  writeFileSync(path, `${T1} stdout P a\n${T2} stderr F e\n${T2} stdout F b\n${T2} stdout F \n`);
  await follow({ timestamps: true });
  assert.deepEqual([out, err], [`${T1} ab\n${T2} \n`, `${T2} e\n`]);
});

test('for programs each line is JSON', async () => {
  writeFileSync(path, `${T1} stdout P a "b"\n${T2} stderr F e\n`);
  await follow({ json: true });
  assert.deepEqual(
    out
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line)),
    [
      { time: T1, stream: 'stdout', text: 'a "b"', isWhole: false },
      { time: T2, stream: 'stderr', text: 'e', isWhole: true },
    ],
  );
  assert.equal(err, '');
});

test('a rotated log is read to its end, then the new one', async () => {
  writeFileSync(path, `${T1} stdout F one\n`);
  let asked = 0;
  await follow({
    ended: async () => {
      asked += 1;
      if (asked === 2) {
        appendFileSync(path, `${T1} stdout F two\n`);
        renameSync(path, `${path}.1`);
        writeFileSync(path, `${T2} stdout F three\n`);
      }
      return asked >= 3;
    },
  });
  assert.equal(out, 'one\ntwo\nthree\n');
});

test('what is no line of a log is shown as it is, and a missing log is an error with advice', async () => {
  writeFileSync(path, 'no log line\n');
  await follow();
  assert.equal(out, 'no log line\n');
  rmSync(path);
  await assert.rejects(follow(), (cause) => cause instanceof CliError && /cannot read .*0\.log/.test(cause.message));
});
