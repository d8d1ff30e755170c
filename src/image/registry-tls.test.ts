import assert from 'node:assert/strict';
import { copyFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer, type Server } from 'node:https';
import { type AddressInfo, createServer as createTcpServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, describe, it } from 'node:test';
import type { SecureVersion, TLSSocket } from 'node:tls';

import { hasOpenssl, makeAuthority, type TestAuthority } from '../../test/fakes/certificates.ts';
import { describe as chain } from '../base/errors.ts';
import { silentLogger } from '../base/log.ts';
import type { Credential } from './auth.ts';
import { digestOf } from './digest.ts';
import { parseReference } from './reference.ts';
import { Registries } from './registries.ts';
import { RegistryClient } from './registry-client.ts';

const signal = new AbortController().signal;
const bytes = Buffer.from('{"layers": []}');
const digest = digestOf(bytes);
const login: Credential = { kind: 'basic', username: 'me', password: 'SECRET', source: 'the test' };

/** The first byte of a TLS connection (RFC 8446, section 5.1). */
const TLS_HANDSHAKE = 22;

/** What one server has seen of its clients. */
interface Seen {
  readonly url: string;
  readonly client: string;
  readonly headers: IncomingMessage['headers'];
}

interface TlsServer {
  readonly host: string;
  readonly seen: Seen[];
  close(): void;
}

