import assert from 'node:assert/strict';
import { test } from 'node:test';

import { mergePatch } from './merge-patch.ts';

test('fields are merged, removed by null, and orders for the merge are no fields', () => {
  const before = { status: { phase: 'Pending', reason: 'x', old: 1 } };
  const patch = { status: { phase: 'Running', reason: null, $setElementOrder: [] } };
  assert.deepEqual(mergePatch(before, patch), { status: { phase: 'Running', old: 1 } });
});

test('lists with a key are merged by it, others are replaced', () => {
  const before = { conditions: [{ type: 'a', status: 'x', since: 1 }, { type: 'b' }], args: [1, 2] };
  const patch = { conditions: [{ type: 'a', status: 'y' }, { type: 'c' }, { $patch: 'delete', type: 'b' }], args: [3] };
  assert.deepEqual(mergePatch(before, patch), {
    conditions: [{ type: 'a', status: 'y', since: 1 }, { type: 'c' }],
    args: [3],
  });
});
