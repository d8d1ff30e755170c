/**
 * `npm run dashboard`: a berthd under load, scraped by Debian's Prometheus for some minutes; then each expression of the
 * Grafana dashboard is evaluated on what was scraped, and the panels are drawn from it.
 */

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';

import {
  ImageServiceService as images,
  ListContainerStatsRequest,
  ListContainersRequest,
  ListPodSandboxRequest,
  PullImageRequest,
  RuntimeServiceService as runtime,
} from '../../proto/gen/cri/api.ts';
import { hostArchitecture } from '../fakes/images.ts';
import { FakeRegistry, fakeImage } from '../fakes/registry.ts';
import { tarBytes } from '../fakes/tar-bytes.ts';
import { PodLab } from '../harness/pod-lab.ts';
import { type DrawnPanel, drawDashboard } from './draw.ts';
import { Prometheus } from './prometheus.ts';
import { readDashboard } from './read-dashboard.ts';

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '180' },
    out: { type: 'string', default: 'docs/dashboard.svg' },
    help: { type: 'boolean', default: false },
  },
});
if (values.help) {
  process.stdout.write('usage: npm run dashboard -- [--seconds 180] [--out docs/dashboard.svg]\n');
  process.exit(0);
}

const ALERTS = new URL('../../deploy/prometheus/alerts.yml', import.meta.url).pathname;
/** What Grafana would take for a graph of some minutes. */
const RATE_INTERVAL = '15s';
const STEPS = 70;
const PODS_AT_A_TIME = 2;

/** Pods come, do something, are asked about, and go, until `endMs`. */
async function podsComeAndGo(lab: PodLab, endMs: number): Promise<void> {
  for (let round = 0; Date.now() < endMs; round += 1) {
    const podSandboxId = await lab.runPod(lab.podConfig());
    const containerId = await lab.create(podSandboxId);
    await lab.berthd.call(runtime.startContainer, { containerId });
    await lab.berthd.call(runtime.execSync, { containerId, cmd: ['sh', '-c', 'sleep 1'], timeout: 20n });
    await lab.berthd.call(runtime.stopContainer, { containerId, timeout: 0n });
    if (round % 3 === 0) continue;
    await lab.removePod(podSandboxId);
  }
}

/** A kubelet's questions. */
async function askNowAndThen(lab: PodLab, endMs: number): Promise<void> {
  while (Date.now() < endMs) {
    await lab.berthd.call(runtime.listPodSandbox, ListPodSandboxRequest.create());
    const { containers } = await lab.berthd.call(runtime.listContainers, ListContainersRequest.create());
    await lab.berthd.call(runtime.listContainerStats, ListContainerStatsRequest.create());
    // It may have gone meanwhile.
    for (const { id } of containers.slice(0, 3))
      await lab.berthd.call(runtime.containerStatus, { containerId: id, verbose: false }).catch(() => undefined);
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
}

/** Images that share a layer, and now and then one that is not there. */
async function pullNowAndThen(lab: PodLab, registry: FakeRegistry, endMs: number): Promise<void> {
  const shared = tarBytes([{ name: 'etc/' }, { name: 'etc/shared', data: randomBytes(500_000).toString('hex') }]);
  for (let round = 0; Date.now() < endMs; round += 1) {
    const own = tarBytes([{ name: 'etc/' }, { name: `etc/${round}`, data: randomBytes(300_000).toString('hex') }]);
    const layers = [shared, own].map((tar) => tar.toString('latin1'));
    registry.add('app', fakeImage(layers, { architecture: hostArchitecture }), `v${round}`);
    const pull = (tag: string) =>
      lab.berthd.call(images.pullImage, PullImageRequest.create({ image: { image: `${registry.host}/app:${tag}` } }));
    await pull(`v${round}`);
    if (round % 4 === 3) await assert.rejects(pull('missing'));
    await new Promise((resolve) => setTimeout(resolve, 4000));
  }
}

async function evaluate(
  prometheus: Prometheus,
  times: { fromSeconds: number; toSeconds: number },
): Promise<DrawnPanel[]> {
  const { fromSeconds, toSeconds } = times;
  const drawn: DrawnPanel[] = [];
  for (const panel of readDashboard().panels) {
    const series: DrawnPanel['series'][number][] = [];
    for (const { expr, legendFormat } of panel.targets ?? []) {
      const expression = expr.replaceAll('$instance', '.*').replaceAll('$__rate_interval', RATE_INTERVAL);
      const step = (toSeconds - fromSeconds) / STEPS;
      for (const one of await prometheus.range(expression, fromSeconds, toSeconds, step)) {
        const name = legendFormat.replaceAll(/\{\{(\w+)\}\}/g, (_, label: string) => one.labels[label] ?? '').trim();
        series.push({ ...one, name });
      }
    }
    if (panel.type !== 'row') assert.ok(series.length > 0, `panel ${panel.title} shows nothing`);
    drawn.push({ panel, series });
  }
  return drawn;
}

const registry = await FakeRegistry.start();
const lab = await PodLab.start({ config: '[metrics]\nlisten = "127.0.0.1:0"' });
try {
  const port = readFileSync(lab.berthd.logFile, 'utf8').match(/"port":(\d+),"msg":"metrics are served"/)?.[1];
  await using prometheus = await Prometheus.start(`127.0.0.1:${port}`, ALERTS);
  const startedMs = Date.now();
  const endMs = startedMs + Number(values.seconds) * 1000;
  await Promise.all([
    ...Array.from({ length: PODS_AT_A_TIME }, () => podsComeAndGo(lab, endMs)),
    askNowAndThen(lab, endMs),
    pullNowAndThen(lab, registry, endMs),
  ]);
  assert.deepEqual(await prometheus.ruleProblems(), []);
  const times = { fromSeconds: startedMs / 1000 + 5, toSeconds: Date.now() / 1000 };
  const svg = drawDashboard('Berth', await evaluate(prometheus, times), times);
  writeFileSync(values.out, svg);
  process.stdout.write(`${values.out}: ${svg.length} bytes\n`);
} catch (err) {
  process.stderr.write(`berthd's log:\n${lab.berthd.log()}\n`);
  throw err;
} finally {
  await registry.close();
  await lab.close();
}
