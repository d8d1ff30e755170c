import assert from 'node:assert/strict';
import { test } from 'node:test';

import fc from 'fast-check';

import { parseQuantity } from './quantity.ts';

test('quantities as Kubernetes writes them', () => {
  const values: readonly [string, bigint | undefined][] = [
    ['0', 0n],
    ['10M', 10_000_000n],
    ['0.1M', 100_000n],
    ['1.5Gi', 1_610_612_736n],
    ['.5k', 500n],
    ['5.', 5n],
    ['2e6', 2_000_000n],
    ['2E3', 2_000n],
    ['2E', 2n * 10n ** 18n],
    ['1e-1', 1n],
    ['500m', 1n],
    ['1500m', 2n],
    ['-1500m', -1n],
    ['+3Ki', 3072n],
    ['', undefined],
    ['M', undefined],
    ['.', undefined],
    ['1e', undefined],
    ['1K', undefined],
    ['1 M', undefined],
    ['1M ', undefined],
    ['0x10', undefined],
    ['1e99', undefined],
    ['10MB', undefined],
    ['9'.repeat(65), undefined],
  ];
  for (const [text, value] of values) assert.equal(parseQuantity(text), value, text);
});

test('whole numbers with a suffix are exact, and any text is harmless', () => {
  fc.assert(fc.property(fc.bigInt(0n, 10n ** 15n), (n) => assert.equal(parseQuantity(`${n}Ki`), n * 1024n)));
  fc.assert(
    fc.property(fc.nat(), fc.nat(999), (whole, milli) => {
      const text = `${whole}.${String(milli).padStart(3, '0')}k`;
      assert.equal(parseQuantity(text), BigInt(whole) * 1000n + BigInt(milli));
    }),
  );
  fc.assert(fc.property(fc.string(), (text) => ['bigint', 'undefined'].includes(typeof parseQuantity(text))));
});
