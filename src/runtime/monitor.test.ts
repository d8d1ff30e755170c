import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import fc from 'fast-check';

import { parseAnswer } from './monitor.ts';

describe('parseAnswer', () => {
  it("reads a creation's and an exec's answer", () => {
    assert.deepEqual(parseAnswer('{"pid": 42}'), { value: 42, message: '' });
    assert.deepEqual(parseAnswer('{"data": 0}'), { value: 0, message: '' });
    assert.deepEqual(parseAnswer('{"pid": -1, "message": "no\\n"}'), { value: -1, message: 'no\n' });
  });

  it('throws an error of its own for anything else', () => {
    const refuses = (line: string): void =>
      assert.throws(() => parseAnswer(line), { kind: 'internal', message: /^monitor answered/ });
    for (const line of ['', '{}', '[]', 'null', '{"pid": "1"}', '{"pid": 1.5}', '{"pid"']) refuses(line);
    fc.assert(fc.property(fc.json(), refuses));
  });
});
