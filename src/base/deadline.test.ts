import assert from 'node:assert/strict';
import { test } from 'node:test';

import { raceSignal, withDeadline } from './deadline.ts';

test('a deadline is an error that names what took too long', async () => {
  using signal = withDeadline('pull', 1);
  await assert.rejects(raceSignal(new Promise(() => {}), signal), {
    kind: 'deadline',
    message: 'pull: no answer within 1 ms',
  });
});

test('a deadline longer than a timer can carry does not pass at once', async () => {
  using signal = withDeadline('exec', 3e12);
  await new Promise((resolve) => setTimeout(resolve, 10));
  assert.equal(signal.aborted, false);
});

test('work that is not waited for any more may fail', async () => {
  const client = new AbortController();
  const work = Promise.withResolvers<never>();
  const waiting = raceSignal(work.promise, client.signal);
  client.abort(new Error('client gone'));
  await assert.rejects(waiting, /client gone/);
  await assert.rejects(raceSignal(Promise.reject(new Error('late')), client.signal), /client gone/);
  work.reject(new Error('later'));
});
