import assert from 'node:assert/strict';
import { test } from 'node:test';

import { hasCapability, parseCapabilities, readCapabilities } from './capabilities.ts';

test('bits become names, in the kernel’s order', () => {
  const status = 'Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t000001fffeffffff\nCapBnd:\t0000010000200001\n';
  const effective = parseCapabilities(status, 'CapEff');
  assert.equal(effective.size, 40);
  assert.equal(effective.has('CAP_SYS_RESOURCE'), false);
  assert.deepEqual([...parseCapabilities(status, 'CapBnd')], ['CAP_CHOWN', 'CAP_SYS_ADMIN', 'CAP_CHECKPOINT_RESTORE']);
  assert.equal(parseCapabilities(status, 'CapPrm').size, 0);
  assert.equal(parseCapabilities('', 'CapEff').size, 0);
});

test('this process answers for itself', () => {
  for (const name of readCapabilities()) assert.equal(hasCapability(name), true);
  assert.equal(hasCapability('CAP_NO_SUCH'), false);
});
