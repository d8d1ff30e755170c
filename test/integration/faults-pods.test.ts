/** Faults at every step of what happens to pods: errors, hangs, and the end of berthd. */

import assert from 'node:assert/strict';
import { after, before, describe as suite, type TestContext, test } from 'node:test';

import {
  NamespaceMode,
  type PodSandboxConfig,
  PodSandboxState,
  PodSandboxStatusRequest,
  RunPodSandboxRequest,
  RuntimeServiceService as runtime,
  UpdatePodSandboxResourcesRequest,
} from '../../proto/gen/cri/api.ts';
import { listPipelines } from '../../src/pod/pipelines.ts';
import { UPDATE_PLACES } from '../../src/pod/update-resources.ts';
import { FaultTrials, type Scene } from '../harness/fault-trials.ts';
import { FaultFolder } from '../harness/faults.ts';
import { PodLab } from '../harness/pod-lab.ts';

suite('faults of pods', () => {
  let faults: FaultFolder;
  let lab: PodLab;
  let trials: FaultTrials;
  before(async () => {
    faults = new FaultFolder();
    lab = await PodLab.start({ environment: faults.environment });
    trials = new FaultTrials({ lab, faults, outlines: listPipelines() }, { limitMs: 100_000, scenes: 4 });
  });
  after(async () => {
    await lab.close();
    faults[Symbol.dispose]();
  });

  const run = async (t: TestContext, scene: Scene<PodContext>): Promise<void> => {
    t.diagnostic(JSON.stringify(await trials.run(scene)));
  };
  const onHost = { namespaceOptions: { network: NamespaceMode.NODE, pid: NamespaceMode.CONTAINER } };
  const hostPod = (): PodSandboxConfig =>
    lab.podConfig({ linux: { cgroupParent: lab.cgroupParent, securityContext: onHost } });
  /** What the request would make, or has made. */
  interface PodContext {
    readonly config: PodSandboxConfig;
    id: string;
  }
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
    await run(t, {
      name: 'RunPodSandbox',
      pipelines: ['RunPodSandbox'],
      prepare: async () => ({ config: lab.podConfig(), id: '' }),
      ask: runPod,
      verify: isReady,
    });
  });

  test('StopPodSandbox', async (t) => {
    await run(t, {
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
    await run(t, {
      name: 'RemovePodSandbox',
      pipelines: ['RemovePodSandbox', 'RemoveContainer'],
      prepare: async () => {
        const context = await ready(hostPod());
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
    await run(t, {
      name: 'UpdatePodSandboxResources',
      pipelines: [],
      places: [UPDATE_PLACES[1]],
      prepare: async () => await ready(hostPod()),
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
