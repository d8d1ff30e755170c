/** Pods run when the machine reboots; reboot-after.test.ts looks at what is left of them. */

import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { test } from 'node:test';

import { assertUntouched, openNode, startCounting } from './node.ts';

const PODS = 3;

test(`${PODS} pods run`, async () => {
  using node = openNode('reboot');
  const pods = await startCounting(node, PODS);
  await assertUntouched(node, pods);
  const addresses = await Promise.all(pods.map(({ id }) => node.ipOf(id)));
  assert.equal(new Set(addresses).size, PODS);
  const before = pods.map(({ id, containerId }) => ({ id, containerId }));
  writeFileSync('/var/lib/berth-vm/before-reboot.json', JSON.stringify(before));
});
