import assert from 'node:assert/strict';
import { beforeEach, describe, it } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';

import { silentLogger } from '../base/log.ts';
import type { TreeWalk } from './tree-usage.ts';
import { WritableLayers } from './writable-layers.ts';

const never = new AbortController().signal;

let nowMs: number;
/** The ids of each walk. */
let asked: string[][];
let usedBytes: number;
let walkMs: number;
let present: string[];
let answers: ((ids: readonly string[]) => Promise<readonly TreeWalk[]>) | undefined;
let layers: WritableLayers;

beforeEach(() => {
  [nowMs, asked, usedBytes, walkMs, present, answers] = [0, [], 100, 1, [], undefined];
  layers = new WritableLayers({
    log: silentLogger,
    clock: { nowUs: () => nowMs * 1000, monotonicMs: () => nowMs },
    snapshots: {
      all: () => present,
      usage: async (ids) => {
        asked.push([...ids]);
        return answers ? await answers(ids) : ids.map(() => ({ usedBytes, inodesUsed: 1, walkMs }));
      },
    },
  });
});

describe('looking at what a container has written', () => {
  it('answers at once, has it walked, and knows it then', async () => {
    assert.equal(layers.look('a', 1), undefined);
    assert.equal(layers.look('b', 1), undefined);
    await turn();
    assert.deepEqual(asked, [['a', 'b']], 'together');
    assert.deepEqual(layers.look('a', 1), { usedBytes: 100, inodesUsed: 1, takenUs: 0 });
  });

  it('walks again after a while, when it has run meanwhile', async () => {
    layers.look('a', 1);
    await turn();
    [nowMs, usedBytes] = [4999, 200];
    assert.equal(layers.look('a', 2)?.usedBytes, 100);
    nowMs = 5000;
    assert.deepEqual(layers.look('a', 2), { usedBytes: 100, inodesUsed: 1, takenUs: 0 });
    await turn();
    assert.equal(asked.length, 2);
    assert.deepEqual(layers.look('a', 2), { usedBytes: 200, inodesUsed: 1, takenUs: 5_000_000 });
  });

  it('does not walk one that did nothing: what it has is still true', async () => {
    layers.look('a', 7);
    await turn();
    nowMs = 60_000;
    assert.deepEqual(layers.look('a', 7), { usedBytes: 100, inodesUsed: 1, takenUs: 60_000_000 });
    await turn();
    assert.equal(asked.length, 1);
    layers.look('a', 8);
    await turn();
    assert.equal(asked.length, 2);
  });

  it('walks one that ran during its walk once more', async () => {
    layers.look('a', 1);
    layers.look('a', 2);
    await turn();
    nowMs = 5000;
    layers.look('a', 2);
    await turn();
    assert.equal(asked.length, 2);
  });

  it('leaves large ones in peace for longer', async () => {
    walkMs = 1000;
    layers.look('a', undefined);
    await turn();
    for (nowMs of [5000, 19_999]) layers.look('a', undefined);
    await turn();
    assert.equal(asked.length, 1);
    nowMs = 20_000;
    layers.look('a', undefined);
    await turn();
    assert.equal(asked.length, 2);
  });

  it('walks one after the other', async () => {
    const first = Promise.withResolvers<readonly TreeWalk[]>();
    answers = () => first.promise;
    layers.look('a', 1);
    await turn();
    layers.look('b', 1);
    await turn();
    assert.deepEqual(asked, [['a']]);
    answers = undefined;
    first.resolve([{ usedBytes: 1, inodesUsed: 1, walkMs: 1 }]);
    await turn();
    assert.deepEqual(asked, [['a'], ['b']]);
  });

  it('keeps what it knows when a walk fails, and tries again', async () => {
    layers.look('a', 1);
    await turn();
    answers = () => Promise.reject(new Error('disk broken'));
    nowMs = 5000;
    layers.look('a', 2);
    await turn();
    assert.equal(layers.look('a', 2)?.usedBytes, 100);
    await turn();
    assert.equal(asked.length, 3);
  });

  it('forgets, also in the middle of a walk', async () => {
    const walk = Promise.withResolvers<readonly TreeWalk[]>();
    answers = () => walk.promise;
    const waited = layers.wait('a', never);
    await turn();
    layers.forget('a');
    assert.equal(await waited, undefined);
    walk.resolve([{ usedBytes: 1, inodesUsed: 1, walkMs: 1 }]);
    await turn();
    assert.equal(layers.look('a', 1), undefined);
  });
});

describe('waiting for the first walk', () => {
  it('ends with it', async () => {
    assert.equal((await layers.wait('a', never))?.usedBytes, 100);
    nowMs = 60_000;
    assert.equal((await layers.wait('a', never))?.takenUs, 0, 'later ones are not waited for');
  });

  it('ends when its time is up, or the walk fails', async () => {
    answers = () => new Promise(() => {});
    const ended = new AbortController();
    const waited = layers.wait('a', ended.signal);
    ended.abort();
    assert.equal(await waited, undefined);
    layers.forget('a');
  });

  it('is told nothing by a walk that fails', async () => {
    answers = () => Promise.reject(new Error('disk broken'));
    assert.equal(await layers.wait('a', never), undefined);
  });
});

describe('the sum of all', () => {
  it('walks at most every ten seconds, and again after a failure', async () => {
    present = ['a', 'b'];
    answers = () => Promise.reject(new Error('disk broken'));
    await assert.rejects(layers.total(), /disk broken/);
    answers = undefined;
    const [first] = await Promise.all([layers.total(), layers.total()]);
    assert.deepEqual(first, { usedBytes: 200, inodesUsed: 2 });
    nowMs = 10_000;
    await layers.total();
    assert.equal(asked.length, 2);
    nowMs = 10_001;
    await layers.total();
    assert.equal(asked.length, 3);
  });

  it('leaves out what is gone', async () => {
    present = ['a', 'b'];
    await layers.total();
    present = ['b'];
    assert.deepEqual(await layers.total(), { usedBytes: 100, inodesUsed: 1 });
  });

  it('of many is asked for in pieces', async () => {
    present = Array.from({ length: 40 }, (_, n) => `c${n}`);
    assert.equal((await layers.total()).usedBytes, 4000);
    assert.deepEqual(
      asked.map((ids) => ids.length),
      [16, 16, 8],
    );
  });
});
