import assert from 'node:assert/strict';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';

import fc from 'fast-check';

import { BerthError } from '../base/errors.ts';
import { silentLogger } from '../base/log.ts';
import type { Endpoint } from './endpoints.ts';
import { parseHostsFile } from './hosts-toml.ts';
import { parseReference } from './reference.ts';
import { Registries } from './registries.ts';

const DIGEST = `sha256:${'a'.repeat(64)}`;

let dir: string;
let warnings: unknown[];

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'berth-hosts-'));
  warnings = [];
});

afterEach(async () => {
  await rm(dir, { recursive: true });
});

async function put(path: string, text: string): Promise<void> {
  await mkdir(join(dir, path, '..'), { recursive: true });
  await writeFile(join(dir, path), text);
}

function registries(): Registries {
  const log = { ...silentLogger, warn: (fields: unknown) => void warnings.push(fields) };
  const places = {
    conf: join(dir, 'r.conf'),
    confDir: '',
    aliases: '',
    hostsDirs: [join(dir, 'hosts')],
    certsDirs: [],
  };
  return new Registries(places, log);
}

function show({ registry, host, special, insecure, mirror, repository }: Endpoint): string {
  const url = `${special?.scheme ?? ''}//${host}${special?.basePath ?? '/v2'}/${repository}`;
  const marks = [mirror && 'mirror', insecure && 'insecure', special?.namespace && `ns=${special.namespace}`];
  return [registry, url, ...marks.filter(Boolean)].join(' ');
}

const ask = async (from: Registries, name: string): Promise<string[]> =>
  (await from.endpoints(parseReference(name))).map(show);

