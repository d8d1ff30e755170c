import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { answerError, type FakeAuth, FakeRegistry, fakeImage } from '../../test/fakes/registry.ts';
import { BerthError, isKind } from '../base/errors.ts';
import type { Credential } from './auth.ts';
import type { Digest } from './digest.ts';
import { type Access, RegistryClient } from './registry-client.ts';
import { isRegistryUnavailable } from './registry-error.ts';

const signal = new AbortController().signal;
const image = fakeImage(['one', 'two']);
const quick = { attempts: 3, firstWaitMs: 1, maxWaitMs: 50 };
const timeouts = { connectMs: 1000, headersMs: 1000, progressMs: 1000 };
const login: Credential = { kind: 'basic', username: 'me', password: 'SECRET', source: 'the test' };

async function withRegistry(
  fn: (registry: FakeRegistry, client: RegistryClient, access: (credential?: Credential) => Access) => Promise<void>,
): Promise<void> {
  await using registry = await FakeRegistry.start();
  registry.add('team/app', image, 'v1');
  const client = new RegistryClient({ monotonicMs: () => performance.now(), retry: quick, timeouts });
  const access = (credential?: Credential): Access => ({
    endpoint: { registry: registry.host, host: registry.host, repository: 'team/app', insecure: true, mirror: false },
    credential,
  });
  try {
    await fn(registry, client, access);
  } finally {
    await client.close();
  }
}

async function readBlob(client: RegistryClient, access: Access, digest: string): Promise<Buffer> {
  return await client.blob(access, digest as Digest, signal, async ({ bytes }) => {
    const chunks: Uint8Array[] = [];
    for await (const chunk of bytes) chunks.push(chunk);
    return Buffer.concat(chunks);
  });
}

function bearer(
  issue: (user: string, form: URLSearchParams, query: URLSearchParams) => boolean,
): FakeAuth & { count: number } {
  const auth = {
    kind: 'bearer' as const,
    count: 0,
    issue: (request: { authorization: string; form: URLSearchParams; query: URLSearchParams }) => {
      auth.count += 1;
      const user = Buffer.from(request.authorization.replace('Basic ', ''), 'base64').toString();
      return issue(user, request.form, request.query) ? `good-${auth.count}` : undefined;
    },
  };
  return auth;
}

