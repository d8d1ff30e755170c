import assert from 'node:assert/strict';
import { test } from 'node:test';

import { isErrno } from './errno.ts';
import { libc } from './libc.ts';
import { checkInPool, type PoolCallable } from './pool-call.ts';

const close = libc.func('close', 'int', ['int']) as PoolCallable<[fd: number]>;

test('as many calls as a node’s pods make when all of them end at once wait for the pool', async () => {
  const calls = Array.from({ length: 1_000 }, () => checkInPool('close', 'no descriptor', close, -1));
  for (const result of await Promise.allSettled(calls)) {
    assert.equal(result.status, 'rejected');
    assert.ok(isErrno(result.reason, 'EBADF'), String(result.reason));
  }
});
