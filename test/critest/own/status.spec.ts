/** Facts about networks, status, stats and events. */

import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';

import {
  type ContainerEventResponse,
  ContainerEventType,
  ContainerStatsRequest,
  ListContainerStatsRequest,
  NamespaceMode,
  PodSandboxStatsRequest,
  Protocol,
  RuntimeServiceService as runtime,
  StatusRequest,
  VersionRequest,
} from '../../../proto/gen/cri/api.ts';
import { eventually } from '../../harness/cri-lab.ts';
import { Server, WEB_SERVER } from './server.ts';

const script = (text: string) => ({ command: ['/bin/sh', '-c', text] });
let server: Server;

before(async () => {
  server = await Server.connect();
});
afterEach(async () => await server.removeAll());
// Without any fact that was asked for in this file there is none.
after(async () => await (server as Server | undefined)?.[Symbol.asyncDispose]());

test('fact 94: a port of the host leads to the pod', async () => {
  const hostPort = 20_000 + (process.pid % 10_000);
  const portMappings = [{ protocol: Protocol.TCP, containerPort: 8080, hostPort, hostIp: '' }];
  const pod = await server.runPod(server.podConfig({ portMappings }));
  const id = await server.start(pod, { command: [...WEB_SERVER] });
  await eventually('it listens', async () =>
    /:8080/.test(await server.exec(id, 'netstat', '-ltn')) ? true : undefined,
  );
  const own = (await server.podStatus(pod)).status?.network?.ip ?? '';
  const gateway = /via (\S+)/.exec(await server.exec(id, 'ip', 'route'))?.[1] ?? '';
  assert.equal(await (await fetch(`http://${own}:8080/`)).text(), 'page\n');
  assert.equal(await (await fetch(`http://${gateway}:${hostPort}/`)).text(), 'page\n');
});

test("fact 95: a pod has an address, one on the host's network none", async () => {
  assert.match(await server.ipOf(await server.runPod()), /^[0-9a-f.:]+$/);
  const securityContext = { namespaceOptions: { network: NamespaceMode.NODE } };
  const host = await server.runPod(server.podConfig({ linux: { securityContext } }));
  assert.equal(await server.ipOf(host), '');
});

test('fact 96: the default handler is there under its name and under none', async () => {
  const { status, runtimeHandlers } = await server.connection.call(runtime.status, StatusRequest.create());
  assert.deepEqual(status?.conditions.map(({ type, status }) => [type, status]).sort(), [
    ['NetworkReady', true],
    ['RuntimeReady', true],
  ]);
  assert.ok(runtimeHandlers.some(({ name }) => name === ''));
  assert.ok(runtimeHandlers.some(({ name }) => name !== ''));
});

test('a version tells the runtime and its API', async () => {
  const version = await server.connection.call(runtime.version, VersionRequest.create());
  assert.equal(version.runtimeApiVersion, 'v1');
  assert.ok(version.runtimeName !== '' && version.runtimeVersion !== '');
});

test('fact 97: a verbose status has pid and spec as JSON', async () => {
  const id = await server.start(await server.runPod());
  const { info } = await server.connection.call(runtime.containerStatus, { containerId: id, verbose: true });
  const facts = JSON.parse(info['info'] ?? '') as { pid: number; runtimeSpec: { process: { args: string[] } } };
  assert.ok(facts.pid > 1);
  assert.deepEqual(facts.runtimeSpec.process.args, ['sleep', '1000']);
});

test('fact 99: stats of a container and of its pod', async () => {
  const pod = await server.runPod();
  const id = await server.start(pod, script('dd if=/dev/zero of=/dev/shm/x bs=1M count=20; while :; do :; done'));
  const stats = await eventually(
    'its figures',
    async () => {
      const found = (
        await server.connection.call(runtime.containerStats, ContainerStatsRequest.create({ containerId: id }))
      ).stats;
      const used =
        (found?.memory?.workingSetBytes?.value ?? 0n) > 20n << 20n && (found?.cpu?.usageNanoCores?.value ?? 0n) > 0n;
      return used ? found : undefined;
    },
    40_000,
  );
  assert.ok((stats.cpu?.usageCoreNanoSeconds?.value ?? 0n) > 0n);
  assert.ok((stats.writableLayer?.fsId?.mountpoint ?? '') !== '');
  const podStats = (
    await server.connection.call(runtime.podSandboxStats, PodSandboxStatsRequest.create({ podSandboxId: pod }))
  ).stats;
  assert.equal(podStats?.linux?.network?.defaultInterface?.name, 'eth0');
  assert.ok((podStats.linux.process?.processCount?.value ?? 0n) >= 2n);
});

test('fact 99: a list of stats has only what runs', async () => {
  const pod = await server.runPod();
  const running = await server.start(pod);
  await server.create(pod);
  await server.run(pod, script('exit 0'));
  const request = ListContainerStatsRequest.create({ filter: { podSandboxId: pod } });
  const { stats } = await server.connection.call(runtime.listContainerStats, request);
  assert.deepEqual(
    stats.map(({ attributes }) => attributes?.id),
    [running],
  );
});

test('fact 100: events of a life, with the pod as it is then', async () => {
  const seen: ContainerEventResponse[] = [];
  const stream = server.connection.open(runtime.getContainerEvents, {});
  stream.on('error', () => undefined);
  stream.on('data', (event: ContainerEventResponse) => seen.push(event));
  try {
    const first = await server.runPod();
    await eventually('the subscription holds', () => (seen.length > 0 ? true : undefined)).catch(() => undefined);
    const { id } = await server.run(first, script('exit 4'));
    await server.connection.call(runtime.removeContainer, { containerId: id });
    const own = (): ContainerEventResponse[] => seen.filter(({ containerId }) => containerId === id);
    await eventually('its last event', () =>
      own().some(({ containerEventType: type }) => type === ContainerEventType.CONTAINER_DELETED_EVENT)
        ? true
        : undefined,
    );
    assert.deepEqual(
      own().map(({ containerEventType }) => containerEventType),
      [
        ContainerEventType.CONTAINER_CREATED_EVENT,
        ContainerEventType.CONTAINER_STARTED_EVENT,
        ContainerEventType.CONTAINER_STOPPED_EVENT,
        ContainerEventType.CONTAINER_DELETED_EVENT,
      ],
    );
    assert.equal(own()[0]?.podSandboxStatus?.id, first);
    assert.equal(own()[2]?.containersStatuses.find((one) => one.id === id)?.exitCode, 4);
  } finally {
    stream.cancel();
  }
});
