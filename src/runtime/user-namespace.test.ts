import assert from 'node:assert/strict';
import { test } from 'node:test';

import { checkUserNamespace } from './user-namespace.ts';

const range = { hostId: 100_000, containerId: 0, length: 65_536 };

test('one range for users and groups alike, with root in it and clear of the root outside', () => {
  checkUserNamespace({ uids: [range], gids: [range] }, 'f');
  for (const [uids, gids, message] of [
    [[], [], 'f.uids: must be one mapping, not 0'],
    [[range, range], [range], 'f.uids: must be one mapping, not 2'],
    [[range], [{ ...range, length: 7 }], 'f.gids: must be the same as uids'],
    [[{ ...range, length: 0 }], [range], 'f.uids[0].length: must be at least 1'],
    [[{ ...range, hostId: 0 }], [{ ...range, hostId: 0 }], "f.uids[0].host_id: must not be 0, the host's root"],
    [
      [{ ...range, containerId: 1 }],
      [{ ...range, containerId: 1 }],
      'f.uids[0].container_id: must be 0: without root nothing can start',
    ],
    [[{ ...range, hostId: 2 ** 32 - 10 }], [range], 'f.uids[0]: reaches beyond the last id, 4294967294'],
  ] as const) {
    assert.throws(() => checkUserNamespace({ uids, gids }, 'f'), { kind: 'invalid', message });
  }
});
