import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';

import fc from 'fast-check';

import { credentialFor, credentialFromRequest, credentialKey } from './auth.ts';
import { AuthFile } from './auth-file.ts';
import { parseChallenges } from './challenge.ts';
import type { Endpoint } from './endpoints.ts';

const never = new AbortController().signal;
const basic = (pair: string): string => Buffer.from(pair).toString('base64');

describe('credentialFromRequest', () => {
  it('takes all forms of the CRI', () => {
    assert.equal(credentialFromRequest(undefined), undefined);
    assert.equal(credentialFromRequest({ username: '', password: '' }), undefined);
    const source = 'the pull request';
    assert.deepEqual(credentialFromRequest({ username: 'u', password: 'p\0\0' }), {
      kind: 'basic',
      username: 'u',
      password: 'p',
      source,
    });
    assert.deepEqual(credentialFromRequest({ username: 'x', password: 'y', auth: basic('u:p:q\0') }), {
      kind: 'basic',
      username: 'u',
      password: 'p:q',
      source,
    });
    assert.deepEqual(credentialFromRequest({ identityToken: 'i' }), { kind: 'identity', token: 'i', source });
    assert.deepEqual(credentialFromRequest({ registryToken: 'r' }), { kind: 'bearer', token: 'r', source });
    for (const registryToken of ['a b', '⛵', 'a\n', ' '])
      assert.throws(() => credentialFromRequest({ registryToken }), {
        kind: 'invalid',
        message: /^auth\.registry_token: /,
      });
  });

  it('refuses an auth field that is no pair, without repeating it', () => {
    for (const auth of ['***', basic('nocolon')]) {
      assert.throws(
        () => credentialFromRequest({ auth }),
        (err: Error) => !err.message.includes(auth),
      );
    }
  });

  it('tells credentials apart by what they prove', () => {
    const keys = [
      undefined,
      { username: 'a', password: 'bc' },
      { username: 'ab', password: 'c' },
      { identityToken: 'x' },
      { registryToken: 'x' },
      { username: 'identity', password: 'x' },
    ].map((auth) => credentialKey(credentialFromRequest(auth)));
    assert.equal(new Set(keys).size, keys.length);
    assert.ok(keys.every((key) => !key.includes('bc')));
  });
});

describe('AuthFile', () => {
  let dir: string;
  let path: string;
  before(async () => {
    dir = await mkdtemp(join(tmpdir(), 'berth-image-auth-'));
    path = join(dir, 'auth.json');
    await writeFile(
      path,
      JSON.stringify({
        auths: {
          'quay.io': { auth: basic('all:1') },
          'quay.io/team': { auth: basic('team:2') },
          'quay.io/team/app': { username: 'app', password: '3' },
          'https://index.docker.io/v1/': { auth: basic('hub:4') },
          'ghcr.io': { identitytoken: 'refresh' },
          __proto__: { auth: basic('evil:0') },
        },
        credsStore: 'desktop',
      }),
    );
  });
  after(async () => await rm(dir, { recursive: true }));

  const nameOf = async (registry: string, repository: string): Promise<string | undefined> => {
    const found = await new AuthFile(path).find({ registry, repository }, never);
    return found?.kind === 'basic' ? found.username : found?.token;
  };

  it('takes the entry with the longest path', async () => {
    assert.equal(await nameOf('quay.io', 'team/app'), 'app');
    assert.equal(await nameOf('quay.io', 'team/app/sub'), 'app');
    assert.equal(await nameOf('quay.io', 'team/other'), 'team');
    assert.equal(await nameOf('quay.io', 'teamwork/app'), 'all');
    assert.equal(await nameOf('docker.io', 'library/busybox'), 'hub');
    assert.equal(await nameOf('ghcr.io', 'x/y'), 'refresh');
    assert.equal(await nameOf('example.com', 'x'), undefined);
    assert.equal(await nameOf('constructor', 'x'), undefined);
  });

  it('is none when it is missing, and says where it is broken without quoting it', async () => {
    assert.equal(await new AuthFile(join(dir, 'missing')).find({ registry: 'a', repository: 'b' }, never), undefined);
    const broken = join(dir, 'broken.json');
    await writeFile(broken, '{"auths": {"a.org": {"auth": "SECRET" oops');
    await assert.rejects(new AuthFile(broken).find({ registry: 'a.org', repository: 'b' }, never), (err: Error) => {
      assert.match(err.message, /broken\.json is not JSON/);
      assert.ok(!JSON.stringify([err.message, String(err.cause)]).includes('SECRET'));
      return true;
    });
    await writeFile(broken, JSON.stringify({ auths: { 'a.org': { registrytoken: 'SECRET\r\nhost: b.org' } } }));
    await assert.rejects(
      new AuthFile(broken).find({ registry: 'a.org', repository: 'b' }, never),
      /^(?!.*SECRET).*broken\.json \(a\.org\): "registrytoken" has characters in it that no token has/,
    );
  });

  it('does not give what the request brought to a mirror elsewhere', async () => {
    const endpoint = (registry: string, mirror: boolean): Endpoint => ({
      registry,
      host: registry,
      repository: 'team/app',
      insecure: false,
      mirror,
    });
    const primary = endpoint('example.com', false);
    const auth = { username: 'me', password: 'x' };
    const nameAt = async (place: Endpoint, more = {}): Promise<string | undefined> => {
      const found = await credentialFor(place, { auth: { ...auth, ...more }, primary }, [new AuthFile(path)], never);
      return found?.kind === 'basic' ? found.username : undefined;
    };
    assert.equal(await nameAt(primary), 'me');
    assert.equal(await nameAt(endpoint('quay.io', true)), 'app');
    assert.equal(await nameAt(endpoint('mirror.org', true)), undefined);
    assert.equal(await nameAt(endpoint('mirror.org', true), { serverAddress: 'https://mirror.org/v2/' }), 'me');
    assert.equal(await nameAt(primary, { serverAddress: 'other.org' }), undefined);
  });
});

describe('parseChallenges', () => {
  it('reads the headers of real registries', () => {
    const [bearer] = parseChallenges(
      'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push"',
    );
    assert.equal(bearer?.scheme, 'bearer');
    assert.deepEqual(Object.fromEntries(bearer?.parameters ?? []), {
      realm: 'https://auth.docker.io/token',
      service: 'registry.docker.io',
      scope: 'repository:a/b:pull,push',
    });
    assert.deepEqual(
      parseChallenges('Negotiate, Basic realm="a \\"b\\"", BEARER Realm=x , service=y').map((one) => [
        one.scheme,
        ...one.parameters.values(),
      ]),
      [['negotiate'], ['basic', 'a "b"'], ['bearer', 'x', 'y']],
    );
  });

  it('survives anything', () => {
    fc.assert(fc.property(fc.string({ maxLength: 200 }), (text) => void parseChallenges(text)));
    const startedMs = performance.now();
    parseChallenges(`Bearer ${'a='.repeat(50_000)}`);
    parseChallenges(`${' '.repeat(80_000)}x`);
    parseChallenges(`Bearer a="${'\\"'.repeat(50_000)}`);
    assert.ok(performance.now() - startedMs < 5_000);
  });
});
