import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import { type AddressInfo, connect, type Server as NetServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe as suite, test } from 'node:test';

import { request } from 'undici';

import { hasOpenssl, makeCertificate } from '../../test/fakes/certificates.ts';
import { HttpAgents } from './http-agents.ts';

const TIMEOUTS = { connectMs: 5000, headersMs: 5000, progressMs: 5000 };

async function listen(server: NetServer): Promise<number> {
  const { promise, resolve } = Promise.withResolvers<void>();
  server.listen(0, '127.0.0.1', resolve);
  await promise;
  return (server.address() as AddressInfo).port;
}

suite('a proxy', { skip: hasOpenssl() ? false : 'openssl, which makes the certificate, is not installed' }, () => {
  let folder: string;
  let origin: NetServer;
  let proxy: Server;
  let proxyUrl: string;
  let originPort: number;
  const asked: string[] = [];

  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'berth-proxy-'));
    const { cert, key } = makeCertificate(folder, 'origin');
    origin = createTlsServer({ cert: readFileSync(cert), key: readFileSync(key) }, (_request, response) =>
      response.end('origin'),
    );
    originPort = await listen(origin);
    proxy = createServer((asking, response) => {
      asked.push(`${asking.method} ${asking.url} ${asking.headers['proxy-authorization'] ?? ''}`.trim());
      response.end('plain');
    });
    // Names that are nobody's lead to the one origin.
    proxy.on('connect', (asking, socket) => {
      asked.push(`${asking.method} ${asking.url}`);
      const onward = connect(originPort, '127.0.0.1', () => {
        socket.write('HTTP/1.1 200 OK\r\n\r\n');
        socket.pipe(onward).pipe(socket);
      });
      socket.on('error', () => onward.destroy());
      onward.on('error', () => socket.destroy());
    });
    proxyUrl = `http://user:secret@127.0.0.1:${await listen(proxy)}`;
  });
  after(() => {
    proxy.closeAllConnections();
    proxy.close();
    origin.close();
    rmSync(folder, { recursive: true });
  });

  async function get(env: Record<string, string>, url: string): Promise<string> {
    asked.length = 0;
    const agents = new HttpAgents(TIMEOUTS, env);
    try {
      const dispatcher = await agents.get(
        { authorities: 'quick', insecure: true, tls: undefined },
        new URL(url).hostname,
      );
      return await (await request(url, { dispatcher })).body.text();
    } finally {
      await agents.close();
    }
  }

  test('is asked for registries, with its own credentials, in either spelling of its variables', async () => {
    assert.equal(await get({ HTTPS_PROXY: proxyUrl }, 'https://registry.test/v2/'), 'origin');
    assert.deepEqual(asked, ['CONNECT registry.test:443']);
    assert.equal(await get({ http_proxy: proxyUrl }, 'http://registry.test:5000/v2/'), 'plain');
    const credentials = Buffer.from('user:secret').toString('base64');
    assert.deepEqual(asked, [`GET http://registry.test:5000/v2/ Basic ${credentials}`]);
  });

  test('is not asked for hosts in NO_PROXY, and never for this machine', async () => {
    const own = `https://127.0.0.1:${originPort}/`;
    assert.equal(await get({ HTTPS_PROXY: proxyUrl }, own), 'origin');
    await assert.rejects(
      get({ HTTPS_PROXY: proxyUrl, NO_PROXY: '.test' }, 'https://registry.test/'),
      /ENOTFOUND|EAI_AGAIN/,
    );
    assert.deepEqual(asked, []);
  });

  test('is not asked for addresses in the ranges of NO_PROXY', async () => {
    const other = `https://127.0.0.2:${originPort}/`;
    assert.equal(await get({ HTTPS_PROXY: proxyUrl }, other), 'origin');
    await assert.rejects(get({ HTTPS_PROXY: proxyUrl, NO_PROXY: '10.0.0.0/8, 127.0.0.0/8' }, other), /ECONNREFUSED/);
    assert.deepEqual(asked, []);
  });

  test('is known to be passed by for what NO_PROXY and this machine have', () => {
    const agents = new HttpAgents(TIMEOUTS, {
      HTTPS_PROXY: proxyUrl,
      NO_PROXY: '.own.test, 10.0.0.0/8,exact.test:5000',
    });
    const direct = ['a.own.test', 'own.test', '10.1.2.3', 'exact.test', 'localhost', '[::1]', '127.0.0.1'];
    assert.deepEqual(
      [...direct, 'other.test', 'disown.test', '192.0.2.1'].filter((host) => agents.goesDirect(host)),
      direct,
    );
    assert.ok(new HttpAgents(TIMEOUTS, {}).goesDirect('other.test'));
  });

  test('that is no URL is told of by its variable', async () => {
    await assert.rejects(get({ HTTPS_PROXY: 'not a proxy' }, 'https://registry.test/'), {
      kind: 'precondition',
      message: /HTTPS_PROXY/,
    });
  });
});

suite('a pool with a dead connection', () => {
  test('is not used again once it is forgotten', async () => {
    const agents = new HttpAgents(TIMEOUTS, {});
    try {
      const choice = { authorities: 'quick', insecure: true, tls: undefined } as const;
      const [first, other] = [await agents.get(choice), await agents.get({ ...choice, insecure: false })];
      await agents.forget(first);
      assert.notEqual(await agents.get(choice), first);
      assert.equal(await agents.get({ ...choice, insecure: false }), other);
    } finally {
      await agents.close();
    }
  });
});
