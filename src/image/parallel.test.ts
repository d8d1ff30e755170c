import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { MemoryLayers } from '../../test/fakes/layer-folders.ts';
import { silentLogger } from '../base/log.ts';
import { JoinedWork } from './joined-work.ts';
import { LayerHolds } from './layer-holds.ts';
import { allOrAbort, Slots } from './parallel.ts';

const never = new AbortController().signal;

describe('Slots', () => {
  it('holds no more than its limit, serves in order, and loses no slot to an abort', async () => {
    const slots = new Slots(2);
    const gates = [0, 1, 2, 3, 4].map(() => Promise.withResolvers<void>());
    const leaver = new AbortController();
    const started: number[] = [];
    const runs = gates.map((gate, at) =>
      slots.run(at === 2 ? leaver.signal : never, async () => {
        started.push(at);
        await gate.promise;
      }),
    );
    assert.deepEqual(started, [0, 1]);
    leaver.abort(new Error('left'));
    await assert.rejects(runs[2] ?? Promise.resolve(), /left/);
    gates[0]?.resolve();
    await runs[0];
    await Promise.resolve();
    assert.deepEqual(started, [0, 1, 3]);
    for (const gate of gates) gate.resolve();
    await Promise.allSettled(runs);
    assert.deepEqual(started, [0, 1, 3, 4]);
    await slots.run(never, async () => {});
  });
});

describe('Slots, when a waiter leaves at the moment of its turn', () => {
  it('still serves the next one', async () => {
    const slots = new Slots(1);
    const gate = Promise.withResolvers<void>();
    const leaver = new AbortController();
    const first = slots.run(never, () => gate.promise);
    const second = slots.run(leaver.signal, async () => {});
    const third = slots.run(never, async () => 'served');
    // Asked for after the first one's own wait, so it runs between the hand-over and the second one's awakening.
    const left = gate.promise.then(() => leaver.abort(new Error('left')));
    gate.resolve();
    await Promise.all([first, left]);
    assert.equal(await third, 'served');
    await Promise.allSettled([second]);
  });
});

describe('LayerHolds', () => {
  it('lets nobody count on a layer that is being removed', async () => {
    const layers = new MemoryLayers();
    layers.layers.set('a', 1);
    const gate = Promise.withResolvers<void>();
    layers.gate = () => gate.promise;
    const holds = new LayerHolds(layers, () => false, silentLogger);
    const removal = holds.removeUnused(['a']);
    const seen = holds.during(['a'], never, async () => layers.has('a'));
    await new Promise((resolve) => setImmediate(resolve));
    gate.resolve();
    await removal;
    assert.equal(await seen, false);
  });

  it('removes no layer that is held, and the unowned ones afterwards', async () => {
    const layers = new MemoryLayers();
    for (const diffId of ['owned', 'spare']) layers.layers.set(diffId, 1);
    const holds = new LayerHolds(layers, (diffId) => diffId === 'owned', silentLogger);
    await holds.during(['owned', 'spare'], never, async () => {
      await holds.removeUnused(['owned', 'spare']);
      assert.deepEqual(layers.calls, []);
    });
    assert.deepEqual(layers.calls, ['remove spare']);
  });
});

describe('allOrAbort', () => {
  it('throws the first failure after everything has ended', async () => {
    const ended: string[] = [];
    const work = allOrAbort(['bad', 'slow'], never, async (item, signal) => {
      if (item === 'bad') throw new Error('bad failed');
      await new Promise<void>((resolve) => signal.addEventListener('abort', () => setImmediate(resolve)));
      ended.push(item);
      signal.throwIfAborted();
    });
    await assert.rejects(work, /bad failed/);
    assert.deepEqual(ended, ['slow']);
  });
});

describe('JoinedWork', () => {
  it('starts anew for who comes after the last waiter left, and waits for all on close', async () => {
    const work = new JoinedWork<number>();
    const gate = Promise.withResolvers<void>();
    const ended: string[] = [];
    const leaver = new AbortController();
    const aborted = Promise.withResolvers<void>();
    const abandoned = work.join('key', leaver.signal, async (signal) => {
      signal.addEventListener('abort', () => aborted.resolve());
      await gate.promise;
      ended.push(signal.aborted ? 'aborted' : 'not aborted');
      return 1;
    });
    const left = assert.rejects(abandoned, /left/).then(() => ended.push('left'));
    leaver.abort(new Error('left'));
    await aborted.promise;
    assert.equal(await work.join('key', never, async () => 2), 2);
    const closed = work.close(new Error('stop')).then(() => ended.push('closed'));
    assert.deepEqual(ended, []);
    gate.resolve();
    await Promise.all([left, closed]);
    assert.deepEqual(ended.toSorted(), ['aborted', 'closed', 'left']);
    assert.equal(ended[0], 'aborted');
  });
});
