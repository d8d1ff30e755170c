import assert from 'node:assert/strict';
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, describe as suite, test } from 'node:test';

import { hasOpenssl, makeCertificate } from '../../../test/fakes/certificates.ts';
import { SpdyClient } from '../../../test/fakes/spdy-client.ts';
import { runCommand } from '../../../test/fakes/stream-client.ts';
import { systemClock } from '../../base/clock.ts';
import { describe } from '../../base/errors.ts';
import { type Logger, silentLogger } from '../../base/log.ts';
import { TlsFiles } from '../../base/tls-files.ts';
import type { PodStreams } from '../../pod/pod-streams.ts';
import { StreamServer } from './stream-server.ts';

const EXEC = {
  kind: 'exec',
  containerId: 'c',
  command: ['true'],
  tty: false,
  stdin: false,
  stdout: true,
  stderr: true,
} as const;

const pods: Pick<PodStreams, 'exec' | 'attach' | 'portForward'> = {
  exec: async () => 0,
  attach: async () => {},
  portForward: async () => {},
};

suite('streams with TLS', {
  skip: hasOpenssl() ? false : 'openssl, which makes the certificates, is not installed',
}, () => {
  let dir: string;
  let one: { cert: string; key: string };
  let two: { cert: string; key: string };
  let server: StreamServer | undefined;
  const warnings: string[] = [];
  const log: Logger = { ...silentLogger, warn: ({ cert, err }) => void (cert && warnings.push(String(err))) };

  before(() => {
    dir = mkdtempSync(join(tmpdir(), 'berth-tls-'));
    one = makeCertificate(dir, 'one');
    two = makeCertificate(dir, 'two');
  });
  afterEach(async () => await server?.close());
  after(() => rmSync(dir, { recursive: true }));

  async function serve(clientCa = ''): Promise<StreamServer> {
    copyFileSync(one.cert, join(dir, 'tls.crt'));
    copyFileSync(one.key, join(dir, 'tls.key'));
    const tls = new TlsFiles('stream', { cert: join(dir, 'tls.crt'), key: join(dir, 'tls.key'), clientCa }, log);
    server = new StreamServer({ target: pods, log, clock: systemClock, tls });
    assert.match(await server.listen('127.0.0.1', 0), /^https:\/\/127\.0\.0\.1:\d+$/);
    return server;
  }

  async function connect(url: string, ca: string, own?: { cert: string; key: string }): Promise<void> {
    const client = await SpdyClient.connect(url, ['v4.channel.k8s.io'], {
      ca: readFileSync(ca),
      ...(own ? { cert: readFileSync(own.cert), key: readFileSync(own.key) } : {}),
    });
    client.vanish();
    await client.closed;
  }

  test('a new certificate is used as soon as it is there, a half-written one never', async () => {
    const serving = await serve();
    await connect(await serving.urlFor(EXEC), one.cert);
    copyFileSync(two.cert, join(dir, 'tls.crt'));
    await connect(await serving.urlFor(EXEC), one.cert);
    await connect(await serving.urlFor(EXEC), one.cert);
    assert.equal(warnings.length, 1);
    assert.match(warnings[0] ?? '', /key values mismatch/);
    copyFileSync(two.key, join(dir, 'tls.key'));
    await connect(await serving.urlFor(EXEC), two.cert);
    rmSync(join(dir, 'tls.key'));
    await connect(await serving.urlFor(EXEC), two.cert);
    assert.equal(warnings.length, 2);
  });

  test('with a CA for clients, only those that it signed are served', async () => {
    const serving = await serve(two.cert);
    await connect(await serving.urlFor(EXEC), one.cert, two);
    await assert.rejects(
      connect(await serving.urlFor(EXEC), one.cert),
      /certificate required|ECONNRESET|socket hang up/i,
    );
    await assert.rejects(connect(await serving.urlFor(EXEC), one.cert, one));
  });

  test('a client without TLS is not served', async () => {
    const serving = await serve();
    await assert.rejects(runCommand((await serving.urlFor(EXEC)).replace('https:', 'http:'), 'spdy'));
  });

  test('a certificate that cannot be read keeps the server from starting', async () => {
    writeFileSync(join(dir, 'no.crt'), 'no certificate');
    for (const cert of [join(dir, 'no.crt'), join(dir, 'missing.crt')]) {
      const tls = new TlsFiles('stream', { cert, key: one.key, clientCa: '' }, log);
      const broken = new StreamServer({ target: pods, log, clock: systemClock, tls });
      await assert.rejects(broken.listen('127.0.0.1', 0), (err) => {
        assert.match(describe(err), new RegExp(`stream\\.tls_cert.*${cert}: `));
        return true;
      });
    }
  });
});
