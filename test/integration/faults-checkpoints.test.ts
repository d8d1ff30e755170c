/** Faults at every step of a checkpoint, with a runtime that stands in for CRIU. */

import assert from 'node:assert/strict';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe as suite, test } from 'node:test';

import { status as grpc, type ServiceError } from '@grpc/grpc-js';

import {
  CheckpointContainerRequest,
  CheckpointPodRequest,
  ListContainersRequest,
  type PodSandboxConfig,
  RestorePodRequest,
  RuntimeServiceService as runtime,
} from '../../proto/gen/cri/api.ts';
import { buildCriuRuntime } from '../fakes/criu-runtime.ts';
import { eventually } from '../harness/cri-lab.ts';
import { FaultLab } from '../harness/fault-lab.ts';
import type { PodLab } from '../harness/pod-lab.ts';

suite('faults of checkpoints', () => {
  let folder: string;
  let out: string;
  let faultLab: FaultLab;
  let lab: PodLab;
  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'berth-fault-checkpoints-'));
    out = join(folder, 'pod');
    const { path, binDir } = buildCriuRuntime(join(folder, 'criu'));
    faultLab = await FaultLab.start(
      { limitMs: 120_000, scenes: 3 },
      {
        config: `[runtime]\ndefault_runtime = "criu"\n[runtime.handlers.criu]\npath = "${path}"`,
        environment: { PATH: `${binDir}:${process.env['PATH'] ?? ''}` },
      },
    );
    lab = faultLab.lab;
  });
  after(async () => {
    await faultLab.close();
    rmSync(folder, { recursive: true });
  });

  test('CheckpointContainer', async (t) => {
    const location = join(folder, 'checkpoint.tar');
    await faultLab.run(t, {
      name: 'CheckpointContainer',
      pipelines: ['Checkpoint'],
      // reconcile.ts lets containers go on at once, whatever else has to be undone.
      endedAtOnce: ['Checkpoint'],
      // A dump and an archive are as good as those say that make them.
      trusted: ['criu-runc', 'tar'],
      async prepare() {
        return await lab.start(await lab.runPod(faultLab.hostPod()));
      },
      async ask(containerId, timeoutMs) {
        const request = CheckpointContainerRequest.create({ containerId, location });
        await lab.berthd.call(runtime.checkpointContainer, request, timeoutMs);
      },
      async again(containerId) {
        // One that came to its end for a client that had left is what that one wanted.
        if (existsSync(location)) return;
        await lab.berthd.call(
          runtime.checkpointContainer,
          CheckpointContainerRequest.create({ containerId, location }),
        );
      },
      async verify(containerId) {
        assert.ok(existsSync(location));
        assert.deepEqual(
          readdirSync(folder).filter((name) => name !== 'criu' && name !== 'pod'),
          ['checkpoint.tar'],
        );
        assert.equal(await lab.exec(containerId, 'echo', 'runs'), 'runs');
      },
      clean: async () => rmSync(location),
    });
  });

  /** A checkpoint of a pod with one container. */
  const checkpointPod = async (podSandboxId: string, timeoutMs?: number): Promise<void> => {
    const request = CheckpointPodRequest.create({ podSandboxId, outputPath: out });
    await lab.berthd.call(runtime.checkpointPod, request, timeoutMs);
  };
  const isWhole = (): true | undefined => readdirSync(out).sort().join() === 'main.tar,pod.json' || undefined;
  const podToDump = async (): Promise<{ pod: string; id: string }> => {
    rmSync(out, { recursive: true, force: true });
    mkdirSync(out);
    const pod = await lab.runPod(faultLab.hostPod());
    return { pod, id: await lab.start(pod, { metadata: { name: 'main' } }) };
  };

  test('CheckpointPod', async (t) => {
    await faultLab.run(t, {
      name: 'CheckpointPod',
      pipelines: ['Checkpoint'],
      endedAtOnce: ['Checkpoint'],
      trusted: ['criu-runc', 'tar'],
      prepare: podToDump,
      ask: async ({ pod }, timeoutMs) => await checkpointPod(pod, timeoutMs),
      async again({ pod }) {
        // It takes an empty folder, or it has been here.
        if (readdirSync(out).length === 0) await checkpointPod(pod);
      },
      async verify({ id }) {
        // An earlier request may be about to write it.
        await eventually('it is whole', isWhole);
        assert.equal(await lab.exec(id, 'echo', 'runs'), 'runs');
      },
    });
  });

  test('a CheckpointPod that is repeated waits for the first, also when that has files in the folder', async () => {
    const { pod, id } = await podToDump();
    const hang = faultLab.faults.arm({ place: 'Checkpoint/pack', phase: 'after', action: 'hang' });
    const first = checkpointPod(pod);
    await eventually('files are there', () => (hang.hasStruck && isWhole()) || undefined);
    const repeated = checkpointPod(pod);
    // Whoever is refused is told so at once.
    const early = checkpointPod(pod, 2_000).then(
      () => 'done',
      (err: unknown) => (err as ServiceError).code,
    );
    assert.equal(await early, grpc.DEADLINE_EXCEEDED);
    hang.release();
    await Promise.all([first, repeated]);
    assert.ok(isWhole());
    assert.equal(await lab.exec(id, 'echo', 'runs'), 'runs');
    await lab.removePod(pod);
  });

  test('RestorePod', async (t) => {
    const restore = async (config: PodSandboxConfig, timeoutMs?: number): Promise<void> => {
      const { config: container } = lab.containerRequest('', { metadata: { name: 'main' } });
      const containerConfigs = container ? [container] : [];
      const request = RestorePodRequest.create({ checkpointPath: out, config, containerConfigs });
      await lab.berthd.call(runtime.restorePod, request, timeoutMs);
    };
    const pods = async (): Promise<string[]> =>
      (await lab.berthd.call(runtime.listPodSandbox, { filter: undefined })).items.map(({ id }) => id);
    await faultLab.run(t, {
      name: 'RestorePod',
      pipelines: ['RunPodSandbox', 'CreateContainer'],
      prepare: async () => {
        const { pod } = await podToDump();
        await checkpointPod(pod);
        await lab.removePod(pod);
        return faultLab.hostPod();
      },
      ask: restore,
      async again(config) {
        // A pod of which not all has come back is no pod: its client makes it anew. An earlier request may be at its end.
        await eventually('it can be restored', async () => {
          for (const pod of await pods()) await lab.removePod(pod);
          const failure = await restore(config).then(
            () => undefined,
            (err: unknown) => err as ServiceError,
          );
          if (failure && failure.code !== grpc.ALREADY_EXISTS) throw failure;
          return failure ? undefined : true;
        });
      },
      async verify() {
        const { containers } = await lab.berthd.call(runtime.listContainers, ListContainersRequest.create());
        assert.equal((await pods()).length, 1);
        assert.equal(containers.length, 1);
        const [{ id = '' } = {}] = containers;
        await lab.berthd.call(runtime.startContainer, { containerId: id });
        assert.equal(await lab.exec(id, 'echo', 'runs'), 'runs');
      },
    });
  });
});
