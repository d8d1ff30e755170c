import assert from 'node:assert/strict';
import { test } from 'node:test';

import { libc } from './libc.ts';
import { checkInPool, type PoolCallable } from './pool-call.ts';

const close = libc.func('close', 'int', ['int']) as PoolCallable<[fd: number]>;

test('as many calls as a node’s pods make when all of them end at once wait for the pool', async () => {
  const calls = Array.from({ length: 1_000 }, () => checkInPool('close', 'no descriptor', close, -1));
  for (const { status, reason } of (await Promise.allSettled(calls)) as PromiseRejectedResult[]) {
    assert.equal(status, 'rejected');
    assert.equal(reason.errno, 'EBADF');
  }
});
