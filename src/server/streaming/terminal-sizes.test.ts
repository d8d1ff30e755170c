import assert from 'node:assert/strict';
import { describe as suite, test } from 'node:test';

import fc from 'fast-check';

import { TerminalSizes } from './terminal-sizes.ts';

function read(...chunks: readonly string[]): string[] {
  const seen: string[] = [];
  const sizes = new TerminalSizes();
  sizes.onResize(({ width, height }) => seen.push(`${width}x${height}`));
  for (const chunk of chunks) sizes.feed(Buffer.from(chunk));
  return seen;
}

suite('terminal sizes', () => {
  test('one JSON object after the other, wherever it is cut', () => {
    assert.deepEqual(read('{"Width":80,"Height":24}\n'), ['80x24']);
    assert.deepEqual(read('{"Wid', 'th":80,"Height":24}{"Width":1', '00,"Height":50}'), ['80x24', '100x50']);
    assert.deepEqual(read('{"width":80,"height":24}'), ['80x24']);
  });

  test('of those that come together the last one counts', () => {
    assert.deepEqual(read('{"Width":80,"Height":24}\n{"Width":81,"Height":24}\n{"Width":0,"Height":0}'), ['81x24']);
  });

  for (const text of [
    '{"Width":0,"Height":0}',
    '{"Width":0,"Height":24}',
    '{"Width":-1,"Height":24}',
    '{"Width":80.5,"Height":24}',
    '{"Width":"80","Height":24}',
    '{"Width":65536,"Height":24}',
    '{"Height":24}',
    '[1]}',
    'null}',
    '}',
  ]) {
    test(`${text} is no size`, () => assert.deepEqual(read(text), []));
  }

  test('a flood of sizes takes no longer than the last of them', () => {
    const startedMs = performance.now();
    assert.deepEqual(read(`${'{}'.repeat(1_000_000)}{"Width":7,"Height":9}`), ['7x9']);
    assert.ok(performance.now() - startedMs < 10_000);
  });

  test('who listens late hears the newest size', () => {
    const sizes = new TerminalSizes();
    sizes.feed(Buffer.from('{"Width":80,"Height":24}'));
    sizes.feed(Buffer.from('{"Width":90,"Height":24}'));
    const seen: number[] = [];
    sizes.onResize(({ width }) => seen.push(width));
    assert.deepEqual(seen, [90]);
  });

  test('any text is read without an error, and what follows is understood', () => {
    const json = fc.json({ maxDepth: 1 });
    fc.assert(
      fc.property(fc.array(fc.oneof(fc.string(), json, fc.constant('}')), { maxLength: 20 }), (chunks) => {
        const seen = read(...chunks, '}', '{"Width":7,"Height":9}');
        assert.equal(seen.at(-1), '7x9');
      }),
    );
    assert.deepEqual(read('x'.repeat(100_000), '}{"Width":7,"Height":9}'), ['7x9']);
  });
});
