import assert from 'node:assert/strict';
import { test } from 'node:test';

import { ExecSyncResponse } from '../../../proto/gen/cri/api.ts';
import { fitted } from './exec-sync.ts';

const LIMIT = 16 * 1024 * 1024;
const zeros = (bytes: number): Buffer => Buffer.alloc(bytes);

test('output that fits stays as it is', () => {
  const { stdout, stderr } = fitted(zeros(10), zeros(LIMIT - 100));
  assert.deepEqual([stdout.length, stderr.length], [10, LIMIT - 100]);
});

for (const [out, err] of [
  [LIMIT, 0],
  [LIMIT, 10],
  [LIMIT, LIMIT],
  [100, LIMIT],
  [LIMIT / 2, LIMIT],
] as const) {
  test(`${out} and ${err} bytes fill the answer and no more`, () => {
    const { stdout, stderr } = fitted(zeros(out), zeros(err));
    const bytes = ExecSyncResponse.encode({ stdout, stderr, exitCode: -1 }).finish().length;
    assert.ok(bytes <= LIMIT && bytes > LIMIT - 100, `${bytes}`);
    assert.ok(Math.min(out, err) > LIMIT / 2 - 32 || Math.min(stdout.length, stderr.length) === Math.min(out, err));
  });
}
