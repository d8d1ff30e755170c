import assert from 'node:assert/strict';
import { test } from 'node:test';

import fc from 'fast-check';

import { parseNetworkUsage, readNetworkUsage } from './network-usage.ts';

const HEAD = [
  'Inter-|   Receive                                                |  Transmit',
  ' face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed',
];
const LINES = [
  ...HEAD,
  '    lo:   1000      10    0    0    0     0          0         0     1000      10    0    0    0     0       0          0',
  '  eth0:123456789     200    3    4    0     0          0         0  9876543     100    5    6    0     0       0          0',
  'net1.5:1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0',
];

test('every interface but loopback', () => {
  assert.deepEqual(parseNetworkUsage(`${LINES.join('\n')}\n`), [
    {
      name: 'eth0',
      receivedBytes: 123_456_789,
      receivedPackets: 200,
      receiveErrors: 3,
      receiveDrops: 4,
      sentBytes: 9_876_543,
      sentPackets: 100,
      sendErrors: 5,
      sendDrops: 6,
    },
    {
      name: 'net1.5',
      receivedBytes: 1,
      receivedPackets: 2,
      receiveErrors: 3,
      receiveDrops: 4,
      sentBytes: 5,
      sentPackets: 6,
      sendErrors: 7,
      sendDrops: 8,
    },
  ]);
});

test('lines that are cut or strange are left out', () => {
  assert.deepEqual(parseNetworkUsage(''), []);
  assert.deepEqual(parseNetworkUsage([...HEAD, 'eth0: 1 2 3', 'eth1', ': 1 2', 'eth2: x'].join('\n')), []);
});

test('each name once and few of them, whatever the text', () => {
  const numbers = fc.array(fc.nat(), { minLength: 14, maxLength: 18 });
  const line = fc.tuple(fc.string(), numbers).map(([name, counts]) => `${name}:${counts.join(' ')}`);
  fc.assert(
    fc.property(fc.array(fc.oneof(line, fc.string()), { maxLength: 200 }), (lines) => {
      const found = parseNetworkUsage(lines.join('\n'));
      assert.equal(new Set(found.map(({ name }) => name)).size, found.length);
      assert.ok(found.length <= 64);
    }),
  );
});

test('of this process there is something to tell, of one that is gone nothing', () => {
  assert.ok(Array.isArray(readNetworkUsage(process.pid)));
  assert.equal(readNetworkUsage(2 ** 22 + 1), undefined);
});