describe('registries with certificates', { skip: hasOpenssl() ? false : 'no openssl here' }, () => {
  let dir: string;
  let authority: TestAuthority;
  let server: { cert: string; key: string };
  let client: { cert: string; key: string };
  const servers: TlsServer[] = [];

  before(async () => {
    dir = await mkdtemp(join(tmpdir(), 'berth-registry-tls-'));
    authority = makeAuthority(dir, 'authority');
    [server, client] = [authority.sign('server'), authority.sign('the-client')];
  });

  after(async () => await rm(dir, { recursive: true }));

  afterEach(() => {
    for (const one of servers.splice(0)) one.close();
    for (const name of ['certs', 'hosts']) rmSync(join(dir, name), { recursive: true, force: true });
  });

  async function serve(
    answer: (req: IncomingMessage, res: ServerResponse) => void,
    options: { requireClient?: boolean } = {},
  ): Promise<TlsServer> {
    const seen: Seen[] = [];
    const https: Server = createServer(
      {
        cert: readFileSync(server.cert),
        key: readFileSync(server.key),
        ca: readFileSync(authority.cert),
        requestCert: true,
        rejectUnauthorized: options.requireClient === true,
      },
      (req, res) => {
        const peer = (req.socket as TLSSocket).getPeerCertificate();
        seen.push({ url: req.url ?? '', client: String(peer.subject?.CN ?? ''), headers: req.headers });
        answer(req, res);
      },
    );
    https.on('tlsClientError', () => {});
    await new Promise<void>((resolve) => https.listen(0, '127.0.0.1', resolve));
    const close = (): void => {
      https.closeAllConnections();
      https.close();
    };
    const made = { host: `127.0.0.1:${(https.address() as AddressInfo).port}`, seen, close };
    servers.push(made);
    return made;
  }

  /** Wants a client certificate, and answers plain HTTP with 400 on the same port, as Go's and nginx do. */
  async function serveBoth(maxVersion: SecureVersion): Promise<{ host: string; plain: () => number }> {
    let plain = 0;
    const secure = createServer(
      {
        cert: readFileSync(server.cert),
        key: readFileSync(server.key),
        ca: readFileSync(authority.cert),
        requestCert: true,
        rejectUnauthorized: true,
        maxVersion,
      },
      give,
    );
    secure.on('tlsClientError', () => {});
    const either = createTcpServer((socket) => {
      socket.on('error', () => {});
      socket.once('data', (first) => {
        socket.pause();
        socket.unshift(first);
        if (first[0] === TLS_HANDSHAKE) return void secure.emit('connection', socket);
        plain += 1;
        socket.end('HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n');
      });
    });
    await new Promise<void>((resolve) => either.listen(0, '127.0.0.1', resolve));
    const close = (): void => {
      secure.closeAllConnections();
      either.close();
    };
    const { port } = either.address() as AddressInfo;
    servers.push({ host: `127.0.0.1:${port}`, seen: [], close });
    return { host: `127.0.0.1:${port}`, plain: () => plain };
  }

  const give = (_req: IncomingMessage, res: ServerResponse): void => void res.end(bytes);

  function put(folder: string, files: Readonly<Record<string, string>>): void {
    mkdirSync(join(dir, folder), { recursive: true });
    for (const [name, from] of Object.entries(files)) copyFileSync(from, join(dir, folder, name));
  }

  async function fetch(
    host: string,
    credential?: Credential,
    { insecure = false, kept }: { insecure?: boolean; kept?: RegistryClient } = {},
  ): Promise<void> {
    const places = {
      conf: '',
      confDir: '',
      aliases: '',
      hostsDirs: [join(dir, 'hosts')],
      certsDirs: [join(dir, 'certs')],
    };
    const [found] = await new Registries(places, silentLogger).endpoints(parseReference(`${host}/app@${digest}`));
    assert.ok(found);
    const registry = kept ?? newClient();
    // What is on loopback need not be verified otherwise.
    const endpoint = { ...found, insecure };
    try {
      assert.deepEqual((await registry.manifest({ endpoint, credential }, digest, signal)).bytes, bytes);
    } finally {
      if (!kept) await registry.close();
    }
  }

  function newClient(): RegistryClient {
    const retry = { attempts: 1, firstWaitMs: 1, maxWaitMs: 1 };
    return new RegistryClient({ monotonicMs: () => performance.now(), retry });
  }

  it('trusts an authority of certs.d, and nobody without', async () => {
    const { host, seen } = await serve(give);
    await assert.rejects(fetch(host), (err) => /certificate/.test(chain(err)) && !/system-ca/.test(chain(err)));
    assert.equal(seen.length, 0);
    put(`certs/${host}`, { 'ca.crt': authority.cert });
    await fetch(host);
    assert.equal(seen[0]?.client, '');
  });

  it('trusts the authorities of the machine', async () => {
    const { host } = await serve(give);
    const before = process.env['SSL_CERT_FILE'];
    process.env['SSL_CERT_FILE'] = authority.cert;
    try {
      await fetch(host);
    } finally {
      if (before === undefined) delete process.env['SSL_CERT_FILE'];
      else process.env['SSL_CERT_FILE'] = before;
    }
  });

  it('shows a client certificate to the registry that it is for', async () => {
    const { host, seen } = await serve(give, { requireClient: true });
    put(`certs/${host}`, { 'ca.crt': authority.cert });
    await assert.rejects(fetch(host));
    put(`certs/${host}`, { 'me.cert': client.cert, 'me.key': client.key });
    await fetch(host);
    assert.equal(seen.at(-1)?.client, 'the-client');
  });

  for (const maxVersion of ['TLSv1.2', 'TLSv1.3'] as const) {
    it(`says in one line what a registry wants, and tries it again once it is there (${maxVersion})`, async () => {
      const { host, plain } = await serveBoth(maxVersion);
      const kept = newClient();
      try {
        const failure = async (): Promise<string> =>
          await fetch(host, undefined, { insecure: true, kept }).then(
            () => assert.fail('it needs a certificate'),
            (err: unknown) => chain(err),
          );
        for (const words of [await failure(), await failure()]) {
          assert.match(words, /client certificate.* put \*\.cert and \*\.key into .*\/certs\.d\/127\.0\.0\.1:\d+: /);
          assert.doesNotMatch(words, /openssl|routines|\n|status 400/);
        }
        put(`certs/${host}`, { 'ca.crt': authority.cert, 'me.cert': client.cert, 'me.key': client.key });
        await fetch(host, undefined, { insecure: true, kept });
        // Node's server sends an alert before TLS 1.3 only; after it, plain HTTP is not tried.
        if (maxVersion === 'TLSv1.2') assert.equal(plain(), 0);
      } finally {
        await kept.close();
      }
    });
  }

  it('names a certificate without key, and files that are no certificates', async () => {
    const { host } = await serve(give);
    put(`certs/${host}`, { 'me.cert': client.cert });
    await assert.rejects(fetch(host), /me\.cert is of no use without me\.key/);
    rmSync(join(dir, 'certs'), { recursive: true });
    mkdirSync(join(dir, 'certs', host), { recursive: true });
    writeFileSync(join(dir, 'certs', host, 'x.crt'), 'SECRET');
    await assert.rejects(fetch(host), /x\.crt is no certificate or key in PEM$/);
    writeFileSync(join(dir, 'certs', host, 'x.crt'), '-----BEGIN CERTIFICATE-----\nSECRET\n-----END CERTIFICATE-----');
    await assert.rejects(fetch(host), (err) => /x\.crt/.test(chain(err)) && !chain(err).includes('SECRET'));
  });

  it('shows neither certificate nor headers nor password to where it is redirected', async () => {
    const storage = await serve(give);
    const { host, seen } = await serve((req, res) => {
      if (req.headers.authorization === undefined) {
        res.writeHead(401, { 'www-authenticate': 'Basic realm="x"' }).end();
      } else res.writeHead(307, { location: `https://${storage.host}/elsewhere` }).end();
    });
    put(`hosts/${host}`, { 'ca.crt': authority.cert, 'me.cert': client.cert, 'me.key': client.key });
    writeFileSync(
      join(dir, 'hosts', host, 'hosts.toml'),
      'ca = "ca.crt"\nclient = [["me.cert", "me.key"]]\n[header]\nx-own = "SECRET"',
    );
    await fetch(host, login);
    assert.deepEqual(
      seen.map((one) => [one.client, one.headers['x-own']]),
      [
        ['the-client', 'SECRET'],
        ['the-client', 'SECRET'],
      ],
    );
    assert.deepEqual(
      storage.seen.map((one) => [one.url, one.client, one.headers['x-own'], one.headers.authorization]),
      [['/elsewhere', '', undefined, undefined]],
    );
  });

  it('shows no certificate to a token server elsewhere, and trusts it as the registry', async () => {
    const tokens = await serve((_req, res) => void res.end(JSON.stringify({ token: 'good' })));
    const { host, seen } = await serve((req, res) => {
      if (req.headers.authorization === 'Bearer good') return give(req, res);
      const realm = `https://localhost:${tokens.host.split(':')[1]}/token`;
      res.writeHead(401, { 'www-authenticate': `Bearer realm="${realm}",service="s"` }).end();
    });
    put(`certs/${host}`, { 'ca.crt': authority.cert, 'me.cert': client.cert, 'me.key': client.key });
    await fetch(host, login);
    assert.equal(seen[1]?.client, 'the-client');
    assert.equal(tokens.seen[0]?.client, '');
    assert.match(tokens.seen[0]?.headers.authorization ?? '', /^Basic /);
  });
});
