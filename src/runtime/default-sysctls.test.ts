import assert from 'node:assert/strict';
import { test } from 'node:test';

import { silentLogger } from '../base/log.ts';
import { DefaultSysctls } from './default-sysctls.ts';

const plain = { kinds: ['net', 'ipc', 'uts'], hasUserNamespace: false } as const;

test('defaults are for pods that have the namespace to themselves, and a pod may say otherwise', () => {
  const defaults = new DefaultSysctls(
    ['net.ipv4.ip_unprivileged_port_start=0', 'kernel.shm_rmid_forced=1', 'net.ipv4.ping_group_range=0 9'],
    silentLogger,
  );
  const own = { 'net/ipv4/ip_unprivileged_port_start': '80' };
  assert.deepEqual(defaults.with(own, plain), {
    'kernel.shm_rmid_forced': '1',
    'net.ipv4.ping_group_range': '0 9',
    ...own,
  });
  assert.deepEqual(defaults.with({}, { ...plain, kinds: ['ipc'] }), { 'kernel.shm_rmid_forced': '1' });
  assert.deepEqual(defaults.with({}, { kinds: ['net'], hasUserNamespace: true }), {
    'net.ipv4.ip_unprivileged_port_start': '0',
  });
});

test('what this kernel has not is left out, what no pod has to itself is a mistake', () => {
  assert.deepEqual(new DefaultSysctls(['net.no.such=1'], silentLogger).with({}, plain), {});
  assert.throws(() => new DefaultSysctls(['vm.swappiness=1'], silentLogger), { kind: 'invalid' });
});
