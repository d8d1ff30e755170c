import assert from 'node:assert/strict';
import { test } from 'node:test';

import fc from 'fast-check';

import { age, bytes, json, shortId, table } from './output.ts';

test('a table aligns its columns, and cuts nothing off', () => {
  assert.equal(
    table(
      ['ID', 'NAME', 'AGE'],
      [
        ['1', 'a-long-name', '2d'],
        ['22222', 'b', ''],
      ],
    ),
    'ID     NAME         AGE\n1      a-long-name  2d\n22222  b\n',
  );
  assert.equal(table(['ID', 'NAME'], []), 'ID  NAME\n');
  assert.equal(table(['ID'], [['\u001b[2J\n']]), 'ID\n\\u001b[2J\\u000a\n');
});

test('every cell of a table stands below its heading', () => {
  const cell = fc.stringMatching(/^[a-z]{1,20}$/);
  fc.assert(
    fc.property(fc.array(fc.tuple(cell, cell, cell), { maxLength: 5 }), (rows) => {
      const [head = '', ...lines] = table(['A', 'BB', 'CCC'], rows).split('\n');
      const starts = ['A', 'BB', 'CCC'].map((heading) => head.indexOf(heading));
      for (const [index, row] of rows.entries()) {
        for (const [column, text] of row.entries()) assert.ok(lines[index]?.startsWith(text, starts[column]));
      }
    }),
  );
});

test('JSON has numbers where they are exact', () => {
  assert.deepEqual(JSON.parse(json({ small: 5n, below: -5n, large: 2n ** 60n, text: 'x' })), {
    small: 5,
    below: -5,
    large: '1152921504606846976',
    text: 'x',
  });
});

test('an age has the largest unit that fits', () => {
  const nowMs = 1_000_000_000_000;
  const ago = (seconds: number): string => age(BigInt(nowMs - seconds * 1000) * 1_000_000n, nowMs);
  assert.deepEqual([0, 59, 60, 3599, 3600, 86_399, 86_400, 864_000].map(ago), [
    '0s',
    '59s',
    '1m',
    '59m',
    '1h',
    '23h',
    '1d',
    '10d',
  ]);
  assert.equal(ago(-5), '0s', 'clocks differ');
  assert.equal(age(0n, nowMs), '-');
});

test('a size has a binary unit', () => {
  assert.deepEqual([0, 1023, 1024, 1536, 4_404_019, 5 * 2 ** 30, 2 ** 50].map(bytes), [
    '0 B',
    '1023 B',
    '1.0 KiB',
    '1.5 KiB',
    '4.2 MiB',
    '5.0 GiB',
    '1024.0 TiB',
  ]);
});

test('an id is shortened to what people type', () => {
  assert.equal(shortId(`sha256:${'ab'.repeat(32)}`), 'abababababab');
  assert.equal(shortId('0123456789abcdef'), '0123456789ab');
});
