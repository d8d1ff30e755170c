import assert from 'node:assert/strict';
import { test } from 'node:test';

import { toHostId } from './id-mapping.ts';

test('ids on the host', () => {
  const range = { hostId: 100_000, containerId: 0, length: 65_536 };
  assert.equal(toHostId([range], 0), 100_000);
  assert.equal(toHostId([range], 65_535), 165_535);
  assert.throws(() => toHostId([range], 65_536), { kind: 'precondition' });
});
