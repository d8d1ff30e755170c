import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { request } from 'node:http';
import { after, before, describe as suite, test } from 'node:test';

import { RuntimeServiceService as runtime, UpdateContainerResourcesRequest } from '../../proto/gen/cri/api.ts';
import { CATALOG, type MetricSpec } from '../../src/metrics/catalog.ts';
import { PodLab } from '../harness/pod-lab.ts';

/** Prometheus' own opinion, where it is installed. */
function hasPromtool(): boolean {
  try {
    execFileSync('promtool', ['--version'], { stdio: 'ignore', timeout: 30_000 });
    return true;
  } catch {
    return false;
  }
}

async function scrapeSocket(socketPath: string): Promise<string> {
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  request({ socketPath, path: '/metrics', agent: false }, (response) => {
    let text = '';
    response.setEncoding('utf8').on('data', (part: string) => {
      text += part;
    });
    response.once('end', () => resolve(text));
  })
    .once('error', reject)
    .end();
  return await promise;
}

suite('metrics of a berthd', { timeout: 900_000 }, () => {
  let lab: PodLab;
  before(async () => {
    lab = await PodLab.start({ config: '[metrics]\nlisten = "127.0.0.1:0"' });
  });
  after(async () => await lab.close());

  test('every metric of the catalog is there, and a pod leaves its figures', async () => {
    const podSandboxId = await lab.runPod(lab.podConfig());
    const containerId = await lab.create(podSandboxId);
    await lab.berthd.call(runtime.startContainer, { containerId });
    const linux = { cpuShares: 512n };
    const update = UpdateContainerResourcesRequest.create({ containerId, linux });
    await lab.berthd.call(runtime.updateContainerResources, update);
    await lab.berthd.call(runtime.stopContainer, { containerId, timeout: 0n });
    const text = await lab.berthd.metrics();
    for (const [name, { type }] of Object.entries<MetricSpec>(CATALOG))
      assert.match(text, new RegExp(`^# TYPE ${name} ${type}$`, 'm'));
    for (const line of [
      /^berth_build_info\{version="[^"]+",node="v24[^"]*"\} 1$/m,
      /^berth_rpc_total\{method="RunPodSandbox"\} 1$/m,
      /^berth_rpc_in_flight\{method="RunPodSandbox"\} 0$/m,
      /^berth_step_duration_seconds_count\{pipeline="RunPodSandbox",step="[^"]+"\} 1$/m,
      /^berth_sandboxes\{state="ready"\} 1$/m,
      /^berth_containers\{state="exited"\} 1$/m,
      /^berth_containers_created_total\{handler="[^"]+"\} 1$/m,
      /^berth_container_exits_total\{class="signal"\} 1$/m,
      /^berth_runtime_duration_seconds_count\{handler="[^"]+",verb="update"\} 1$/m,
      /^berth_cni_plugin_duration_seconds_count\{plugin="bridge",verb="ADD"\} 1$/m,
      /^berth_cni_duration_seconds_count\{verb="ADD"\} 1$/m,
      /^berth_cni_network_usable 1$/m,
      /^berth_runtime_handler_usable\{handler="[^"]+"\} 1$/m,
      /^berth_runtime_handler_default\{handler="[^"]+"\} 1$/m,
      /^berth_processes_defunct \d+$/m,
      /^berth_database_bytes\{file="main"\} [1-9]\d+$/m,
      /^berth_reconcile_items\{what="orphans"\} 0$/m,
      /^berth_lock_waiters\{lock="pod"\} 0$/m,
    ])
      assert.match(text, line);
    if (!hasPromtool()) return;
    // What is not Berth's is prom-client's, which promtool does not like in all.
    const own = text.replaceAll(/^(?:# \w+ )?berth_(?:nodejs|process_(?!duration|errors|running))\w*.*\n/gm, '');
    assert.equal(execFileSync('promtool', ['check', 'metrics'], { input: own, encoding: 'utf8' }), '');
  });
});

test('on a unix socket', { timeout: 900_000 }, async () => {
  const socket = '/run/berth-test-metrics.sock';
  const lab = await PodLab.start({ config: `[metrics]\nsocket = "${socket}"` });
  try {
    assert.match(await scrapeSocket(socket), /^berth_images \d+$/m);
  } finally {
    await lab.close();
  }
});
