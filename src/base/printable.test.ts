import assert from 'node:assert/strict';
import { test } from 'node:test';

import fc from 'fast-check';

import { printable } from './printable.ts';

test('what a terminal would obey is shown instead', () => {
  assert.equal(printable('a\u001b[2Jb\r\n\u009b0m\u202e'), 'a\\u001b[2Jb\\u000d\\u000a\\u009b0m\\u202e');
  assert.equal(printable('plain "text" \\ ümläut 漢字 🚢'), 'plain "text" \\ ümläut 漢字 🚢');
});

test('no control character ever comes through', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (text) => {
      assert.doesNotMatch(printable(text), /\p{Cc}/u);
    }),
  );
});