describe('RegistryClient', () => {
  it('fetches manifests and blobs over plain HTTP from a loopback registry', async () => {
    await withRegistry(async (_registry, client, access) => {
      const document = await client.manifest(access(), 'v1', signal);
      assert.equal(document.digest, image.manifest.digest);
      assert.equal(document.mediaType, image.manifest.mediaType);
      assert.deepEqual(await readBlob(client, access(), image.config.digest), image.config.bytes);
    });
  });

  it('does not speak plain HTTP to a registry that is not insecure', async () => {
    await withRegistry(async (registry, client, access) => {
      const strict = { ...access(), endpoint: { ...access().endpoint, insecure: false } };
      await assert.rejects(client.manifest(strict, 'v1', signal), isRegistryUnavailable);
      assert.equal(registry.seen.length, 0);
    });
  });

  it('authenticates with Basic, and only after the challenge', async () => {
    await withRegistry(async (registry, client, access) => {
      registry.auth = { kind: 'basic', username: 'me', password: 'SECRET' };
      await client.manifest(access(login), 'v1', signal);
      assert.equal(registry.seen[0]?.authorization, undefined);
      await client.manifest(access(login), 'v1', signal);
      assert.equal(registry.seen.length, 3);
    });
  });

  it('gets one token for many requests, another for other credentials', async () => {
    await withRegistry(async (registry, client, access) => {
      const scopes: string[] = [];
      const auth = bearer((user, _form, query) => {
        scopes.push(`${user} ${query.get('service')} ${query.get('scope')}`);
        return true;
      });
      registry.auth = auth;
      await client.manifest(access(login), 'v1', signal);
      await Promise.all(image.layers.map((layer) => readBlob(client, access(login), layer.digest)));
      assert.equal(auth.count, 1);
      await client.manifest(access(), 'v1', signal);
      assert.deepEqual(scopes, [
        'me:SECRET fake registry repository:team/app:pull',
        ' fake registry repository:team/app:pull',
      ]);
    });
  });

  it('gets a new token when the old one has expired or is not accepted', async () => {
    await withRegistry(async (registry, client, access) => {
      const auth = bearer(() => true);
      registry.auth = auth;
      await client.manifest(access(), 'v1', signal);
      registry.misbehave = (req, res) => {
        if (req.headers.authorization !== 'Bearer good-1') return false;
        res.setHeader('www-authenticate', `Bearer realm="http://${registry.host}/token",service="fake registry"`);
        answerError(res, 401, 'UNAUTHORIZED');
        return true;
      };
      await client.manifest(access(), 'v1', signal);
      assert.equal(auth.count, 2);
    });
  });

  it('exchanges an identity token by POST, and sends a registry token as it is', async () => {
    await withRegistry(async (registry, client, access) => {
      registry.auth = bearer((_user, form) => form.get('refresh_token') === 'REFRESH' && form.get('scope') !== '');
      await client.manifest(access({ kind: 'identity', token: 'REFRESH', source: 'x' }), 'v1', signal);
      assert.ok(registry.seen.some((seen) => seen.method === 'POST' && seen.url === '/token'));
      await client.manifest(access({ kind: 'bearer', token: 'good-own', source: 'x' }), 'v1', signal);
      assert.equal(registry.seen.at(-1)?.authorization, 'Bearer good-own');
    });
  });

  it('sends an identity token to nobody that a token server redirects to', async () => {
    await withRegistry(async (registry, client, access) => {
      await using other = await FakeRegistry.start();
      other.auth = registry.auth = bearer(() => true);
      registry.misbehave = (req, res) => {
        if (req.url !== '/token') return false;
        res.writeHead(307, { location: `http://${other.host}/token` }).end();
        return true;
      };
      const pulled = client.manifest(access({ kind: 'identity', token: 'REFRESH', source: 'x' }), 'v1', signal);
      await assert.rejects(pulled, /redirect to .* of what is for the first host only/);
      assert.equal(other.seen.length, 0);
    });
  });

  it('asks the registry again where to get tokens when the place that it knows fails', async () => {
    await withRegistry(async (registry, client, access) => {
      const old = await FakeRegistry.start();
      old.auth = { kind: 'bearer', issue: () => 'good-old', expiresInS: 0 };
      registry.auth = bearer(() => true);
      registry.misbehave = (req, res) => {
        if (req.url?.startsWith('/token') || req.headers.authorization !== undefined) return false;
        res.setHeader('www-authenticate', `Bearer realm="http://${old.host}/token"`);
        answerError(res, 401, 'UNAUTHORIZED');
        return true;
      };
      await client.manifest(access(), 'v1', signal);
      await old.close();
      registry.misbehave = undefined;
      await client.manifest(access(), 'v1', signal);
    });
  });

  it('names registry, repository and credential source when it is refused, never the secret', async () => {
    await withRegistry(async (registry, client, access) => {
      const expectDenied = async (credential: Credential | undefined, words: RegExp): Promise<void> => {
        await assert.rejects(client.manifest(access(credential), 'v1', signal), (err: unknown) => {
          assert.ok(isKind(err, 'permission'));
          assert.match(String(err), words);
          assert.ok(!JSON.stringify(err, Object.getOwnPropertyNames(err)).includes('SECRET'));
          return true;
        });
      };
      registry.auth = { kind: 'basic', username: 'me', password: 'other' };
      await expectDenied(login, new RegExp(`team/app.*${registry.host}.*credentials from the test, status 401`));
      await expectDenied(undefined, /without credentials/);
      registry.auth = bearer(() => false);
      await expectDenied(login, /token of .* for repository:team\/app:pull: refused with status 401/);
      registry.auth = { kind: 'none' };
      registry.misbehave = (_req, res) => {
        answerError(res, 403, 'DENIED');
        return true;
      };
      await expectDenied(login, /status 403 \(DENIED\)/);
    });
  });

  it('drops credentials on a redirect to another host, and does not answer its challenge', async () => {
    await using other = await FakeRegistry.start();
    await withRegistry(async (registry, client, access) => {
      registry.auth = { kind: 'basic', username: 'me', password: 'SECRET' };
      registry.misbehave = (req, res) => {
        if (!req.url?.includes('/blobs/') || req.headers.authorization === undefined) return false;
        res.writeHead(307, { location: `http://${other.host}${req.url}` }).end();
        return true;
      };
      other.add('team/app', image);
      assert.deepEqual(await readBlob(client, access(login), image.config.digest), image.config.bytes);
      other.auth = { kind: 'basic', username: 'me', password: 'SECRET' };
      await assert.rejects(readBlob(client, access(login), image.config.digest), (err) => isKind(err, 'permission'));
      other.auth = bearer(() => true);
      await assert.rejects(readBlob(client, access(login), image.config.digest), (err) => isKind(err, 'permission'));
      assert.ok(!other.paths().some((path) => path.startsWith('/token')));
      assert.ok(other.seen.length >= 3);
      assert.ok(other.seen.every((seen) => seen.authorization === undefined));
    });
  });

  it('gives up on redirects without end', async () => {
    await withRegistry(async (registry, client, access) => {
      registry.misbehave = (req, res) => {
        res.writeHead(302, { location: req.url ?? '' }).end();
        return true;
      };
      await assert.rejects(client.manifest(access(), 'v1', signal), /more than 5 redirects/);
      assert.equal(registry.seen.length, 6);
    });
  });

  it('tries again after 429, 500 and a reset, as patiently as the registry asks', async () => {
    await withRegistry(async (registry, client, access) => {
      const failures = ['429', 'reset', ''];
      registry.misbehave = (req, res) => {
        const failure = failures.shift() ?? '';
        if (failure === 'reset') req.socket.destroy();
        if (failure === '429') {
          res.setHeader('retry-after', '0');
          answerError(res, 429, 'TOOMANYREQUESTS');
        }
        return failure !== '';
      };
      await client.manifest(access(), 'v1', signal);
      assert.equal(failures.length, 0);
    });
  });

  const lasting: [string, number, string, string, number][] = [
    ['rate limit', 429, 'exhausted', 'rate limit', 3],
    ['server error', 500, 'unavailable', 'status 500', 3],
    ['bad gateway', 502, 'unavailable', 'status 502', 3],
    ['not found', 404, 'notFound', 'not found (X_CODE)', 1],
  ];
  for (const [name, status, kind, words, tries] of lasting) {
    it(`reports a lasting ${name} after ${tries} tries`, async () => {
      await withRegistry(async (registry, client, access) => {
        registry.misbehave = (_req, res) => {
          answerError(res, status, 'X_CODE');
          return true;
        };
        await assert.rejects(client.manifest(access(), 'v1', signal), (err: unknown) => {
          assert.ok(err instanceof BerthError && err.kind === kind, String(err));
          assert.ok(err.message.includes(words) && err.message.includes(`${registry.host}/team/app`), err.message);
          assert.equal(isRegistryUnavailable(err), status !== 404);
          return true;
        });
        assert.equal(registry.seen.length, tries);
      });
    });
  }

  it('does not wait longer than its policy when Retry-After asks for an hour', async () => {
    await withRegistry(async (registry, client, access) => {
      registry.misbehave = (_req, res) => {
        res.setHeader('retry-after', '3600');
        answerError(res, 429, 'TOOMANYREQUESTS');
        return true;
      };
      await assert.rejects(client.manifest(access(), 'v1', signal), /rate limit/);
      assert.equal(registry.seen.length, 1);
    });
  });

  it('gives up on a registry that says nothing, and on one that stops in the middle', async () => {
    await withRegistry(async (registry, client, access) => {
      registry.misbehave = () => true;
      await assert.rejects(client.manifest(access(), 'v1', signal), /no answer in time/);
      registry.misbehave = (_req, res) => {
        res.writeHead(200, { 'content-length': 100 });
        res.write('ten bytes.');
        return true;
      };
      await assert.rejects(client.manifest(access(), 'v1', signal), (err: unknown) => {
        assert.match(String(err), /the answer stopped coming/);
        return isRegistryUnavailable(err);
      });
    });
  });

  it('stops at once when the signal aborts', async () => {
    await withRegistry(async (registry, client, access) => {
      const controller = new AbortController();
      registry.misbehave = () => {
        controller.abort(new BerthError('cancelled', 'the test left'));
        return true;
      };
      await assert.rejects(client.manifest(access(), 'v1', controller.signal), /the test left/);
    });
  });

  it('refuses manifests that are too large or not the ones asked for', async () => {
    await withRegistry(async (registry, client, access) => {
      registry.misbehave = (_req, res) => {
        res.end(Buffer.alloc(5 * 1024 * 1024, 'x'));
        return true;
      };
      await assert.rejects(client.manifest(access(), 'v1', signal), /larger than 4194304 bytes/);
      registry.misbehave = (_req, res) => {
        res.end('{}');
        return true;
      };
      await assert.rejects(client.manifest(access(), image.manifest.digest, signal), /content has digest/);
    });
  });
});
