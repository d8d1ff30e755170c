/** Facts about lookups, names, retries, stops and exits. */

import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';

import { status } from '@grpc/grpc-js';

import {
  ContainerState,
  ImageStatusRequest,
  ImageServiceService as images,
  ListContainersRequest,
  ListPodSandboxRequest,
  NamespaceMode,
  PodSandboxState,
  RemoveImageRequest,
  RunPodSandboxRequest,
  RuntimeServiceService as runtime,
  Signal,
} from '../../../proto/gen/cri/api.ts';
import { eventually } from '../../harness/cri-lab.ts';
import { isAlive } from '../../harness/machine-state.ts';
import { Server } from './server.ts';

const UNKNOWN = 'f'.repeat(64);
const script = (text: string) => ({ command: ['/bin/sh', '-c', text] });
let server: Server;

before(async () => {
  server = await Server.connect();
});
afterEach(async () => await server.removeAll());
// Without any fact that was asked for in this file there is none.
after(async () => await (server as Server | undefined)?.[Symbol.asyncDispose]());

test('fact 1: stopping and removing what is not there is success', async () => {
  const { connection } = server;
  await connection.call(runtime.stopPodSandbox, { podSandboxId: UNKNOWN });
  await connection.call(runtime.removePodSandbox, { podSandboxId: UNKNOWN });
  await connection.call(runtime.stopContainer, { containerId: UNKNOWN, timeout: 0n });
  await connection.call(runtime.removeContainer, { containerId: UNKNOWN });
  await connection.call(
    images.removeImage,
    RemoveImageRequest.create({ image: { image: 'registry.invalid/no/such:1' } }),
  );
});

test('fact 1: the status of what is not there is NotFound', async () => {
  const { connection } = server;
  const errors = [
    await connection.fails(runtime.podSandboxStatus, { podSandboxId: UNKNOWN, verbose: false }),
    await connection.fails(runtime.containerStatus, { containerId: UNKNOWN, verbose: false }),
    await connection.fails(runtime.containerStats, { containerId: UNKNOWN }),
  ];
  assert.deepEqual(
    errors.map(({ code }) => code),
    errors.map(() => status.NOT_FOUND),
  );
});

test('fact 2: the status of an image that is not there is an answer without an image', async () => {
  const request = ImageStatusRequest.create({ image: { image: 'registry.invalid/no/such:1' } });
  assert.equal((await server.connection.call(images.imageStatus, request)).image, undefined);
});

test('fact 4: the beginning of an id stands for it', async () => {
  const pod = await server.runPod();
  const container = await server.create(pod);
  assert.equal((await server.podStatus(pod.slice(0, 13))).status?.id, pod);
  assert.equal((await server.status(container.slice(0, 13))).id, container);
});

test('fact 5: stopping a container that does not run is success', async () => {
  const pod = await server.runPod();
  const created = await server.create(pod);
  await server.connection.call(runtime.stopContainer, { containerId: created, timeout: 1n });
  const { id } = await server.run(pod, script('exit 0'));
  await server.connection.call(runtime.stopContainer, { containerId: id, timeout: 1n });
});

test('fact 6: a container that runs can be removed', async () => {
  const pod = await server.runPod();
  const id = await server.start(pod);
  const pid = await server.pidOf(id);
  await server.connection.call(runtime.removeContainer, { containerId: id });
  assert.equal(isAlive(pid), false);
});

test('fact 7: the name of a removed container is free again', async () => {
  const pod = await server.runPod();
  for (let i = 0; i < 2; i++) {
    const id = await server.create(pod, { metadata: { name: 'same', attempt: 3 } });
    await server.connection.call(runtime.removeContainer, { containerId: id });
  }
});

test('fact 9: the same RunPodSandbox again gives the same sandbox', async () => {
  const config = server.podConfig();
  const request = RunPodSandboxRequest.create({ config, runtimeHandler: server.handler });
  const answers = await Promise.all([1, 2, 3].map(() => server.connection.call(runtime.runPodSandbox, request)));
  const late = await server.connection.call(runtime.runPodSandbox, request);
  assert.equal(new Set([...answers, late].map(({ podSandboxId }) => podSandboxId)).size, 1);
});

test('fact 9: the same CreateContainer at the same time gives one container', async () => {
  const pod = await server.runPod();
  const request = server.containerRequest(pod, { metadata: { name: 'twice' } });
  const [one, two] = await Promise.all([1, 2].map(() => server.connection.call(runtime.createContainer, request)));
  assert.equal(one?.containerId, two?.containerId);
});

