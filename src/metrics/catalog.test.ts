import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';

import { listPipelines } from '../pod/pipelines.ts';
import { CATALOG, type MetricSpec, renderMetricsTable } from './catalog.ts';
import { by, PrometheusMetrics } from './prometheus.ts';

const SPECS = Object.entries<MetricSpec>(CATALOG);

test('names, units and labels are as Prometheus wants them', () => {
  for (const [name, { type, help, labels, buckets }] of SPECS) {
    assert.match(name, /^berth(_[a-z0-9]+)+$/, name);
    assert.equal(name.endsWith('_total'), type === 'counter', `${name}: _total is for counters`);
    assert.doesNotMatch(name, /_(count|sum|bucket|info_total|gauge|counter|histogram)$/, name);
    // Base units alone: promtool check metrics has the same list.
    assert.doesNotMatch(
      name,
      /_(ms|millis|milliseconds|us|microseconds|nanoseconds|minutes|hours|days|kb|mb|gb|kib|mib|gib|percent|ratio_percent)(_|$)/,
      name,
    );
    if (type === 'histogram') assert.match(name, /_(seconds|bytes)$/, name);
    if (/duration|timestamp/.test(name)) assert.match(name, /_seconds$/, name);
    assert.match(help, /^[A-Z01].*\.$/, name);
    assert.ok(!help.includes('|'), name);
    for (const label of Object.keys(labels)) {
      assert.match(label, /^[a-z][a-z0-9_]*$/, name);
      // What is one of many pods, images, users or times would grow for ever.
      assert.doesNotMatch(
        label,
        /^(le|quantile|id|uid|pod|namespace|container|sandbox|image|path|error|message)$/,
        name,
      );
    }
    const series = Object.values(labels).reduce(
      (product, values) => product * ('values' in values ? values.values.length : values.upTo + 1),
      1,
    );
    assert.ok(series <= 30_000, `${name} may have ${series} series`);
    assert.equal(buckets !== undefined, type === 'histogram', name);
    assert.deepEqual(
      buckets,
      buckets?.toSorted((a, b) => a - b),
      name,
    );
  }
});

test('what labels say is bounded, whatever rooms report', async () => {
  const metrics = new PrometheusMetrics();
  for (let n = 0; n < 3000; n += 1) {
    metrics.meter.process(`program-${n}`, 'internal', 0.1);
    metrics.meter.rpcBegan(`Method${n}`);
    metrics.meter.rpc(`Method${n}`, 'internal', 0.1);
    metrics.meter.step(`pipeline ${n}`, `step ${n}`, 'internal', 0.1);
    metrics.meter.errand({ of: 'network', plugin: `plugin-${n}`, verb: `VERB${n}` }, 'internal', 0.1);
    metrics.meter.errand({ of: 'runtime', handler: `handler-${n}`, verb: 'start' }, 'ok', 0.1);
    metrics.meter.containerCreated(`handler-${n}`);
  }
  metrics.watch({
    berth_sandboxes: () =>
      by(
        'state',
        Array.from({ length: 500 }, (_, n) => [`state ${n}`, 1]),
      ),
  });
  const { text } = await metrics.scrape();
  const counted = new Map<string, number>();
  for (const [, name = ''] of text.matchAll(/^(berth_\w+?)(?:_count)?\{(?!.*le=)/gm))
    counted.set(name, (counted.get(name) ?? 0) + 1);
  assert.equal(counted.get('berth_process_errors_total'), 51);
  assert.equal(counted.get('berth_rpc_total'), 101);
  assert.equal(counted.get('berth_sandboxes'), 1);
  assert.match(text, /^berth_sandboxes\{state="other"\} 500$/m);
  assert.match(text, /^berth_process_errors_total\{program="other",kind="internal"\} 2950$/m);
  assert.match(text, /^berth_rpc_in_flight\{method="other"\} 0$/m);
  assert.ok(text.length < 3_000_000, `${text.length} characters`);
});

test('what is counted by words that are known begins with 0, so that an alert sees the first', async () => {
  const { text } = await new PrometheusMetrics().scrape();
  for (const line of [
    'berth_image_pull_failures_total{reason="no-space"} 0',
    'berth_config_reloads_total{outcome="refused"} 0',
    'berth_container_exits_total{class="oom"} 0',
    'berth_container_monitors_lost_total 0',
  ])
    assert.ok(text.includes(`\n${line}\n`), line);
  assert.doesNotMatch(text, /^berth_(rpc_errors|cni_errors)_total\{/m);
});

test('the calls and steps that there are have room', () => {
  const { pipeline, step } = CATALOG.berth_step_duration_seconds.labels as MetricSpec['labels'];
  const pipelines = listPipelines();
  assert.ok(pipeline && 'upTo' in pipeline && pipelines.length * 1.5 < pipeline.upTo);
  const steps = new Set(pipelines.flatMap((one) => one.steps.map(({ name }) => name)));
  assert.ok(step && 'upTo' in step && steps.size * 1.2 < step.upTo, `${steps.size} steps`);
});

test('what is gone leaves the scrape, and what nobody knows yet is not in it', async () => {
  const metrics = new PrometheusMetrics();
  const states = new Map([['ready', 1]]);
  let images: number | undefined;
  metrics.watch({
    berth_sandboxes: () => by('state', states),
    berth_images: () => images,
    berth_streams: () => 2,
    berth_doctor_findings: () => undefined,
  });
  const first = (await metrics.scrape()).text;
  assert.match(first, /berth_sandboxes\{state="ready"\} 1/);
  assert.doesNotMatch(first, /^berth_images/m);
  states.clear();
  images = 3;
  const second = (await metrics.scrape()).text;
  assert.doesNotMatch(second, /berth_sandboxes\{/);
  assert.match(second, /^berth_images 3$/m);
});

test('docs/metrics.md has the table of all metrics', () => {
  const text = readFileSync(new URL('../../docs/metrics.md', import.meta.url), 'utf8');
  assert.ok(text.includes(`\n${renderMetricsTable()}\n`), 'run: npm run generate');
});
