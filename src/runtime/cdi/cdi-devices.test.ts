import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';

import fc from 'fast-check';

import { BerthError } from '../../base/errors.ts';
import { CdiDevices, requestedCdiDevices } from './cdi-devices.ts';
import { parseCdiSpec } from './cdi-spec.ts';

const device = (name: string, ...env: string[]) => ({ name, containerEdits: { env } });
const spec = (kind: string, devices: readonly object[], env?: readonly string[]) =>
  JSON.stringify({ cdiVersion: '0.6.0', kind, devices, ...(env ? { containerEdits: { env } } : {}) });

describe('parseCdiSpec', () => {
  it('reads what Go writes, null for nothing', () => {
    const read = parseCdiSpec(
      JSON.stringify({
        cdiVersion: '1.0.0',
        kind: 'vendor.com/gpu',
        annotations: { note: 'x' },
        devices: [
          {
            name: '0',
            containerEdits: {
              env: null,
              deviceNodes: [{ path: '/dev/gpu0', hostPath: '/dev/x', type: 'c', major: 1, minor: 3, fileMode: 438 }],
              mounts: [{ hostPath: '/lib/x', containerPath: '/lib/x', options: ['ro', 'bind'] }],
              hooks: [{ hookName: 'createContainer', path: '/bin/hook', args: ['hook', 'a'], timeout: 5 }],
              intelRdt: { closID: 'gold', enableCMT: true },
              additionalGids: [44],
            },
          },
        ],
        containerEdits: null,
      }),
    );
    const edits = read.devices.get('0');
    assert.equal(read.kind, 'vendor.com/gpu');
    assert.equal(edits?.deviceNodes[0]?.hostPath, '/dev/x');
    assert.deepEqual(edits?.env, []);
    assert.equal(edits?.hooks[0]?.timeout, 5);
  });

  const good = { cdiVersion: '0.6.0', kind: 'v.com/c', devices: [device('a', 'A=1')] };
  const edits = (containerEdits: object) => ({ ...good, devices: [{ name: 'a', containerEdits }] });
  const bad: [string, unknown, RegExp][] = [
    ['no object', null, /Expected Object/],
    ['another version', { ...good, cdiVersion: '2.0.0' }, /cdiVersion: version "2\.0\.0" is not known/],
    ['a kind without a class', { ...good, kind: 'vendor' }, /kind: "vendor" is not VENDOR\/CLASS/],
    ['no devices', { ...good, devices: [] }, /devices: there are none/],
    [
      'a device twice',
      { ...good, devices: [device('a', 'A=1'), device('a', 'A=1')] },
      /devices\.1\.name: a comes twice/,
    ],
    ['a device that changes nothing', edits({}), /a changes nothing/],
    ['a name that is none', { ...good, devices: [device('a b', 'A=1')] }, /"a b" is not the name of a device/],
    ['a variable without a value', edits({ env: ['A'] }), /env\.0: "A" is not NAME=VALUE/],
    ['a relative device', edits({ deviceNodes: [{ path: 'x' }] }), /deviceNodes\.0\.path/],
    ['an unknown type', edits({ deviceNodes: [{ path: '/x', type: 's' }] }), /"s" is not b, c, u or p/],
    ['other permissions', edits({ deviceNodes: [{ path: '/x', permissions: 'rx' }] }), /not made of r, w, m/],
    ['an unknown hook', edits({ hooks: [{ hookName: 'later', path: '/x' }] }), /"later" is not a hook/],
    ['a class of service that climbs', edits({ intelRdt: { closID: '..' } }), /class of service/],
    ['a field that is not known', edits({ env: ['A=1'], surprise: 1 }), /surprise/],
  ];
  for (const [what, value, message] of bad) {
    it(`refuses ${what}`, () => {
      assert.throws(() => parseCdiSpec(JSON.stringify(value)), { kind: 'invalid', message });
    });
  }

  it('says invalid of whatever else it is given', () => {
    const tryParse = (text: string): void => {
      try {
        parseCdiSpec(text);
      } catch (err) {
        assert.ok(err instanceof BerthError && err.kind === 'invalid', String(err));
      }
    };
    fc.assert(fc.property(fc.string(), tryParse));
    fc.assert(fc.property(fc.json(), tryParse));
    fc.assert(fc.property(fc.anything(), (value) => tryParse(JSON.stringify({ ...good, devices: [value] }) ?? '')));
  });
});

