import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, describe as suite, test } from 'node:test';

import { findCrictl } from '../harness/crictl.ts';
import { CrictlLab } from './crictl/lab.ts';

const found = findCrictl();
const openssl = ['/usr/bin/openssl'].find((path) => existsSync(path));

/** Why this machine cannot run them. */
function reason(): string | false {
  if ('missing' in found) return found.missing;
  return openssl === undefined ? 'openssl, which makes the certificates, is not installed' : false;
}

suite('crictl where streams need certificates', { skip: reason(), timeout: 900_000 }, () => {
  let folder: string;
  let lab: CrictlLab;
  const file = (name: string): string => join(folder, name);
  const own = (name: string): string[] => ['--tls-cert', file(`${name}.crt`), '--tls-key', file(`${name}.key`)];

  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'berth-tls-'));
    for (const name of ['servers', 'clients', 'strangers']) makeAuthority(folder, name);
    sign(folder, 'server', 'servers', 'subjectAltName = IP:127.0.0.1, DNS:localhost');
    sign(folder, 'client', 'clients', 'extendedKeyUsage = clientAuth');
    sign(folder, 'stranger', 'strangers', 'extendedKeyUsage = clientAuth');
    const stream = ['[stream]', `tls_cert = "${file('server.crt')}"`, `tls_key = "${file('server.key')}"`];
    lab = await CrictlLab.start('path' in found ? found.path : '', {
      config: [...stream, `tls_client_ca = "${file('clients.crt')}"`].join('\n'),
    });
  });
  afterEach(() => lab.afterTest());
  after(async () => {
    await lab.close();
    rmSync(folder, { recursive: true });
  });

  for (const transport of ['spdy', 'websocket']) {
    test(`exec over ${transport} works with both certificates, and with no other`, async () => {
      const { container } = await lab.pod('web');
      const exec = (...options: string[]) =>
        lab.say('exec', '--transport', transport, ...options, container, 'id', '-un');
      const ca = ['--tls-ca', file('servers.crt')];
      assert.deepEqual(await exec(...ca, ...own('client')), { code: 0, stdout: 'user\n', stderr: '' });
      const refused = [
        await exec(...ca, ...own('stranger')),
        await exec('--tls-ca', file('strangers.crt'), ...own('client')),
        await exec(...ca, ...own('client'), '--tls-server-name', 'elsewhere.example'),
      ];
      for (const { code, stdout, stderr } of refused) {
        assert.notEqual(code, 0);
        assert.equal(stdout, '');
        // A client that the server does not know is cut off without a word.
        assert.match(stderr, /certificate|EOF|reset/);
      }
    });
  }
});

/** Makes a certificate that signs others. */
function makeAuthority(folder: string, name: string): void {
  const files = ['-keyout', join(folder, `${name}.key`), '-out', join(folder, `${name}.crt`)];
  run(['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2', ...files], name);
}

/** Makes a certificate and has an authority sign it. */
function sign(folder: string, name: string, authority: string, extensions: string): void {
  const path = (suffix: string): string => join(folder, `${name}.${suffix}`);
  const files = ['-keyout', path('key'), '-out', path('csr')];
  run(['req', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', ...files], name);
  writeFileSync(path('ext'), `${extensions}\n`);
  const by = ['-CA', join(folder, `${authority}.crt`), '-CAkey', join(folder, `${authority}.key`), '-CAcreateserial'];
  run(['x509', '-req', '-days', '2', '-in', path('csr'), '-out', path('crt'), '-extfile', path('ext'), ...by]);
}

function run(args: readonly string[], subject?: string): void {
  const own = subject === undefined ? [] : ['-subj', `/CN=${subject}`];
  execFileSync(openssl ?? '', [...args, ...own], { stdio: ['ignore', 'ignore', 'pipe'], timeout: 30_000 });
}