test('fact 10: a creation whose client has left is there for its retry', async () => {
  const request = RunPodSandboxRequest.create({ config: server.podConfig(), runtimeHandler: server.handler });
  const left = server.connection.call(runtime.runPodSandbox, request, { signal: AbortSignal.timeout(5) });
  await left.catch(() => undefined);
  const { podSandboxId } = await server.connection.call(runtime.runPodSandbox, request);
  assert.equal((await server.podStatus(podSandboxId)).status?.state, PodSandboxState.SANDBOX_READY);
});

test("fact 16: the stop signal is the configuration's, then the image's", async () => {
  const pod = await server.runPod();
  const trap = 'trap "exit 11" USR1; trap "exit 12" USR2; trap "exit 13" TERM; while :; do sleep 0.05; done';
  await server.pull(server.facts.rich);
  const own = await server.start(pod, { ...script(trap), stopSignal: Signal.SIGNAL_SIGUSR2 });
  const ofImage = await server.start(pod, { ...script(trap), image: { image: server.facts.rich } });
  const plain = await server.start(pod, script(trap));
  const codes: number[] = [];
  for (const id of [own, ofImage, plain]) {
    await server.exec(id, 'true');
    await server.connection.call(runtime.stopContainer, { containerId: id, timeout: 10n });
    codes.push((await server.status(id)).exitCode);
  }
  assert.deepEqual(codes, [12, 11, 13]);
});

test('fact 17: a second stop with less time shortens the first', async () => {
  const pod = await server.runPod();
  const id = await server.start(pod, script('trap "" TERM; while :; do sleep 0.05; done'));
  await server.exec(id, 'true');
  const startedMs = performance.now();
  const first = server.connection.call(runtime.stopContainer, { containerId: id, timeout: 60n });
  await delay(100);
  await server.connection.call(runtime.stopContainer, { containerId: id, timeout: 1n });
  await first;
  assert.ok(performance.now() - startedMs < 15_000);
});

test('fact 18: a stop with no time kills', async () => {
  const pod = await server.runPod();
  const id = await server.start(pod, script('trap "" TERM; while :; do sleep 0.05; done'));
  await server.connection.call(runtime.stopContainer, { containerId: id, timeout: 0n });
  assert.equal((await server.status(id)).exitCode, 137);
});

test('fact 19: a stop goes on when its client has left', async () => {
  const pod = await server.runPod();
  const id = await server.start(pod, script('trap "" TERM; while :; do sleep 0.05; done'));
  await server.exec(id, 'true');
  const left = server.connection.call(
    runtime.stopContainer,
    { containerId: id, timeout: 1n },
    { signal: AbortSignal.timeout(100) },
  );
  await assert.rejects(left);
  assert.equal((await server.ended(id)).exitCode, 137);
});

test("fact 25: what a container on the host's processes started ends with it", async () => {
  const host = { namespaceOptions: { pid: NamespaceMode.NODE } };
  const pod = await server.runPod(server.podConfig({ linux: { securityContext: host } }));
  const id = await server.start(pod, {
    ...script('sleep 1234.5 & echo $! > /dev/shm/child; wait'),
    linux: { securityContext: host },
  });
  const child = Number(
    await eventually('the child is there', async () => {
      const { exitCode, text } = await server.tryExec(id, 'cat', '/dev/shm/child');
      return exitCode === 0 && text !== '' ? text : undefined;
    }),
  );
  assert.ok(isAlive(child));
  await server.connection.call(runtime.stopContainer, { containerId: id, timeout: 0n });
  await eventually('the child is gone', () => (isAlive(child) ? undefined : true));
});

test('facts 26, 81: a stopped pod is not ready, has no processes, and can be stopped and removed again', async () => {
  const pod = await server.runPod();
  const id = await server.start(pod);
  const pid = await server.pidOf(id);
  for (let i = 0; i < 2; i++) await server.connection.call(runtime.stopPodSandbox, { podSandboxId: pod });
  assert.equal((await server.podStatus(pod)).status?.state, PodSandboxState.SANDBOX_NOTREADY);
  assert.equal((await server.status(id)).state, ContainerState.CONTAINER_EXITED);
  assert.equal(isAlive(pid), false);
  for (let i = 0; i < 2; i++) await server.connection.call(runtime.removePodSandbox, { podSandboxId: pod });
  const { code } = await server.connection.fails(runtime.containerStatus, { containerId: id, verbose: false });
  assert.equal(code, status.NOT_FOUND);
});

test('fact 29: reasons of an end', async () => {
  const pod = await server.runPod();
  const limit = { linux: { resources: { memoryLimitInBytes: 16n << 20n, memorySwapLimitInBytes: 16n << 20n } } };
  const eat = 'dd if=/dev/zero of=/dev/shm/x bs=1M count=100';
  const ends = [
    await server.run(pod, script('exit 0')),
    await server.run(pod, script('exit 3')),
    await server.run(pod, { ...script(`exec ${eat}`), ...limit }),
  ];
  assert.deepEqual(
    ends.map(({ exitCode, reason }) => [exitCode, reason]),
    [
      [0, 'Completed'],
      [3, 'Error'],
      [137, 'OOMKilled'],
    ],
  );
});

