import assert from 'node:assert/strict';
import { describe as suite, test } from 'node:test';

import { StreamTokens } from './stream-tokens.ts';

suite('stream tokens', () => {
  let nowMs = 0;
  const clock = { nowUs: () => 0, monotonicMs: () => nowMs };

  test('each is good once', () => {
    const tokens = new StreamTokens<string>(clock);
    const token = tokens.issue('a');
    assert.match(token, /^[\w-]{22}$/);
    assert.equal(tokens.take(`${token}x`), undefined);
    assert.equal(tokens.take(token), 'a');
    assert.equal(tokens.take(token), undefined);
  });

  test('none can be guessed from others: 128 bits, each of them by chance', () => {
    const bytes = Array.from({ length: 900 }, () => {
      const tokens = new StreamTokens<string>(clock);
      return Buffer.from(tokens.issue('a'), 'base64url');
    });
    assert.equal(new Set(bytes.map((token) => token.toString('hex'))).size, bytes.length);
    for (let bit = 0; bit < 128; bit++) {
      const set = bytes.filter((token) => ((token[bit >> 3] ?? 0) >> (bit & 7)) & 1).length;
      // Seven standard deviations from one half.
      assert.ok(Math.abs(set - bytes.length / 2) < 105, `bit ${bit} is set in ${set} of ${bytes.length}`);
    }
  });

  test('each is good for a minute', () => {
    const tokens = new StreamTokens<string>(clock);
    const [early, late] = [tokens.issue('early'), tokens.issue('late')];
    nowMs += 59_999;
    assert.equal(tokens.take(early), 'early');
    nowMs += 1;
    assert.equal(tokens.take(late), undefined);
  });

  test('no more than 1000 are out, and old ones make room', () => {
    const tokens = new StreamTokens<number>(clock);
    for (let index = 0; index < 1000; index++) tokens.issue(index);
    assert.throws(() => tokens.issue(1000), { kind: 'exhausted' });
    nowMs += 60_000;
    assert.equal(tokens.take(tokens.issue(1001)), 1001);
  });
});
