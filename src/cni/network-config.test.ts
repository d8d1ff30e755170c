import assert from 'node:assert/strict';
import { test } from 'node:test';

import fc from 'fast-check';

import { BerthError } from '../base/errors.ts';
import { networkConfigFromJson, networkConfigToJson, parseNetworkConfig, parsePluginConfig } from './network-config.ts';

const list = { cniVersion: '1.0.0', name: 'pods', plugins: [{ type: 'bridge', bridge: 'b0' }] };

function parse(more: object): ReturnType<typeof parseNetworkConfig> {
  return parseNetworkConfig(JSON.stringify({ ...list, ...more }));
}

test('a list of plugins keeps its order and what it does not know', () => {
  const network = parse({
    plugins: [
      { type: 'bridge', x: { y: [1] } },
      { type: 'portmap', capabilities: { portMappings: true, off: false } },
    ],
    disableCheck: 'TRUE',
    disableGC: true,
  });
  assert.deepEqual(
    network.plugins.map(({ type, capabilities }) => [type, capabilities]),
    [
      ['bridge', []],
      ['portmap', ['portMappings']],
    ],
  );
  assert.deepEqual(network.plugins[0]?.body, { type: 'bridge', x: { y: [1] } });
  assert.deepEqual([network.disableCheck, network.disableGc, network.loadOnlyInlinedPlugins], [true, true, false]);
});

test('a single plugin becomes a list of one', () => {
  const network = parseNetworkConfig('{"cniVersion":"0.3.1","name":"one","type":"ptp","ipam":{"type":"host-local"}}');
  assert.deepEqual([network.name, network.cniVersion, network.plugins.length], ['one', '0.3.1', 1]);
  assert.equal(network.plugins[0]?.type, 'ptp');
  assert.equal(network.loadOnlyInlinedPlugins, true, 'it has no folder of plugins');
});

test('keys that only a runtime sets are dropped', () => {
  const body = { type: 'bridge', mtu: 1400, prevResult: {}, runtimeConfig: {}, 'cni.dev/valid-attachments': [] };
  assert.deepEqual(parsePluginConfig(JSON.stringify(body)).body, { type: 'bridge', mtu: 1400 });
});

test('the newest version that Berth speaks is taken', () => {
  const chosen: readonly [object, string][] = [
    [{ cniVersion: '0.3.0' }, '0.3.0'],
    [{ cniVersion: '1.0.0', cniVersions: ['0.4.0', '1.1.0', '9.0.0'] }, '1.1.0'],
    [{ cniVersion: '9.0.0', cniVersions: ['0.4.0'] }, '0.4.0'],
    [{ cniVersion: undefined, cniVersions: ['0.3.1'] }, '0.3.1'],
  ];
  for (const [more, version] of chosen) assert.equal(parse(more).cniVersion, version);
});

test('what is wrong is named with its place', () => {
  const wrong: readonly [string, RegExp][] = [
    ['', /^file: is empty$/],
    ['{"name"', /^file: is not JSON/],
    ['[]', /^file: must be an object$/],
    ['null', /^file: must be an object$/],
    [JSON.stringify({ ...list, name: undefined }), /^name: /],
    [JSON.stringify({ ...list, name: '../x' }), /^name: must be letters/],
    [JSON.stringify({ ...list, name: 'x'.repeat(101) }), /^name: must not be longer/],
    [JSON.stringify({ ...list, cniVersion: '0.2.0' }), /^cniVersion: "0\.2\.0" is not supported; Berth speaks 0\.3\.0/],
    [JSON.stringify({ ...list, cniVersion: undefined }), /^cniVersion: is missing/],
    [JSON.stringify({ ...list, cniVersion: 1 }), /^cniVersion: must be a string/],
    [JSON.stringify({ ...list, plugins: [] }), /^plugins: must not be empty/],
    [JSON.stringify({ ...list, plugins: {} }), /^plugins: must be a list/],
    [JSON.stringify({ ...list, plugins: [{ type: 'bridge' }, {}] }), /^plugins\.1\.type: /],
    [JSON.stringify({ ...list, plugins: [{ type: '../sh' }] }), /^plugins\.0\.type: must be letters/],
    [
      JSON.stringify({ ...list, plugins: [{ type: 'x', capabilities: { ips: 1 } }] }),
      /^plugins\.0\.capabilities\.ips: must be true/,
    ],
    [JSON.stringify({ ...list, disableGC: 'maybe' }), /^disableGC: must be true or false/],
    [JSON.stringify({ ...list, plugins: undefined, loadOnlyInlinedPlugins: true }), /^plugins: is missing/],
  ];
  for (const [text, message] of wrong) {
    assert.throws(() => parseNetworkConfig(text), { name: 'BerthError', kind: 'invalid', message });
  }
});

test('any text is a network or an error that is a user mistake', () => {
  const near = fc.record(
    {
      name: fc.oneof(fc.constant('pods'), fc.string(), fc.jsonValue()),
      cniVersion: fc.oneof(fc.constantFrom('1.0.0', '1.1.0', '2.0.0'), fc.jsonValue()),
      cniVersions: fc.oneof(fc.array(fc.string()), fc.jsonValue()),
      plugins: fc.oneof(fc.array(fc.record({ type: fc.oneof(fc.constant('bridge'), fc.string()) })), fc.jsonValue()),
      disableCheck: fc.jsonValue(),
    },
    { requiredKeys: [] },
  );
  const texts = fc.oneof(
    fc.string(),
    fc.json(),
    near.map((value) => JSON.stringify(value)),
  );
  fc.assert(
    fc.property(texts, (text) => {
      try {
        const network = parseNetworkConfig(text);
        assert.match(network.name, /^[a-zA-Z0-9][a-zA-Z0-9_.-]*$/);
        for (const plugin of network.plugins) assert.ok(!plugin.type.includes('/'));
        assert.deepEqual(networkConfigFromJson(networkConfigToJson(network)), { ...network });
      } catch (err) {
        assert.ok(err instanceof BerthError && err.kind === 'invalid', String(err));
        assert.ok(err.message.length < 400);
      }
    }),
  );
});

test('a key named __proto__ reaches the plugin and nothing else', () => {
  const network = parseNetworkConfig('{"cniVersion":"1.0.0","name":"n","type":"x","__proto__":{"disableCheck":true}}');
  assert.equal(network.disableCheck, false);
  assert.match(JSON.stringify({ ...network.plugins[0]?.body }), /"__proto__":\{"disableCheck":true\}/);
});
