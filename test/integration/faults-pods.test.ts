/** Faults at every step of what happens to pods: errors, hangs, and the end of berthd. */

import assert from 'node:assert/strict';
import { after, before, describe as suite, test } from 'node:test';

import {
  type PodSandboxConfig,
  PodSandboxState,
  PodSandboxStatusRequest,
  RunPodSandboxRequest,
  RuntimeServiceService as runtime,
  UpdatePodSandboxResourcesRequest,
} from '../../proto/gen/cri/api.ts';
import { UPDATE_PLACES } from '../../src/pod/update-resources.ts';
import { FaultLab } from '../harness/fault-lab.ts';
import type { PodLab } from '../harness/pod-lab.ts';

/** What the request would make, or has made. */
interface PodContext {
  readonly config: PodSandboxConfig;
  id: string;
}

suite('faults of pods', () => {
  let faultLab: FaultLab;
  let lab: PodLab;
  before(async () => {
    faultLab = await FaultLab.start({ limitMs: 110_000, scenes: 4 });
    lab = faultLab.lab;
  });
  after(async () => await faultLab.close());

  const runPod = async (context: PodContext, timeoutMs?: number): Promise<void> => {
    const request = RunPodSandboxRequest.create({ config: context.config });
    context.id = (await lab.berthd.call(runtime.runPodSandbox, request, timeoutMs)).podSandboxId;
  };
  const stateOf = async (podSandboxId: string): Promise<PodSandboxState | undefined> =>
    (await lab.berthd.call(runtime.podSandboxStatus, PodSandboxStatusRequest.create({ podSandboxId }))).status?.state;
  const ready = async (config: PodSandboxConfig): Promise<PodContext> => {
    const context = { config, id: '' };
    await runPod(context);
    return context;
  };
  const isReady = async ({ id }: PodContext): Promise<void> => {
    assert.equal(await stateOf(id), PodSandboxState.SANDBOX_READY);
    assert.equal((await lab.berthd.call(runtime.listPodSandbox, { filter: undefined })).items.length, 1);
  };

  test('RunPodSandbox', async (t) => {
    await faultLab.run(t, {
      name: 'RunPodSandbox',
      pipelines: ['RunPodSandbox'],
      prepare: async () => ({ config: lab.podConfig(), id: '' }),
      ask: runPod,
      verify: isReady,
    });
  });

  test('StopPodSandbox', async (t) => {
    await faultLab.run(t, {
      name: 'StopPodSandbox',
      pipelines: ['StopPodSandbox'],
      trusted: ['bridge', 'portmap'],
      prepare: async () => {
        const context = await ready(lab.podConfig());
        await lab.start(context.id);
        return context;
      },
      ask: async ({ id }, timeoutMs) => await lab.berthd.call(runtime.stopPodSandbox, { podSandboxId: id }, timeoutMs),
      verify: async ({ id }) => assert.equal(await stateOf(id), PodSandboxState.SANDBOX_NOTREADY),
    });
  });

  test('RemovePodSandbox', async (t) => {
    await faultLab.run(t, {
      name: 'RemovePodSandbox',
      pipelines: ['RemovePodSandbox', 'RemoveContainer'],
      prepare: async () => {
        const context = await ready(faultLab.hostPod());
        await lab.start(context.id);
        await lab.berthd.call(runtime.stopPodSandbox, { podSandboxId: context.id });
        return context;
      },
      ask: async ({ id }, timeoutMs) =>
        await lab.berthd.call(runtime.removePodSandbox, { podSandboxId: id }, timeoutMs),
      verify: async () => lab.berthd.assertNoTraces(),
    });
  });

  test('UpdatePodSandboxResources', async (t) => {
    const limits = { cpuShares: 512n, memoryLimitInBytes: 256n * 1024n * 1024n };
    await faultLab.run(t, {
      name: 'UpdatePodSandboxResources',
      pipelines: [],
      places: [UPDATE_PLACES[1]],
      prepare: async () => await ready(faultLab.hostPod()),
      async ask({ id }, timeoutMs) {
        const request = UpdatePodSandboxResourcesRequest.create({ podSandboxId: id, resources: limits });
        await lab.berthd.call(runtime.updatePodSandboxResources, request, timeoutMs);
      },
      async verify({ id }) {
        assert.match((await lab.podStatus(id, true)).info['info'] ?? '', /"memoryLimitBytes":268435456/);
        assert.equal(await lab.exec(await lab.start(id), 'echo', 'runs'), 'runs');
      },
    });
  });
});
