import assert from 'node:assert/strict';
import { copyFileSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { request as plainRequest } from 'node:http';
import { type RequestOptions, request as tlsRequest } from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe as suite, test } from 'node:test';

import { hasOpenssl, makeCertificate } from '../../test/fakes/certificates.ts';
import { silentLogger } from '../base/log.ts';
import { TlsFiles } from '../base/tls-files.ts';
import { MetricsServer } from './metrics-server.ts';
import { by, PrometheusMetrics } from './prometheus.ts';

async function ask(options: RequestOptions): Promise<{ status: number; text: string }> {
  const { promise, resolve, reject } = Promise.withResolvers<{ status: number; text: string }>();
  const send = options.ca ? tlsRequest : plainRequest;
  const request = send(options, (response) => {
    let text = '';
    response.setEncoding('utf8').on('data', (part: string) => {
      text += part;
    });
    response.once('end', () => resolve({ status: response.statusCode ?? 0, text }));
  });
  request.once('error', reject).end();
  return await promise;
}

suite('metrics over the network', () => {
  let folder: string;
  before(() => {
    folder = mkdtempSync(join(tmpdir(), 'berth-metrics-'));
  });
  after(() => rmSync(folder, { recursive: true }));

  test('GET /metrics shows what rooms reported and what is there now', async () => {
    const metrics = new PrometheusMetrics();
    metrics.watch({ berth_sandboxes: () => by('state', [['ready', 2]]), berth_images: () => 4 });
    metrics.meter.rpcBegan('RunPodSandbox');
    metrics.meter.rpc('RunPodSandbox', 'ok', 0.04);
    metrics.meter.rpcBegan('RunPodSandbox');
    metrics.meter.rpc('RunPodSandbox', 'invalid', 0.001);
    metrics.meter.rpcBegan('PullImage');
    metrics.meter.pull('ok', 1234, 2);
    metrics.meter.containerExited('oom');
    metrics.meter.errand({ of: 'network', plugin: 'bridge', verb: 'ADD' }, 'internal', 0.2);
    const server = new MetricsServer(metrics, silentLogger);
    const port = await server.listen('127.0.0.1', 0);
    try {
      const answer = await fetch(`http://127.0.0.1:${port}/metrics`);
      const text = await answer.text();
      assert.equal(answer.status, 200);
      assert.match(text, /^berth_rpc_total\{method="RunPodSandbox"\} 2$/m);
      assert.match(text, /^berth_rpc_errors_total\{method="RunPodSandbox",kind="invalid"\} 1$/m);
      assert.match(text, /^berth_rpc_duration_seconds_bucket\{le="0.05",method="RunPodSandbox"\} 2$/m);
      assert.match(text, /^berth_rpc_in_flight\{method="RunPodSandbox"\} 0$/m);
      assert.match(text, /^berth_rpc_in_flight\{method="PullImage"\} 1$/m);
      assert.match(text, /^berth_image_pull_bytes_total 1234$/m);
      assert.match(text, /^berth_container_exits_total\{class="oom"\} 1$/m);
      assert.match(text, /^berth_containers_oom_killed_total 1$/m);
      assert.match(text, /^berth_cni_plugin_errors_total\{plugin="bridge",verb="ADD",kind="internal"\} 1$/m);
      assert.match(text, /^berth_sandboxes\{state="ready"\} 2$/m);
      assert.match(text, /^berth_images 4$/m);
      assert.equal((await fetch(`http://127.0.0.1:${port}/`)).status, 404);
      assert.equal((await fetch(`http://127.0.0.1:${port}/metrics`, { method: 'POST' })).status, 405);
    } finally {
      await server.close();
    }
  });

  test('a taken address is named in the error', async () => {
    const first = new MetricsServer(new PrometheusMetrics(), silentLogger);
    const port = await first.listen('127.0.0.1', 0);
    try {
      const second = new MetricsServer(new PrometheusMetrics(), silentLogger);
      await assert.rejects(second.listen('127.0.0.1', port), { message: `[metrics] listen 127.0.0.1:${port}` });
    } finally {
      await first.close();
    }
  });

  test('a unix socket has the same, for root and its group; what a dead process left is replaced', async () => {
    const socketPath = join(folder, 'metrics.sock');
    for (let round = 0; round < 2; round += 1) {
      const server = new MetricsServer(new PrometheusMetrics(), silentLogger);
      await server.listenOn(socketPath);
      assert.equal(statSync(socketPath).mode & 0o777, 0o660);
      const { status, text } = await ask({ socketPath, path: '/metrics', agent: false });
      assert.equal(status, 200);
      assert.match(text, /^berth_process_resident_memory_bytes \d/m);
      await assert.rejects(new MetricsServer(new PrometheusMetrics(), silentLogger).listenOn(socketPath), {
        kind: 'precondition',
      });
      await server.close();
    }
  });

  test('with TLS: a rotated certificate is used for who connects after it was noticed; clients must show theirs', {
    skip: hasOpenssl() ? false : 'openssl, which makes the certificates, is not installed',
  }, async () => {
    const [one, two, client] = ['one', 'two', 'client'].map((name) => makeCertificate(folder, name)) as [
      { cert: string; key: string },
      { cert: string; key: string },
      { cert: string; key: string },
    ];
    const [cert, key] = [join(folder, 'tls.crt'), join(folder, 'tls.key')];
    const put = (from: { cert: string; key: string }): void => {
      copyFileSync(from.cert, cert);
      copyFileSync(from.key, key);
    };
    put(one);
    const tls = new TlsFiles('metrics', { cert, key, clientCa: client.cert }, silentLogger);
    const server = new MetricsServer(new PrometheusMetrics(), silentLogger);
    const port = await server.listen('127.0.0.1', 0, tls);
    const own = { cert: readFileSync(client.cert), key: readFileSync(client.key) };
    const scrape = async (ca: string, shown: object = own) =>
      await ask({ host: '127.0.0.1', port, path: '/metrics', agent: false, ca: readFileSync(ca), ...shown });
    try {
      assert.equal((await scrape(one.cert)).status, 200);
      assert.ok(tls.endsAt && tls.endsAt.getTime() > Date.now());
      await assert.rejects(scrape(one.cert, {}));
      put(two);
      // Whoever connects first finds the old one, and has it looked at.
      for (let tries = 0; !(await scrape(two.cert).catch(() => undefined)); tries += 1) assert.ok(tries < 100);
      await assert.rejects(scrape(one.cert), /self-signed|unable to verify/i);
    } finally {
      await server.close();
    }
  });

  test('a certificate that is none is named', async () => {
    const bad = new URL(import.meta.url).pathname;
    const tls = new TlsFiles('metrics', { cert: bad, key: bad, clientCa: '' }, silentLogger);
    await assert.rejects(new MetricsServer(new PrometheusMetrics(), silentLogger).listen('127.0.0.1', 0, tls), {
      kind: 'precondition',
    });
  });
});
