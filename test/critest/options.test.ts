import assert from 'node:assert/strict';
import { test } from 'node:test';

import { parseOptions } from './options.ts';

test('without options it is one run of all specs against a berthd of its own', () => {
  const options = parseOptions([]);
  assert.equal(options?.endpoint, undefined);
  assert.equal(options?.runs, 1);
  assert.deepEqual(options?.variants, [{ websocket: false, parallel: 1, benchmark: false, samples: 50 }]);
  assert.deepEqual(options?.focus, []);
});

test('refuses what makes no sense', () => {
  assert.throws(() => parseOptions(['--endpoint', '/run/x.sock', '--registry', 'x']), /expected unix/);
  assert.throws(() => parseOptions(['--endpoint', 'unix:///run/x.sock']), /needs --registry/);
  assert.throws(() => parseOptions(['--endpoint', 'unix:///x', '--registry', 'x', '--containerd']), /exclude/);
  assert.throws(() => parseOptions(['--runs', '0']), /positive/);
  assert.throws(() => parseOptions(['--parallel', 'x']), /positive/);
  assert.throws(() => parseOptions(['--fast']), /fast/);
  assert.equal(parseOptions(['--help']), undefined);
});

test('everything is both transports, one spec at a time and several, and benchmarks', () => {
  const variants = parseOptions(['--everything'])?.variants ?? [];
  assert.deepEqual(new Set(variants.map(({ websocket }) => websocket)), new Set([true, false]));
  assert.ok(variants.some(({ parallel }) => parallel > 1) && variants.some(({ parallel }) => parallel === 1));
  assert.ok(variants.some(({ benchmark }) => benchmark));
});