describe('requestedCdiDevices', () => {
  it('takes them from the field and from annotations, each once', () => {
    const annotations = { 'cdi.k8s.io/plugin_1': 'v.com/c=b,v.com/c=a', 'other.io/x': 'v.com/c=z' };
    assert.deepEqual(
      requestedCdiDevices({ cdiDevices: ['v.com/c=a'], annotations }).map(({ name }) => name),
      ['v.com/c=a', 'v.com/c=b'],
    );
  });

  it('names the field of one that is no device', () => {
    assert.throws(() => requestedCdiDevices({ cdiDevices: ['v.com/c=a', 'gpu'], annotations: {} }), {
      kind: 'invalid',
      message: /^config\.CDI_devices\[1\]\.name: "gpu" is not a CDI device/,
    });
    assert.throws(() => requestedCdiDevices({ cdiDevices: [], annotations: { 'cdi.k8s.io/x': '' } }), {
      kind: 'invalid',
      message: /^config\.annotations\[cdi\.k8s\.io\/x\]/,
    });
  });
});

describe('CdiDevices', () => {
  let top: string;
  let devices: CdiDevices;
  const write = (path: string, text: string): void => writeFileSync(join(top, path), text);
  const resolve = async (...names: string[]) =>
    (await devices.resolve(requestedCdiDevices({ cdiDevices: names, annotations: {} }))).map(({ env }) => env.join());

  beforeEach(() => {
    top = mkdtempSync(join(tmpdir(), 'berth-cdi-'));
    for (const name of ['static', 'dynamic']) mkdirSync(join(top, name));
    devices = new CdiDevices([join(top, 'static'), join(top, 'dynamic')]);
  });
  afterEach(() => rmSync(top, { recursive: true }));

  it('gives the general part of a file once, before its first device', async () => {
    write('static/a.json', spec('v.com/c', [device('1', 'D=1'), device('2', 'D=2')], ['G=all']));
    write('static/b.json', spec('w.com/c', [device('1', 'W=1')], ['W=all']));
    assert.deepEqual(await resolve('v.com/c=1', 'w.com/c=1', 'v.com/c=2'), ['G=all', 'D=1', 'W=all', 'W=1', 'D=2']);
    assert.deepEqual(await resolve(), []);
  });

  it('lets a later folder win, and sees every change at once', async () => {
    write('static/a.json', spec('v.com/c', [device('1', 'FROM=static')]));
    assert.deepEqual(await resolve('v.com/c=1'), ['FROM=static']);
    write('dynamic/x.json', spec('v.com/c', [device('1', 'FROM=dynamic')]));
    assert.deepEqual(await resolve('v.com/c=1'), ['FROM=dynamic']);
    write('dynamic/x.json', spec('v.com/c', [device('2', 'FROM=other')]));
    assert.deepEqual(await resolve('v.com/c=1', 'v.com/c=2'), ['FROM=static', 'FROM=other']);
  });

  it('does not choose between two of the same folder', async () => {
    for (const name of ['a', 'b']) write(`static/${name}.json`, spec('v.com/c', [device('1', `A=${name}`)]));
    await assert.rejects(resolve('v.com/c=1'), { kind: 'precondition', message: /both .*a\.json and .*b\.json have/ });
  });

  it('says of an unknown device where it looked, and which files it could not use', async () => {
    write('static/broken.json', '{');
    await assert.rejects(resolve('v.com/c=1'), {
      kind: 'precondition',
      message:
        /^config\.CDI_devices\[0\]\.name: no file in .*static, .*dynamic has v\.com\/c=1; .*broken\.json cannot be used: it is not JSON/,
    });
    assert.equal((await devices.problems()).length, 1);
  });

  it('reads YAML as other programs do', async () => {
    write(
      'static/a.yaml',
      `---
cdiVersion: "0.5.0"
kind: v.com/c
devices:
- name: "0"
  containerEdits:
    env:
    - A=1
    deviceNodes:
    - path: /dev/x
      fileMode: 0644
`,
    );
    assert.deepEqual(await resolve('v.com/c=0'), ['A=1']);
    const [edits] = await devices.resolve([{ field: '', name: 'v.com/c=0' }]);
    assert.equal(edits?.deviceNodes[0]?.fileMode, 0o644);
  });

  it('is not harmed by YAML that is made to', async () => {
    const levels = Array.from({ length: 12 }, (_, n) => `a${n + 1}: &a${n + 1} [${`*a${n},`.repeat(9)}]`);
    write('static/bomb.yaml', ['a0: &a0 [lol]', ...levels].join('\n'));
    write('static/deep.yml', '['.repeat(100_000));
    await assert.rejects(resolve('v.com/c=0'), {
      message: /bomb\.yaml cannot be used: it is not YAML.*deep\.yml cannot be used/,
    });
  });
});