test('fact 31: times of a life', async () => {
  const pod = await server.runPod();
  const id = await server.create(pod, script('exit 0'));
  const created = await server.status(id);
  assert.ok(created.createdAt > 0n);
  assert.deepEqual([created.startedAt, created.finishedAt], [0n, 0n]);
  await server.connection.call(runtime.startContainer, { containerId: id });
  const ended = await server.ended(id);
  assert.ok(ended.createdAt <= ended.startedAt && ended.startedAt <= ended.finishedAt);
});

test('fact 32: a death by signal n is 128 + n', async () => {
  // As process 1 of its own namespace it would be spared what it does not handle.
  const sharing = { securityContext: { namespaceOptions: { pid: NamespaceMode.POD } } };
  const pod = await server.runPod(server.podConfig({ linux: sharing }));
  const end = await server.run(pod, { command: ['/bin/sh', '-c', 'kill -TERM $$; sleep 10'], linux: sharing });
  assert.equal(end.exitCode, 143);
});

test('fact 33: out of memory in a child is told too, when the container ends', async () => {
  const pod = await server.runPod();
  const id = await server.start(pod, {
    ...script('dd if=/dev/zero of=/dev/shm/x bs=1M count=100 & wait $!; exit 5'),
    linux: { resources: { memoryLimitInBytes: 16n << 20n, memorySwapLimitInBytes: 16n << 20n } },
  });
  assert.equal((await server.ended(id)).reason, 'OOMKilled');
});

test('fact 34: a container is started once', async () => {
  const pod = await server.runPod();
  const id = await server.start(pod);
  const { code } = await server.connection.fails(runtime.startContainer, { containerId: id });
  assert.notEqual(code, status.OK);
  assert.equal((await server.status(id)).state, ContainerState.CONTAINER_RUNNING);
});

test('fact 34: a program that is not there fails the creation or the start, and the container can be removed', async () => {
  const pod = await server.runPod();
  const request = server.containerRequest(pod, { command: ['/no/such/program'] });
  const made = await server.connection.call(runtime.createContainer, request).catch(() => undefined);
  if (!made) return;
  await server.connection.fails(runtime.startContainer, { containerId: made.containerId });
  await server.connection.call(runtime.removeContainer, { containerId: made.containerId });
});

test('fact 101: labels and annotations come back as they were', async () => {
  const odd = { 'a.b/c': 'x', empty: '', sign: 'ü "quoted" \n newline', 'io.kubernetes.pod.name': 'p' };
  const config = server.podConfig({ labels: odd, annotations: odd });
  const pod = await server.runPod(config);
  const id = await server.create(pod, { labels: odd, annotations: odd });
  const podStatus = (await server.podStatus(pod)).status;
  const containerStatus = await server.status(id);
  for (const found of [podStatus?.labels, podStatus?.annotations, containerStatus.labels, containerStatus.annotations])
    assert.deepEqual({ ...found }, odd);
});

test('fact 102: filters narrow lists together', async () => {
  const label = { only: `here-${process.pid}` };
  const pod = await server.runPod(server.podConfig({ labels: label }));
  const other = await server.runPod();
  const running = await server.start(pod, { labels: label });
  await server.create(pod, { labels: label });
  const pods = async (filter: NonNullable<Parameters<typeof ListPodSandboxRequest.create>[0]>['filter']) => {
    const { items } = await server.connection.call(runtime.listPodSandbox, ListPodSandboxRequest.create({ filter }));
    return items.map(({ id }) => id);
  };
  const containers = async (filter: NonNullable<Parameters<typeof ListContainersRequest.create>[0]>['filter']) => {
    const request = ListContainersRequest.create({ filter });
    return (await server.connection.call(runtime.listContainers, request)).containers.map(({ id }) => id);
  };
  assert.deepEqual(await pods({ labelSelector: label }), [pod]);
  assert.deepEqual(await pods({ id: pod.slice(0, 13) }), [pod]);
  assert.deepEqual(await pods({ id: other, labelSelector: label }), []);
  const isRunning = { state: ContainerState.CONTAINER_RUNNING };
  assert.deepEqual(await containers({ podSandboxId: pod, state: isRunning }), [running]);
  assert.deepEqual(await containers({ labelSelector: label, state: { state: ContainerState.CONTAINER_EXITED } }), []);
  assert.equal((await containers({ podSandboxId: pod })).length, 2);
});
