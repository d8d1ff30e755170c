/** Faults at every step of what happens to containers: errors, hangs, and the end of berthd. */

import assert from 'node:assert/strict';
import { existsSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { after, before, describe as suite, test } from 'node:test';

import {
  ContainerState,
  type CreateContainerRequest,
  ListContainersRequest,
  RuntimeServiceService as runtime,
  UpdateContainerResourcesRequest,
} from '../../proto/gen/cri/api.ts';
import { REOPEN_PLACES } from '../../src/pod/container-operations.ts';
import { UPDATE_PLACES } from '../../src/pod/update-resources.ts';
import { eventually, readLog } from '../harness/cri-lab.ts';
import { FaultLab } from '../harness/fault-lab.ts';
import type { PodLab } from '../harness/pod-lab.ts';

/** A container, and the request that made it or shall make it. */
interface ContainerContext {
  readonly pod: string;
  readonly request: CreateContainerRequest;
  id: string;
}

suite('faults of containers', () => {
  let faultLab: FaultLab;
  let lab: PodLab;
  before(async () => {
    faultLab = await FaultLab.start({ limitMs: 120_000, scenes: 7 });
    lab = faultLab.lab;
  });
  after(async () => await faultLab.close());

  const inPod = async (): Promise<ContainerContext> => {
    const pod = await lab.runPod(faultLab.hostPod());
    const command = ['/bin/sh', '-c', 'trap "exit 5" TERM; while :; do sleep 0.02; done'];
    return { pod, request: lab.containerRequest(pod, { command }), id: '' };
  };
  const create = async (context: ContainerContext, timeoutMs?: number): Promise<void> => {
    context.id = (await lab.berthd.call(runtime.createContainer, context.request, timeoutMs)).containerId;
  };
  const start = async ({ id }: ContainerContext, timeoutMs?: number): Promise<unknown> =>
    await lab.berthd.call(runtime.startContainer, { containerId: id }, timeoutMs);
  const created = async (): Promise<ContainerContext> => {
    const context = await inPod();
    await create(context);
    return context;
  };
  const running = async (): Promise<ContainerContext> => {
    const context = await created();
    await start(context);
    return context;
  };
  const listed = async (): Promise<string[]> =>
    (await lab.berthd.call(runtime.listContainers, ListContainersRequest.create())).containers.map(({ id }) => id);
  const stateOf = async (id: string): Promise<ContainerState> => (await lab.status(id)).state;
  const runs = async ({ id }: ContainerContext): Promise<void> => {
    assert.equal(await stateOf(id), ContainerState.CONTAINER_RUNNING);
    assert.equal(await lab.exec(id, 'echo', 'runs'), 'runs');
  };

  test('CreateContainer', async (t) => {
    await faultLab.run(t, {
      name: 'CreateContainer',
      pipelines: ['CreateContainer'],
      prepare: inPod,
      ask: create,
      async verify(context) {
        assert.deepEqual(await listed(), [context.id]);
        await start(context);
        await runs(context);
      },
    });
  });

  test('StartContainer', async (t) => {
    await faultLab.run(t, {
      name: 'StartContainer',
      pipelines: ['StartContainer'],
      prepare: created,
      ask: start,
      /** As the kubelet does: one that runs all the same is taken, one that could not be started is made anew. */
      async again(context) {
        const state = await stateOf(context.id);
        if (state === ContainerState.CONTAINER_RUNNING) return;
        if (state !== ContainerState.CONTAINER_CREATED) {
          assert.equal((await lab.status(context.id)).reason, 'StartError');
          await lab.berthd.call(runtime.removeContainer, { containerId: context.id });
          await create(context);
        }
        // An earlier request may come to its end meanwhile.
        await start(context).catch(() => {});
      },
      verify: runs,
    });
  });

  test('StopContainer', async (t) => {
    await faultLab.run(t, {
      name: 'StopContainer',
      pipelines: [],
      async prepare() {
        const context = await running();
        const { pid } = await lab.info(context.id);
        // The first process of a PID namespace gets no SIGTERM before it has its trap: proc(5), bit 14 of SigCgt.
        await eventually('it has its trap', () => {
          const [, caught = '0'] = /^SigCgt:\s+(\w+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? [];
          return (BigInt(`0x${caught}`) & (1n << 14n)) !== 0n || undefined;
        });
        return context;
      },
      ask: async ({ id }, timeoutMs) =>
        await lab.berthd.call(runtime.stopContainer, { containerId: id, timeout: 10n }, timeoutMs),
      async verify({ id }) {
        const { state, exitCode, reason } = await lab.status(id);
        assert.deepEqual([state, exitCode, reason], [ContainerState.CONTAINER_EXITED, 5, 'Error']);
      },
    });
  });

  test('RemoveContainer', async (t) => {
    await faultLab.run(t, {
      name: 'RemoveContainer',
      pipelines: ['RemoveContainer'],
      prepare: running,
      ask: async ({ id }, timeoutMs) => await lab.berthd.call(runtime.removeContainer, { containerId: id }, timeoutMs),
      verify: async () => assert.deepEqual(await listed(), []),
    });
  });

  test('ExecSync', async (t) => {
    await faultLab.run(t, {
      name: 'ExecSync',
      pipelines: [],
      places: ['process exec-monitor'],
      prepare: running,
      async ask({ id }, timeoutMs) {
        const cmd = ['/bin/sh', '-c', 'echo out; exit 3'];
        const answer = await lab.berthd.call(runtime.execSync, { containerId: id, cmd, timeout: 20n }, timeoutMs);
        assert.deepEqual([answer.exitCode, Buffer.from(answer.stdout).toString()], [3, 'out\n']);
      },
      async verify(context) {
        await runs(context);
        assert.equal(await lab.exec(context.id, '/bin/sh', '-c', 'ps | grep -c "exit [3]" || true'), '0');
      },
    });
  });

  test('UpdateContainerResources', async (t) => {
    await faultLab.run(t, {
      name: 'UpdateContainerResources',
      pipelines: [],
      places: [UPDATE_PLACES[0]],
      prepare: running,
      ask: async ({ id }, timeoutMs) => {
        const request = UpdateContainerResourcesRequest.create({ containerId: id, linux: { cpuShares: 512n } });
        await lab.berthd.call(runtime.updateContainerResources, request, timeoutMs);
      },
      async verify(context) {
        assert.equal((await lab.status(context.id)).resources?.linux?.cpuShares, 512n);
        await runs(context);
      },
    });
  });

  test('ReopenContainerLog', async (t) => {
    await faultLab.run(t, {
      name: 'ReopenContainerLog',
      pipelines: [],
      places: REOPEN_PLACES,
      async prepare() {
        const { pod } = await inPod();
        const command = ['/bin/sh', '-c', 'trap "exit 5" TERM; while :; do echo line; sleep 0.02; done'];
        const id = await lab.start(pod, { command });
        const { logPath } = await lab.status(id);
        renameSync(logPath, `${logPath}.1`);
        return { id, logPath };
      },
      ask: async ({ id }, timeoutMs) =>
        await lab.berthd.call(runtime.reopenContainerLog, { containerId: id }, timeoutMs),
      async verify({ logPath }) {
        await eventually('it writes on', () => (existsSync(logPath) && readLog(logPath).length > 1) || undefined);
      },
      clean: async ({ logPath }) => rmSync(`${logPath}.1`),
    });
  });
});
