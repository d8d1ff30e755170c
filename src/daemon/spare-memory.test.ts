import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, mock, test } from 'node:test';

import { SpareMemory } from './spare-memory.ts';

describe('SpareMemory', () => {
  let nowMs: number;
  let did: string[];
  let spare: SpareMemory;

  const note = (what: string): void => void did.push(`${what} at ${nowMs / 1000}`);
  /** Lets seconds pass, with some work in each of them or none. */
  const pass = (seconds: number, isWorking = false): void => {
    for (let second = 0; second < seconds; second++) {
      if (isWorking) spare.noteWork();
      nowMs += 1000;
      mock.timers.tick(1000);
    }
  };
  const taken = (): string[] => did.splice(0);

  beforeEach(() => {
    mock.timers.enable({ apis: ['setTimeout'] });
    nowMs = 0;
    did = [];
    const heap = {
      collect: () => {
        note('collect');
        return true;
      },
      release: () => note('heap'),
    };
    spare = new SpareMemory({ heap, pages: { release: () => note('pages') }, clock: { monotonicMs: () => nowMs } });
  });
  afterEach(() => {
    spare.close();
    mock.timers.reset();
  });

  test('a start leaves something behind, and so does work, once each', () => {
    spare.start();
    pass(600);
    assert.deepEqual(taken(), ['collect at 5', 'heap at 6', 'pages at 6']);
    pass(20, true);
    assert.deepEqual(taken(), []);
    pass(600);
    assert.deepEqual(taken(), ['collect at 624', 'heap at 625', 'pages at 625']);
  });

  test('rests that come often are not used each', () => {
    spare.start();
    for (let times = 0; times < 6; times++) {
      pass(1, true);
      pass(9);
    }
    const given = (second: number): string[] => [
      `collect at ${second}`,
      `heap at ${second + 1}`,
      `pages at ${second + 1}`,
    ];
    assert.deepEqual(taken(), [...given(5), ...given(25), ...given(45)]);
  });

  test('work that never ends is not stopped for a collection', () => {
    spare.start();
    pass(130, true);
    assert.deepEqual(taken(), ['heap at 61', 'pages at 61', 'heap at 121', 'pages at 121']);
  });

  test('what began during a collection counts for the next', () => {
    spare.start();
    pass(5);
    spare.noteWork();
    pass(60);
    assert.deepEqual(taken(), [
      'collect at 5',
      'heap at 6',
      'pages at 6',
      'collect at 21',
      'heap at 22',
      'pages at 22',
    ]);
  });

  test('nothing before the start, nor after the end', () => {
    spare.noteWork();
    pass(60);
    spare.start();
    spare.close();
    spare.noteWork();
    pass(60);
    assert.deepEqual(taken(), []);
  });
});
