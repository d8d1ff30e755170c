import assert from 'node:assert/strict';
import { test } from 'node:test';

import { BerthError, describe, findCause, invalid, isKind, kindOf, wrap } from './errors.ts';

test('wrapping keeps the kind and adds one level to the text', () => {
  const err = wrap('run sandbox web', wrap('attach network', new BerthError('unavailable', 'bridge: no answer')));
  assert.equal(err.kind, 'unavailable');
  assert.equal(describe(err), 'run sandbox web: attach network: bridge: no answer');
});

test('what is not ours is internal, an abort is cancelled, an expired timeout is a deadline', () => {
  assert.equal(kindOf(new TypeError('x')), 'internal');
  assert.equal(kindOf('text'), 'internal');
  assert.equal(kindOf(AbortSignal.abort().reason), 'cancelled');
  assert.equal(kindOf(new DOMException('late', 'TimeoutError')), 'deadline');
});

test('a full disk is no bug, wherever node tells of it', () => {
  const full = Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC' });
  assert.equal(kindOf(full), 'exhausted');
  assert.equal(wrap('write the bundle', full).kind, 'exhausted');
  assert.equal(kindOf(Object.assign(new Error('ENOENT: no such file'), { code: 'ENOENT' })), 'internal');
});

test('a fact is found through its contexts', () => {
  class Fact extends BerthError {
    readonly code = 7;
  }
  assert.equal(findCause(wrap('outer', wrap('inner', new Fact('internal', 'x'))), Fact)?.code, 7);
  assert.equal(findCause(new Error('x'), Fact), undefined);
});

test('bad input names its field', () => {
  const err = invalid('config.metadata.name', 'is empty');
  assert.ok(isKind(err, 'notFound', 'invalid'));
  assert.equal(err.message, 'config.metadata.name: is empty');
});

test('the same text twice in a chain is said once', () => {
  assert.equal(describe(new Error('same', { cause: new Error('same') })), 'same');
  const cause = new Error('other side closed');
  assert.equal(describe(new Error('GET /v2: other side closed', { cause })), 'GET /v2: other side closed');
});
