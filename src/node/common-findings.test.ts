import assert from 'node:assert/strict';
import { test } from 'node:test';

import { busFindings } from './common-findings.ts';

test('a node whose cgroups systemd makes needs the system bus', () => {
  assert.deepEqual(busFindings('cgroupfs', '/no/such/socket'), []);
  assert.deepEqual(busFindings('systemd', '/proc/self'), []);
  const [missing] = busFindings('systemd', '/no/such/socket');
  assert.equal(missing?.severity, 'error');
  assert.match(missing.message, /^\/no\/such\/socket is not there/);
});
