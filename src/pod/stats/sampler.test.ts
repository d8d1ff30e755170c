import assert from 'node:assert/strict';
import { afterEach, beforeEach, mock, test } from 'node:test';

import { silentLogger } from '../../base/log.ts';
import { Sampler } from './sampler.ts';

let nowMs: number;
let present: string[];
/** What was read, in order. */
let reads: string[];
let forgotten: string[];
let failing: Set<string>;
/** How long one reading takes. */
let readMs: number;
let sampler: Sampler<number>;

function start(options: { readonly inBackground?: boolean; readonly delayed?: Promise<void> } = {}): Sampler<number> {
  const source = {
    ids: () => present,
    read: (id: string): number | undefined | Promise<number | undefined> => {
      reads.push(id);
      nowMs += readMs;
      if (failing.has(id)) throw new Error(`${id} is broken`);
      const sample = present.includes(id) ? nowMs : undefined;
      return options.delayed === undefined ? sample : options.delayed.then(() => sample);
    },
    forget: (id: string) => void forgotten.push(id),
    inBackground: options.inBackground ?? true,
  };
  return new Sampler(source, { monotonicMs: () => nowMs }, silentLogger);
}

/** Lets time go by; what timers have begun is through afterwards. */
async function pass(ms: number): Promise<void> {
  for (let left = ms; left > 0; left -= 500) {
    const step = Math.min(left, 500);
    nowMs += step;
    mock.timers.tick(step);
    await flush();
  }
}

async function flush(): Promise<void> {
  for (let turns = 0; turns < 30; turns++) await Promise.resolve();
}

beforeEach(() => {
  mock.timers.enable({ apis: ['setTimeout'] });
  [nowMs, present, reads, forgotten, failing, readMs] = [1_000_000, ['a', 'b'], [], [], new Set(), 0];
  sampler = start();
});
afterEach(() => {
  sampler.close();
  mock.timers.reset();
});

test('nothing is read before somebody asks', async () => {
  await pass(60_000);
  assert.deepEqual(reads, []);
});

test('who asks again at once is told the same; who asks a second later is told something new', async () => {
  assert.deepEqual([...(await sampler.all()).values()], [nowMs, nowMs]);
  nowMs += 100;
  await sampler.all();
  assert.equal(reads.length, 2);
  nowMs += 900;
  assert.equal((await sampler.all()).get('a'), nowMs);
  assert.equal(reads.length, 4);
});

test('who asks every ten seconds is answered from memory, and with nothing older than five', async () => {
  await sampler.all();
  for (let asked = 0; asked < 10; asked++) {
    await pass(10_000);
    const before = reads.length;
    const oldest = Math.min(...(await sampler.all()).values());
    assert.equal(reads.length, before, 'the answer is there');
    assert.ok(nowMs - oldest <= 5_000, `${nowMs - oldest} ms old`);
  }
});

test('who asks again and again costs one round each time, however long the time is', async () => {
  for (const intervalMs of [3_000, 10_000, 15_000, 30_000]) {
    sampler.close();
    sampler = start();
    for (let asked = 0; asked < 3; asked++) {
      await sampler.all();
      await pass(intervalMs);
    }
    reads = [];
    for (let asked = 0; asked < 6; asked++) {
      const oldest = Math.min(...(await sampler.all()).values());
      assert.ok(nowMs - oldest <= 2_000, `every ${intervalMs}: ${nowMs - oldest} ms old`);
      await pass(intervalMs);
    }
    assert.equal(reads.length, 12, `every ${intervalMs}`);
  }
});

test('a client that asks for two lists at once asks once', async () => {
  await sampler.all();
  for (let asked = 0; asked < 4; asked++) {
    await pass(10_000);
    const before = reads.length;
    await sampler.all();
    nowMs += 50;
    await sampler.all();
    assert.equal(reads.length, before);
  }
});

test('who asked often and stops costs little until it is forgotten', async () => {
  for (let asked = 0; asked < 20; asked++) {
    await sampler.all();
    await pass(500);
  }
  reads = [];
  await pass(120_000);
  assert.ok(reads.length <= 12, `${reads.length} readings`);
  assert.deepEqual(forgotten.toSorted(), ['a', 'b']);
});

test('a second sample follows soon after the first', async () => {
  await sampler.all();
  await pass(1000);
  assert.equal(reads.length, 4);
});

test('who joins later is read when it is asked for', async () => {
  await sampler.all();
  present.push('c');
  assert.equal((await sampler.all()).get('c'), nowMs);
  assert.deepEqual(reads, ['a', 'b', 'c']);
});

test('who is gone is forgotten', async () => {
  await sampler.all();
  present = ['b'];
  await pass(1000);
  assert.deepEqual([...(await sampler.all()).keys()], ['b']);
  assert.deepEqual(forgotten, ['a']);
  sampler.forget('b');
  assert.deepEqual(forgotten, ['a', 'b']);
});

test('one that cannot be read costs the others nothing, and is tried again', async () => {
  failing.add('a');
  assert.deepEqual([...(await sampler.all()).keys()], ['b']);
  failing.clear();
  assert.deepEqual([...(await sampler.all()).keys()].sort(), ['a', 'b']);
});

test('when nobody has asked for a minute, it does nothing and keeps nothing', async () => {
  await sampler.all();
  await pass(70_000);
  assert.deepEqual(forgotten.toSorted(), ['a', 'b']);
  reads = [];
  await pass(600_000);
  assert.deepEqual(reads, []);
  assert.equal((await sampler.all()).get('a'), nowMs, 'and it wakes up again');
});

test('one alone is read anew, and does not wake the sampler', async () => {
  assert.equal(await sampler.one('a'), nowMs);
  await pass(10_000);
  assert.deepEqual(reads, ['a']);
  assert.equal(await sampler.one('a'), nowMs);
  assert.equal(await sampler.one('unknown'), undefined);
  await pass(70_000);
  assert.ok(forgotten.includes('a'), 'it is dropped when nobody asks');
});

test('without background work samples are taken when they are asked for', async () => {
  sampler.close();
  sampler = start({ inBackground: false });
  await sampler.all();
  await pass(10_000);
  assert.equal(reads.length, 2);
  assert.equal((await sampler.all()).get('a'), nowMs);
});

test('a round that takes long lets others have their turn', async () => {
  readMs = 4;
  const seen: number[] = [];
  const answer = sampler.all();
  setImmediate(() => {
    seen.push(reads.length);
    setImmediate(() => seen.push(reads.length));
  });
  await answer;
  await new Promise(setImmediate);
  assert.deepEqual(seen, [1, 2]);
});

test('those who ask at the same time share one round', async () => {
  const delayed = Promise.withResolvers<void>();
  sampler.close();
  sampler = start({ delayed: delayed.promise });
  const answers = Promise.all([sampler.all(), sampler.all(), sampler.all()]);
  await flush();
  delayed.resolve();
  for (const answer of await answers) assert.equal(answer.size, 2);
  assert.deepEqual(reads, ['a', 'b']);
});

test('what is read when it is closed is dropped', async () => {
  const delayed = Promise.withResolvers<void>();
  sampler = start({ delayed: delayed.promise });
  const answer = sampler.all();
  await flush();
  sampler.close();
  delayed.resolve();
  assert.equal((await answer).size, 0);
  assert.ok(forgotten.includes('a'));
});
