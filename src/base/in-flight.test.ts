import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';

import { InFlight } from './in-flight.ts';

const never = new AbortController().signal;

test('a second caller joins the first one and gets the same result', async () => {
  const flights = new InFlight<number>();
  const gate = Promise.withResolvers<number>();
  let started = 0;
  const start = (): Promise<number> => {
    started += 1;
    return gate.promise;
  };
  const both = Promise.all([flights.join('k', never, start), flights.join('k', never, start)]);
  gate.resolve(42);
  assert.deepEqual(await both, [42, 42]);
  assert.equal(started, 1);
  assert.deepEqual(flights.keys(), []);
});

test('a caller that leaves does not end the work', async () => {
  const flights = new InFlight<string>();
  const gate = Promise.withResolvers<string>();
  const client = new AbortController();
  const left = flights.join('k', client.signal, () => gate.promise);
  client.abort(new Error('client gone'));
  await assert.rejects(left, /client gone/);
  assert.deepEqual(flights.keys(), ['k']);
  const retry = flights.join('k', never, () => Promise.reject(new Error('started twice')));
  gate.resolve('done');
  assert.equal(await retry, 'done');
});

test("a failure is everybody's, and the next call starts anew", async () => {
  const flights = new InFlight<number>();
  await assert.rejects(
    flights.join('k', never, () => Promise.reject(new Error('broke'))),
    /broke/,
  );
  assert.equal(await flights.join('k', never, async () => 1), 1);
});

test('idle is what has nothing running, nor anything that was begun when that had ended', async () => {
  const flights = new InFlight<number>();
  await flights.idle();
  const gates = [Promise.withResolvers<number>(), Promise.withResolvers<number>()];
  const both = (async () => {
    for (const [index, gate] of gates.entries())
      await flights.join(`k${index}`, never, () => gate.promise).catch(() => {});
  })();
  let isIdle = false;
  const idle = flights.idle().then(() => {
    isIdle = true;
  });
  gates[0]?.reject(new Error('broke'));
  await delay(5);
  assert.deepEqual([isIdle, flights.keys()], [false, ['k1']]);
  gates[1]?.resolve(1);
  await Promise.all([idle, both]);
});
