import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, mock, test } from 'node:test';

import { SpareMemory } from './spare-memory.ts';

describe('SpareMemory', () => {
  let nowMs: number;
  let did: string[];
  let spare: SpareMemory;

  const note = (what: string): void => void did.push(`${what} at ${nowMs / 1000}`);
  /** Lets seconds pass, with so many pieces of work at the beginning of each of them. */
  const pass = (seconds: number, works = 0): void => {
    for (let second = 0; second < seconds; second++) {
      for (let work = 0; work < works; work++) spare.noteWork();
      nowMs += 1000;
      mock.timers.tick(1000);
    }
  };
  const given = (second: number): string[] => [
    `collect at ${second}`,
    `heap at ${second + 1}`,
    `pages at ${second + 1}`,
  ];
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
    assert.deepEqual(taken(), given(3));
    pass(20, 1);
    assert.deepEqual(taken(), []);
    pass(600);
    assert.deepEqual(taken(), given(622));
  });

  test('rests that come often are not used each, and after little work seldom', () => {
    spare.start();
    for (let times = 0; times < 5; times++) {
      pass(1, 100);
      pass(9);
    }
    pass(10);
    assert.deepEqual(taken(), [...given(3), ...given(19), ...given(35), ...given(51)]);
    for (let times = 0; times < 60; times++) {
      pass(1, 1);
      pass(9);
    }
    assert.deepEqual(taken(), [...given(353), ...given(654)]);
  });

  test('work that never ends is not stopped for a collection', () => {
    spare.start();
    pass(130, 10);
    assert.deepEqual(taken(), ['heap at 61', 'pages at 61', 'heap at 121', 'pages at 121']);
    pass(10);
    assert.deepEqual(taken(), given(136));
  });

  test('what began during a collection counts for the next', () => {
    spare.start();
    pass(3);
    for (let work = 0; work < 100; work++) spare.noteWork();
    pass(60);
    assert.deepEqual(taken(), [...given(3), ...given(19)]);
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
