import assert from 'node:assert/strict';
import { test } from 'node:test';

import { CpuRate } from './cpu-rate.ts';

const SECOND = 1e9;

test('the first rate of a young container is its average since it was born', () => {
  assert.equal(new CpuRate(1000).update(3000, SECOND), 0.5 * SECOND);
});

test('of an old container two samples make a rate', () => {
  const rate = new CpuRate(0);
  assert.equal(rate.update(1_000_000, 5 * SECOND), undefined);
  assert.equal(rate.update(1_001_000, 7 * SECOND), 2 * SECOND);
  assert.equal(rate.update(1_005_000, 8 * SECOND), 0.25 * SECOND);
  assert.equal(rate.update(1_006_000, 8 * SECOND), 0);
});

test('samples that are close together tell the rate of the last long window', () => {
  const rate = new CpuRate(0);
  assert.equal(rate.update(500, SECOND), undefined);
  assert.equal(rate.update(1000, SECOND), SECOND);
  assert.equal(rate.update(1200, 9 * SECOND), SECOND);
  assert.equal(rate.update(2000, 9 * SECOND), 8 * SECOND);
});

test('after a long pause, or when the counter runs backwards, a new window begins', () => {
  const rate = new CpuRate(0);
  assert.equal(rate.update(2000, 2 * SECOND), SECOND);
  assert.equal(rate.update(4000, SECOND), undefined);
  assert.equal(rate.update(5000, 2 * SECOND), SECOND);
  assert.equal(rate.update(65_001, 3 * SECOND), undefined);
  assert.equal(rate.update(66_001, 4 * SECOND), SECOND);
});

test('a container whose birth nobody knows begins with its first sample', () => {
  const rate = new CpuRate(Number.NEGATIVE_INFINITY);
  assert.equal(rate.update(1000, SECOND), undefined);
  assert.equal(rate.update(2000, 2 * SECOND), SECOND);
});
