/** How stops behave that meet each other, or a container that does not care: facts of the peers that clients rely on. */

import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, describe as suite, test } from 'node:test';

import { status } from '@grpc/grpc-js';

import {
  ContainerState,
  ListContainersRequest,
  NamespaceMode,
  RuntimeServiceService as runtime,
} from '../../proto/gen/cri/api.ts';
import { findProgram } from '../../src/runtime/handlers.ts';
import { type ContainerFields, eventually, readLog } from '../harness/cri-lab.ts';
import { isAlive } from '../harness/machine-state.ts';
import { SOON_MS } from '../harness/patience.ts';
import { PodLab } from '../harness/pod-lab.ts';

const script = (text: string): ContainerFields => ({ command: ['/bin/sh', '-c', text] });
const NEVER_ENDS = 'while :; do sleep 0.02; done';
/** Writes down each TERM that it gets. */
const COUNTS = `trap 'echo TERM' TERM; echo ready; ${NEVER_ENDS}`;

suite('stops', { timeout: 900_000 }, () => {
  let lab: PodLab;
  before(async () => {
    lab = await PodLab.start();
  });
  afterEach(async (t) => await lab.afterTest(t));
  after(async () => await lab.close());

  const stop = async (containerId: string, timeout: bigint): Promise<unknown> =>
    await lab.berthd.call(runtime.stopContainer, { containerId, timeout });
  const wordsOf = async (id: string): Promise<string[]> =>
    readLog((await lab.status(id)).logPath).map(({ text }) => text);

  test('the signal is sent once, however many ask; less time hastens the end, more does not put it off', async () => {
    const id = await lab.startReady(await lab.runPod(), script(COUNTS));
    const startedMs = performance.now();
    const first = stop(id, 100n);
    await eventually('the signal came', async () => (await wordsOf(id)).includes('TERM') || undefined);
    const all = Promise.all([first, stop(id, 1n), stop(id, 110n)]);
    await all;
    assert.ok(performance.now() - startedMs < SOON_MS);
    const { exitCode, state } = await lab.status(id);
    assert.deepEqual([exitCode, state], [137, ContainerState.CONTAINER_EXITED]);
    assert.deepEqual(await wordsOf(id), ['ready', 'TERM']);
  });

  test('no time at all: killed without the signal', async () => {
    const id = await lab.startReady(await lab.runPod(), script(COUNTS));
    await stop(id, 0n);
    assert.deepEqual([(await lab.status(id)).exitCode, await wordsOf(id)], [137, ['ready']]);
  });

  test('a stop that waits blocks no list, status or exec, and goes on when its client leaves', async () => {
    const pod = await lab.runPod();
    const id = await lab.startReady(pod, script(COUNTS));
    const leave = new AbortController();
    const request = { containerId: id, timeout: 10n };
    const left = lab.berthd.connection.fails(runtime.stopContainer, request, { signal: leave.signal });
    await eventually('the signal came', async () => (await wordsOf(id)).includes('TERM') || undefined);
    leave.abort();
    assert.equal((await left).code, status.CANCELLED);
    // Before the stop is over.
    const { containers } = await lab.berthd.call(runtime.listContainers, ListContainersRequest.create(), 9_000);
    assert.deepEqual([containers.length, containers[0]?.state], [1, ContainerState.CONTAINER_RUNNING]);
    assert.equal(await lab.exec(id, 'echo', 'still'), 'still');
    assert.equal((await lab.ended(id)).exitCode, 137);
  });

  test('a stop that is cut off by the end of berthd is asked for again, and works', async () => {
    const id = await lab.startReady(await lab.runPod(), script(COUNTS));
    const cut = stop(id, 60n).catch(() => {});
    await eventually('the signal came', async () => (await wordsOf(id)).includes('TERM') || undefined);
    await lab.berthd.end('SIGKILL');
    await cut;
    await lab.berthd.start();
    assert.equal((await lab.status(id)).state, ContainerState.CONTAINER_RUNNING);
    await stop(id, 1n);
    assert.equal((await lab.status(id)).exitCode, 137);
  });

  test("commands in a container end with it, also where the pod's processes are shared", async () => {
    const shared = { namespaceOptions: { pid: NamespaceMode.POD } };
    const pod = await lab.runPod(lab.podConfig({ linux: { cgroupParent: lab.cgroupParent, securityContext: shared } }));
    const id = await lab.startReady(pod, { ...script(COUNTS), linux: { securityContext: shared } });
    const cmd = ['/bin/sh', '-c', 'echo $$ > /dev/shm/pid; sleep 1234.25'];
    const exec = lab.berthd
      .call(runtime.execSync, { containerId: id, cmd, timeout: 0n }, 100_000)
      .catch(() => undefined);
    await eventually('it runs', async () => (await lab.tryExec(id, 'cat', '/dev/shm/pid')).exitCode === 0 || undefined);
    await stop(id, 0n);
    await exec;
    const { cgroup } = await lab.podInfo(pod);
    assert.notEqual(cgroup, '');
    const other = await lab.start(pod, { ...script(NEVER_ENDS), linux: { securityContext: shared } });
    assert.doesNotMatch(await lab.exec(other, 'ps'), /1234\.25/);
  });

  test('the containers of a pod are ended side by side, and none of them is left', async () => {
    const pod = await lab.runPod();
    const stubborn = await Promise.all(Array.from({ length: 4 }, () => lab.startReady(pod, script(COUNTS))));
    const pids = await Promise.all(stubborn.map(async (id) => (await lab.info(id)).pid));
    await lab.berthd.call(runtime.stopPodSandbox, { podSandboxId: pod }, SOON_MS);
    assert.deepEqual(pids.filter(isAlive), []);
    for (const id of stubborn) assert.equal((await lab.status(id)).exitCode, 137);
  });
});

suite('a runtime that may not kill', { timeout: 900_000 }, () => {
  let folder: string;
  let lab: PodLab;
  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'berth-denied-'));
    const wrapper = join(folder, 'denied-runc');
    // As a profile of AppArmor does it, to runc and not to berthd: the container's user is not the runtime's.
    const denied = 'setpriv --bounding-set=-kill --inh-caps=-kill';
    const runc = findProgram('runc');
    writeFileSync(
      wrapper,
      `#!/bin/sh\ncase " $* " in *" delete "*) exec ${denied} ${runc} "$@";; esac\nexec ${runc} "$@"\n`,
      {
        mode: 0o755,
      },
    );
    lab = await PodLab.start({
      config: `[runtime]\ndefault_runtime = "denied"\n[runtime.handlers.denied]\npath = "${wrapper}"`,
    });
  });
  afterEach(async (t) => await lab.afterTest(t));
  after(async () => {
    await lab.close();
    rmSync(folder, { recursive: true });
  });

  test('is helped: what runs is killed for it, and removed', async () => {
    const pod = await lab.runPod();
    const id = await lab.start(pod, {
      ...script(NEVER_ENDS),
      linux: { securityContext: { runAsUser: { value: 1000n } } },
    });
    const { pid } = await lab.info(id);
    await lab.berthd.call(runtime.removeContainer, { containerId: id });
    await eventually('its process has ended', () => !isAlive(pid) || undefined);
    const { containers } = await lab.berthd.call(runtime.listContainers, ListContainersRequest.create());
    assert.deepEqual(containers, []);
  });
});
