import assert from 'node:assert/strict';
import { test } from 'node:test';

import fc from 'fast-check';

import { BerthError } from '../base/errors.ts';
import { cniResult, parsePluginResult } from './plugin-result.ts';

const bridge = {
  cniVersion: '0.4.0',
  interfaces: [
    { name: 'cni0', mac: '02:00:00:00:00:01' },
    { name: 'eth0', mac: '02:00:00:00:00:02', sandbox: '/run/netns/a' },
  ],
  ips: [
    { version: '4', interface: 1, address: '10.1.0.5/16', gateway: '10.1.0.1' },
    { version: '6', interface: 1, address: 'fd00::5/64' },
    { version: '4', interface: 0, address: '10.1.0.1/16' },
  ],
  routes: [{ dst: '0.0.0.0/0' }],
  dns: {},
};

test('the pod side of a result in the domain form', () => {
  const result = cniResult(parsePluginResult(JSON.stringify(bridge), '0.4.0'), 'pods', 'eth0');
  assert.deepEqual(result, {
    network: 'pods',
    ips: [
      { address: '10.1.0.5', prefixLength: 16, gateway: '10.1.0.1' },
      { address: 'fd00::5', prefixLength: 64 },
    ],
    interfaces: [
      { name: 'cni0', mac: '02:00:00:00:00:01' },
      { name: 'eth0', mac: '02:00:00:00:00:02', netns: '/run/netns/a' },
    ],
    mac: '02:00:00:00:00:02',
  });
});

test('a result is put in the version of its network', () => {
  const newer = parsePluginResult(JSON.stringify(bridge), '1.0.0');
  assert.equal(newer.cniVersion, '1.0.0');
  assert.deepEqual(newer.ips?.[1], { interface: 1, address: 'fd00::5/64' });
  const older = parsePluginResult(JSON.stringify(newer), '0.3.1');
  assert.deepEqual(
    older.ips?.map((ip) => ip['version']),
    ['4', '6', '4'],
  );
});

test('addresses without an interface are the pod addresses; nulls and unknown keys are taken', () => {
  const wire = parsePluginResult(
    '{"ips":[{"address":"10.0.0.2/32","interface":null}],"interfaces":null,"x":1}',
    '1.1.0',
  );
  assert.equal(wire['x'], 1);
  assert.deepEqual(cniResult(wire, 'n', 'eth0').ips, [{ address: '10.0.0.2', prefixLength: 32 }]);
});

test('what is wrong is named with its place', () => {
  const wrong: readonly [string, RegExp][] = [
    ['', /^result: is empty$/],
    ['garbage', /^result: is not JSON/],
    ['[]', /^result: /],
    ['{"cniVersion":"0.1.0"}', /^cniVersion: "0\.1\.0" is not one of/],
    ['{"ips":{}}', /^ips: must be a list/],
    ['{"ips":[{"address":"10.0.0.1"}]}', /^ips\.0\.address: must be an address with a prefix length/],
    ['{"ips":[{"address":"10.0.0.1/33"}]}', /^ips\.0\.address/],
    ['{"ips":[{"address":"10.0.0.1/8","gateway":"x"}]}', /^ips\.0\.gateway: must be an address/],
    ['{"ips":[{"address":"10.0.0.1/8","interface":0}]}', /^ips\.0\.interface: is 0, and there are 0 interfaces/],
    ['{"code":7,"msg":"no"}', /^result: is an error: code 7: no/],
  ];
  for (const [text, message] of wrong) {
    assert.throws(() => parsePluginResult(text, '1.0.0'), { kind: 'invalid', message });
  }
});

test('any output is a result or a clear error', () => {
  const near = fc.record(
    {
      cniVersion: fc.oneof(fc.constant('1.0.0'), fc.jsonValue()),
      interfaces: fc.oneof(fc.array(fc.record({ name: fc.string(), sandbox: fc.string() })), fc.jsonValue()),
      ips: fc.oneof(
        fc.array(
          fc.record({
            address: fc.oneof(
              fc.tuple(fc.ipV4(), fc.nat(40)).map(([ip, bits]) => `${ip}/${bits}`),
              fc.string(),
            ),
            interface: fc.oneof(fc.nat(2), fc.constant(null), fc.jsonValue()),
          }),
        ),
        fc.jsonValue(),
      ),
    },
    { requiredKeys: [] },
  );
  fc.assert(
    fc.property(
      fc.oneof(
        fc.string(),
        fc.json(),
        near.map((value) => JSON.stringify(value)),
      ),
      (text) => {
        try {
          const wire = parsePluginResult(text, '1.0.0');
          for (const ip of cniResult(wire, 'n', 'eth0').ips) assert.ok(ip.prefixLength >= 0 && ip.prefixLength <= 128);
          assert.deepEqual(parsePluginResult(JSON.stringify(wire), '1.0.0'), JSON.parse(JSON.stringify(wire)));
        } catch (err) {
          assert.ok(err instanceof BerthError && err.kind === 'invalid', String(err));
        }
      },
    ),
  );
});
