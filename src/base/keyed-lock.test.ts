import assert from 'node:assert/strict';
import { test } from 'node:test';

import { KeyedLock } from './keyed-lock.ts';

const never = new AbortController().signal;

test('holders of one key take turns in the order of asking; other keys do not wait', async () => {
  const lock = new KeyedLock();
  const events: string[] = [];
  const gate = Promise.withResolvers<void>();
  const first = lock.withKey('a', never, async () => {
    events.push('a1 in');
    await gate.promise;
    events.push('a1 out');
  });
  const second = lock.withKey('a', never, async () => void events.push('a2'));
  await lock.withKey('b', never, async () => void events.push('b'));
  gate.resolve();
  await Promise.all([first, second]);
  assert.deepEqual(events, ['a1 in', 'b', 'a1 out', 'a2']);
  assert.equal(lock.size, 0);
});

test('a failure frees the key', async () => {
  const lock = new KeyedLock();
  await assert.rejects(lock.withKey('a', never, () => Promise.reject(new Error('x'))));
  assert.equal(await lock.withKey('a', never, async () => 1), 1);
});

test('who gives up while waiting never runs, and those behind it still get their turn', async () => {
  const lock = new KeyedLock();
  const gate = Promise.withResolvers<void>();
  const events: string[] = [];
  const holder = lock.withKey('a', never, () => gate.promise);
  const impatient = new AbortController();
  const gone = lock.withKey('a', impatient.signal, async () => void events.push('gone'));
  const patient = lock.withKey('a', never, async () => void events.push('patient'));
  impatient.abort(new Error('gave up'));
  await assert.rejects(gone, /gave up/);
  gate.resolve();
  await Promise.all([holder, patient]);
  assert.deepEqual(events, ['patient']);
  assert.equal(lock.size, 0);
});
