import assert from 'node:assert/strict';
import { test } from 'node:test';

import { freeSubnet } from '../../scripts/demo/subnet.ts';

const candidates = ['10.213.77.0/24', '192.168.213.0/24'];

test('the demo takes the first range that no route touches', () => {
  const cases: readonly (readonly [destinations: readonly string[], subnet: string])[] = [
    [[], '10.213.77.0/24'],
    [['default', '127.0.0.0/8', '192.0.2.1'], '10.213.77.0/24'],
    [['10.213.76.0/24', '10.213.78.0/24'], '10.213.77.0/24'],
    // A range around it, one in it, the same, an address in it, its last address.
    [['10.0.0.0/8'], '192.168.213.0/24'],
    [['10.213.77.128/25'], '192.168.213.0/24'],
    [['10.213.77.0/24'], '192.168.213.0/24'],
    [['10.213.77.1'], '192.168.213.0/24'],
    [['10.213.77.255'], '192.168.213.0/24'],
  ];
  for (const [destinations, subnet] of cases) {
    assert.equal(freeSubnet(destinations, candidates), subnet, destinations.join(' '));
  }
});

test('the demo says so when every range is taken', () => {
  assert.throws(() => freeSubnet(['10.0.0.0/8', '192.168.0.0/16'], candidates), /routes for all of 10\.213\.77\.0\/24/);
  assert.throws(() => freeSubnet(['fe80::/64'], candidates), /not an IPv4 range: fe80::\/64/);
});