describe('hosts.toml', () => {
  it('asks its hosts in order, then the server', async () => {
    await put(
      'hosts/docker.io/hosts.toml',
      `server = "https://registry-1.docker.io"
       unknown = 1
       [host."https://mirror.example:5000"]
       [host."http://plain.example/base"]
       [host."https://whole.example/own/path"]
       override_path = true
       [host."skips.example"]
       skip_verify = true`,
    );
    assert.deepEqual(await ask(registries(), 'busybox'), [
      'mirror.example:5000 https://mirror.example:5000/v2/library/busybox mirror ns=docker.io',
      'plain.example http://plain.example/base/v2/library/busybox mirror insecure ns=docker.io',
      'whole.example https://whole.example/own/path/library/busybox mirror ns=docker.io',
      'skips.example https://skips.example/v2/library/busybox mirror insecure ns=docker.io',
      'docker.io https://registry-1.docker.io/v2/library/busybox',
    ]);
  });

  it('keeps hosts to what they are capable of', async () => {
    await put(
      'hosts/a.org/hosts.toml',
      '[host."https://one.org"]\ncapabilities = ["resolve"]\n[host."https://two.org"]\ncapabilities = ["push"]\n[host."https://three.org"]\ncapabilities = ["pull"]',
    );
    const from = registries();
    const hosts = async (name: string): Promise<string[]> =>
      (await from.endpoints(parseReference(name))).map(
        ({ host, special }) => `${host} ${special?.resolves} ${special?.pulls}`,
      );
    assert.deepEqual(await hosts('a.org/x'), ['one.org true false', 'three.org false true', 'a.org true true']);
    assert.deepEqual(await hosts(`a.org/x@${DIGEST}`), ['three.org false true', 'a.org true true']);
  });

  it('finds the folder of a registry with its port, and _default for the rest', async () => {
    await put('hosts/_default/hosts.toml', '[host."https://all.org"]');
    await put('hosts/a.org_5000_/hosts.toml', 'server = "https://portable.org"');
    await put('hosts/a.org:6000/hosts.toml', 'server = "https://plain.org"');
    const from = registries();
    assert.deepEqual(await ask(from, 'a.org:5000/x'), ['portable.org https://portable.org/v2/x ns=a.org:5000']);
    assert.deepEqual(await ask(from, 'a.org:6000/x'), ['plain.org https://plain.org/v2/x ns=a.org:6000']);
    assert.deepEqual(await ask(from, 'a.org/x'), [
      'all.org https://all.org/v2/x mirror ns=a.org',
      'a.org //a.org/v2/x',
    ]);
  });

  it('gives way to registries.conf', async () => {
    await put('hosts/_default/hosts.toml', '[host."https://all.org"]');
    await put('r.conf', '[[registry]]\nlocation = "a.org"\n[[registry]]\nlocation = "b.org"\nblocked = true');
    const from = registries();
    assert.deepEqual(await ask(from, 'a.org/x'), ['a.org //a.org/v2/x']);
    await assert.rejects(ask(from, 'b.org/x'), /blocked/);
    assert.equal((await ask(from, 'c.org/x')).length, 2);
  });

  it('keeps what held when a change is broken, says so once, and follows it when it is mended', async () => {
    await put('hosts/a.org/hosts.toml', '[host."https://one.org"]');
    await put('r.conf', '[[registry]]\nlocation = "b.org"\nblocked = true');
    const from = registries();
    assert.equal((await ask(from, 'a.org/x')).length, 2);
    await put('hosts/a.org/hosts.toml', '[host."ftp://one.org"]  ');
    await put('r.conf', '[[registry]]\nlocation = "b.org"\nblocked = tru');
    for (const _ of [1, 2]) {
      assert.equal((await ask(from, 'a.org/x')).length, 2);
      await assert.rejects(ask(from, 'b.org/x'), /blocked/);
    }
    assert.equal(warnings.length, 2);
    assert.match(JSON.stringify(from.problems()), /r\.conf:3: not TOML.*ftp:\/\/one\.org.* is no URL of a registry/);
    await put('hosts/a.org/hosts.toml', '');
    await rm(join(dir, 'r.conf'));
    assert.equal((await ask(from, 'a.org/x')).length, 1);
    assert.equal((await ask(from, 'b.org/x')).length, 1);
    assert.deepEqual(from.problems(), []);
  });

  it('refuses a file that never could be understood', async () => {
    await put('hosts/a.org/hosts.toml', 'server = ');
    await assert.rejects(ask(registries(), 'a.org/x'), /hosts\.toml:1: not TOML/);
    await put('r.conf', 'x = [');
    await assert.rejects(ask(registries(), 'c.org/x'), /r\.conf:1: not TOML/);
  });

  it('reads the three ways to name client certificates, beside the file', () => {
    const clients = (toml: string): string[] =>
      parseHostsFile(toml, 'f', '/d').hosts[0]?.tls.clients.map(({ cert, key }) => `${cert} ${key}`) ?? [];
    assert.deepEqual(clients('client = "both.pem"'), ['/d/both.pem /d/both.pem']);
    assert.deepEqual(clients('client = ["a.pem", "/b.pem"]'), ['/d/a.pem /d/a.pem', '/b.pem /b.pem']);
    assert.deepEqual(clients('client = [["a.cert", "a.key"]]'), ['/d/a.cert /d/a.key']);
    assert.deepEqual(parseHostsFile('ca = ["x.crt", "/y.crt"]', 'f', '/d').hosts[0]?.tls.authorities, [
      '/d/x.crt',
      '/y.crt',
    ]);
  });

  it('tells the keys that it does not follow, once for each change', async () => {
    await put('hosts/a.org/hosts.toml', 'dial_timeout = "5s"\n[host."https://one.org"]\nfallback = true\nca = "a"');
    const from = registries();
    const keys = async (): Promise<string[]> => (await from.checkHosts()).ignored.map(({ key }) => key);
    assert.deepEqual(await keys(), ['dial_timeout', 'host."https://one.org".fallback']);
    assert.deepEqual(await keys(), ['dial_timeout', 'host."https://one.org".fallback']);
    assert.equal(warnings.length, 2);
  });

  it('never repeats a header, and survives anything', () => {
    assert.throws(
      () => parseHostsFile('[host."https://a.org"]\nheader = {authorization = "SECRET\\n"}', 'f', '/d'),
      (err: Error) => /is no header/.test(err.message) && !err.message.includes('SECRET'),
    );
    assert.throws(() => parseHostsFile('server = "https://me:SECRET@a.org"', 'f', '/d'), /^(?!.*SECRET)/);
    fc.assert(
      fc.property(fc.string(), (text) => {
        try {
          parseHostsFile(text, 'f', '/d');
        } catch (err) {
          assert.ok(err instanceof BerthError);
        }
      }),
    );
  });
});
