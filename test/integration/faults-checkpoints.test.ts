/** Faults at every step of a checkpoint, with a runtime that stands in for CRIU. */

import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe as suite, test } from 'node:test';

import {
  CheckpointContainerRequest,
  NamespaceMode,
  RuntimeServiceService as runtime,
} from '../../proto/gen/cri/api.ts';
import { listPipelines } from '../../src/pod/pipelines.ts';
import { buildCriuRuntime } from '../fakes/criu-runtime.ts';
import { FaultTrials } from '../harness/fault-trials.ts';
import { FaultFolder } from '../harness/faults.ts';
import { PodLab } from '../harness/pod-lab.ts';

suite('faults of checkpoints', () => {
  let folder: string;
  let faults: FaultFolder;
  let lab: PodLab;
  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'berth-fault-checkpoints-'));
    const { path, binDir } = buildCriuRuntime(join(folder, 'criu'));
    faults = new FaultFolder();
    lab = await PodLab.start({
      config: `[runtime]\ndefault_runtime = "criu"\n[runtime.handlers.criu]\npath = "${path}"`,
      environment: { ...faults.environment, PATH: `${binDir}:${process.env['PATH'] ?? ''}` },
    });
  });
  after(async () => {
    await lab.close();
    faults[Symbol.dispose]();
    rmSync(folder, { recursive: true });
  });

  test('CheckpointContainer', async (t) => {
    const trials = new FaultTrials({ lab, faults, outlines: listPipelines() }, { limitMs: 60_000, scenes: 1 });
    const location = join(folder, 'checkpoint.tar');
    const counts = await trials.run({
      name: 'CheckpointContainer',
      pipelines: ['Checkpoint'],
      // reconcile.ts lets containers go on at once, whatever else has to be undone.
      endedAtOnce: ['Checkpoint'],
      // A dump and an archive are as good as those say that make them.
      trusted: ['criu-runc', 'tar'],
      async prepare() {
        const securityContext = { namespaceOptions: { network: NamespaceMode.NODE, pid: NamespaceMode.CONTAINER } };
        const pod = await lab.runPod(lab.podConfig({ linux: { cgroupParent: lab.cgroupParent, securityContext } }));
        return await lab.start(pod);
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
          readdirSync(folder).filter((name) => name !== 'criu'),
          ['checkpoint.tar'],
        );
        assert.equal(await lab.exec(containerId, 'echo', 'runs'), 'runs');
      },
      clean: async () => rmSync(location),
    });
    t.diagnostic(JSON.stringify(counts));
  });
});
