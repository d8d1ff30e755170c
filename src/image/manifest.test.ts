import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import fc from 'fast-check';

import { fakeImage } from '../../test/fakes/registry.ts';
import { BerthError } from '../base/errors.ts';
import { parseDocument, parseImageConfig } from './manifest.ts';
import { DOCKER_CONFIG, DOCKER_MANIFEST, OCI_INDEX } from './media-types.ts';
import { choosePlatform, formatPlatform, hostPlatform, type Platform } from './platform.ts';

const bytes = (value: unknown): Buffer => Buffer.from(JSON.stringify(value));

describe('image documents', () => {
  it('reads Docker schema 2 with its nulls', () => {
    const digest = `sha256:${'a'.repeat(64)}`;
    const manifest = {
      schemaVersion: 2,
      mediaType: DOCKER_MANIFEST,
      config: { mediaType: DOCKER_CONFIG, digest, size: 1 },
      layers: [{ mediaType: 'application/vnd.docker.image.rootfs.diff.tar.gzip', digest, size: 2 }],
    };
    const document = parseDocument(bytes(manifest), DOCKER_MANIFEST, 'm');
    assert.equal(document.kind === 'manifest' && document.layers[0]?.compression, 'gzip');
    const config = { Env: null, Entrypoint: null, Cmd: ['a'], Labels: null, Volumes: { '/data': {} }, Healthcheck: {} };
    const parsed = parseImageConfig(
      bytes({ architecture: 'amd64', os: 'linux', config, rootfs: { diff_ids: [digest] } }),
      'c',
    );
    assert.deepEqual(parsed.config.volumes, ['/data']);
    assert.deepEqual([parsed.config.env, parsed.config.cmd], [[], ['a']]);
  });

  it('does not let a label reach a prototype', () => {
    const json = '{"rootfs":{"diff_ids":[]},"config":{"Labels":{"__proto__":"x","constructor":"y","a":"b"}}}';
    const { labels } = parseImageConfig(Buffer.from(json), 'c').config;
    assert.deepEqual({ ...labels }, { a: 'b' });
    assert.ok('toString' in labels);
  });

  it('refuses documents of many values before they are parsed, whatever is in strings', () => {
    const digest = `sha256:${'a'.repeat(64)}`;
    const config = (more: string): Buffer => Buffer.from(`{"rootfs":{"diff_ids":["${digest}"]},"config":{${more}}}`);
    const many = [
      Buffer.from(`{"manifests":[${'{},'.repeat(30_000)}{}]}`),
      Buffer.from('['.repeat(1_000_000)),
      config(`"Env":["\\\\",${'"",'.repeat(30_000)}""]`),
    ];
    for (const bytes of many) {
      assert.throws(() => parseDocument(bytes, '', 'm'), /m has more than 20000 values$/);
      assert.throws(() => parseImageConfig(bytes, 'm'), /m has more than 20000 values$/);
    }
    const text = '[{,\\",'.repeat(100_000);
    assert.equal(parseImageConfig(config(`"Labels":{"a":"${text}"}`), 'c').config.labels['a']?.length, 500_000);
  });

  it('refuses a document whose descriptor calls it something else', () => {
    const { manifest } = fakeImage(['x']);
    assert.throws(() => parseDocument(manifest.bytes, OCI_INDEX, 'm'), /not clearly one of/);
  });

  it('takes any JSON, and any damage to a real document, or throws precondition', () => {
    const { manifest, config } = fakeImage(['x', 'y']);
    const onlyBerthErrors = (fn: () => unknown): void => {
      try {
        fn();
      } catch (err) {
        if (!(err instanceof BerthError && err.kind === 'precondition')) throw err;
      }
    };
    fc.assert(
      fc.property(fc.json(), (text) => {
        onlyBerthErrors(() => parseDocument(Buffer.from(text), '', 'm'));
        onlyBerthErrors(() => parseImageConfig(Buffer.from(text), 'c'));
      }),
    );
    const damage = fc.tuple(fc.nat(), fc.string({ maxLength: 5 }), fc.nat({ max: 20 }));
    fc.assert(
      fc.property(damage, fc.boolean(), ([at, text, cut], isConfig) => {
        const whole = (isConfig ? config : manifest).bytes.toString();
        const from = at % whole.length;
        const broken = Buffer.from(whole.slice(0, from) + text + whole.slice(from + cut));
        onlyBerthErrors(() => (isConfig ? parseImageConfig(broken, 'c') : parseDocument(broken, '', 'm')));
      }),
    );
  });
});

describe('choosePlatform', () => {
  const parse = (text: string): Platform => {
    const [os = '', architecture = '', variant = ''] = text.split('/');
    return { os, architecture, variant };
  };
  const table: [string, string[], string | undefined][] = [
    ['linux/amd64', ['linux/arm64', 'linux/amd64'], 'linux/amd64'],
    ['linux/amd64', ['linux/amd64/v3', 'linux/amd64/v1'], 'linux/amd64/v1'],
    ['linux/amd64', ['linux/amd64/v3', 'windows/amd64'], undefined],
    ['linux/arm64/v8', ['linux/arm64', 'linux/arm64/v8'], 'linux/arm64/v8'],
    ['linux/arm64/v8', ['linux/arm64', 'linux/arm64/v9'], 'linux/arm64'],
    ['linux/arm/v7', ['linux/arm/v5', 'linux/arm/v6', 'linux/arm/v8'], 'linux/arm/v6'],
    ['linux/arm/v7', ['linux/arm/weird', 'linux/arm'], 'linux/arm'],
  ];
  for (const [host, offered, expected] of table) {
    it(`picks ${expected ?? 'nothing'} of ${offered.join(', ')} for ${host}`, () => {
      const entries = offered.map((text) => ({ platform: parse(text) }));
      const chosen = choosePlatform(parse(host), entries);
      assert.equal(chosen && formatPlatform(chosen.platform), expected);
    });
  }

  it('names machines as Go does', () => {
    assert.equal(formatPlatform(hostPlatform('x64')), 'linux/amd64');
    assert.equal(formatPlatform(hostPlatform('arm64')), 'linux/arm64/v8');
    assert.equal(formatPlatform(hostPlatform('riscv64')), 'linux/riscv64');
  });
});
