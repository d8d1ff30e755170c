import assert from 'node:assert/strict';
import { test } from 'node:test';

import { silentLogger } from '../base/log.ts';
import { MetricsServer } from './metrics-server.ts';
import { PrometheusMetrics } from './prometheus.ts';

test('GET /metrics shows what rooms reported and what is there now', async () => {
  const metrics = new PrometheusMetrics();
  metrics.watch({
    sandboxes: () => new Map([['ready', 2]]),
    containers: () => new Map([['running', 3]]),
    images: () => 4,
    pulls: () => [
      { layers: [] },
      {
        layers: [
          { phase: 'downloading', bytesTotal: 100, bytesDone: 30 },
          { phase: 'done', bytesTotal: 50, bytesDone: 50 },
        ],
      },
    ],
    layers: () => ({ count: 7, bytes: 900 }),
  });
  metrics.meter.rpc('RunPodSandbox', 'ok', 0.04);
  metrics.meter.rpc('RunPodSandbox', 'invalid', 0.001);
  metrics.meter.pull('ok', 1234, 2);
  const server = new MetricsServer(metrics, silentLogger);
  const port = await server.listen('127.0.0.1', 0);
  try {
    const answer = await fetch(`http://127.0.0.1:${port}/metrics`);
    const text = await answer.text();
    assert.equal(answer.status, 200);
    assert.match(text, /^berth_rpc_total\{method="RunPodSandbox"\} 2$/m);
    assert.match(text, /^berth_rpc_errors_total\{method="RunPodSandbox",kind="invalid"\} 1$/m);
    assert.match(text, /^berth_rpc_duration_seconds_bucket\{le="0.05",method="RunPodSandbox"\} 2$/m);
    assert.match(text, /^berth_image_pull_bytes_total 1234$/m);
    assert.match(text, /^berth_sandboxes\{state="ready"\} 2$/m);
    assert.match(text, /^berth_containers\{state="running"\} 3$/m);
    assert.match(text, /^berth_images 4$/m);
    assert.match(text, /^berth_image_pulls_in_flight 2$/m);
    assert.match(text, /^berth_image_pull_bytes_left 70$/m);
    assert.match(text, /^berth_image_layers_in_flight\{state="downloading"\} 1$/m);
    assert.match(text, /^berth_image_layers_in_flight\{state="waiting"\} 0$/m);
    assert.doesNotMatch(text, /state="done"/);
    assert.match(text, /^berth_image_layers 7$/m);
    assert.match(text, /^berth_image_layers_bytes 900$/m);
  } finally {
    await server.close();
  }
});

test('a state that no longer occurs leaves the scrape', async () => {
  const metrics = new PrometheusMetrics();
  const states = new Map([['ready', 1]]);
  const rest = {
    containers: () => new Map(),
    images: () => 0,
    pulls: () => [],
    layers: () => ({ count: 0, bytes: 0 }),
  };
  metrics.watch({ sandboxes: () => states, ...rest });
  assert.match((await metrics.scrape()).text, /berth_sandboxes\{state="ready"\} 1/);
  states.clear();
  assert.doesNotMatch((await metrics.scrape()).text, /berth_sandboxes\{/);
});

test('other paths and methods are refused', async () => {
  const server = new MetricsServer(new PrometheusMetrics(), silentLogger);
  const port = await server.listen('127.0.0.1', 0);
  try {
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
