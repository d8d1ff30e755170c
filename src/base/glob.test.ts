import assert from 'node:assert/strict';
import { test } from 'node:test';

import { matchesGlob } from './glob.ts';

test('a pattern is the whole name, with * for any run of characters', () => {
  for (const [name, pattern] of [
    ['a.b/c', 'a.b/c'],
    ['a.b/c', 'a.b/*'],
    ['a.b/c', '*'],
    ['a.b/c', '*b*c'],
    ['', '*'],
    ['aa', 'a*a'],
  ] as const) {
    assert.ok(matchesGlob(name, pattern), `${name} ${pattern}`);
  }
  for (const [name, pattern] of [
    ['a.b/c', 'a.b'],
    ['a', 'a*a'],
    ['axb', 'a.b'],
    ['abc', '*b'],
  ] as const) {
    assert.ok(!matchesGlob(name, pattern), `${name} ${pattern}`);
  }
});
