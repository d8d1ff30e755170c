import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';

import { status } from '@grpc/grpc-js';

import {
  ContainerState,
  ContainerStatus,
  type CreateContainerRequest,
  Image,
  ImageServiceService as images,
  PodSandbox,
  PodSandboxStatus,
  Protocol,
  type RunPodSandboxRequest,
  RuntimeServiceService as runtime,
  StatusResponse,
} from '../../../proto/gen/cri/api.ts';
import { FakeCaller, runWith } from '../../../test/fakes/caller.ts';
import { CliError } from '../cli-error.ts';

let folder: string;
before(() => {
  folder = mkdtempSync(join(tmpdir(), 'berth-run-'));
});
after(() => rmSync(folder, { recursive: true }));

const REMOVAL = ['PodSandboxStatus', 'StopPodSandbox', 'RemovePodSandbox'];

/** A berthd that runs pods, whose containers have ended with exit code 3 after `looks` looks at their status. */
function node(looks = 1): { caller: FakeCaller; pods: RunPodSandboxRequest[]; containers: CreateContainerRequest[] } {
  const pods: RunPodSandboxRequest[] = [];
  const containers: CreateContainerRequest[] = [];
  const logPath = join(folder, 'log');
  writeFileSync(logPath, '2026-01-02T03:04:05Z stdout F said\n');
  let left = looks;
  const caller = new FakeCaller()
    .on(images.imageStatus, ({ image }) => ({
      image: image?.image === 'web:v1' ? Image.create({ id: 'sha256:1' }) : undefined,
      info: {},
    }))
    .on(images.pullImage, () => ({ imageRef: 'sha256:2' }))
    .on(runtime.runPodSandbox, (request) => {
      pods.push(request);
      return { podSandboxId: 'p1' };
    })
    .on(runtime.createContainer, (request) => {
      containers.push(request);
      return { containerId: 'c1' };
    })
    .on(runtime.startContainer, () => ({}))
    .on(runtime.containerStatus, () => {
      left -= 1;
      const state = left < 0 ? ContainerState.CONTAINER_EXITED : ContainerState.CONTAINER_RUNNING;
      return { status: ContainerStatus.create({ state, logPath, exitCode: 3 }), info: {} };
    })
    .on(runtime.podSandboxStatus, () => ({
      status: PodSandboxStatus.create({ network: { ip: '10.0.0.5' } }),
      info: {},
      containersStatuses: [],
      timestamp: 0n,
    }))
    .on(runtime.listPodSandbox, () => ({ items: [] }))
    .on(runtime.stopPodSandbox, () => ({}))
    .on(runtime.removePodSandbox, () => ({}));
  return { caller, pods, containers };
}

test('a pod comes up as the options say, and its address is told', async () => {
  const { caller, pods, containers } = node();
  const { out, exitCode } = await runWith(
    caller,
    ...['run', '--name', 'Site', '-p', '8080:80', '-p', '53:54/udp', '-e', 'A=b=c', '-e', 'B='],
    ...['-v', '/h:/c:ro', '-v', '/x:/y', '--runtime', 'runc', 'web:v1', '--', 'ls', '--json'],
  );
  assert.deepEqual([exitCode, out], [0, 'pod p1 (Site) runs at 10.0.0.5; container c1\n']);
  const [pod] = pods;
  assert.equal(pod?.runtimeHandler, 'runc');
  assert.deepEqual(
    pod?.config?.portMappings.map(({ protocol, hostPort, containerPort }) => [protocol, hostPort, containerPort]),
    [
      [Protocol.TCP, 8080, 80],
      [Protocol.UDP, 53, 54],
    ],
  );
  assert.match(pod?.config?.logDirectory ?? '', /^\/var\/log\/berth\/-ite-[0-9a-f]{8}$/);
  const config = containers[0]?.config;
  assert.deepEqual(config?.args, ['ls', '--json']);
  assert.deepEqual(
    config?.envs.map(({ key, value }) => `${key}=${Buffer.from(value).toString()}`),
    ['A=b=c', 'B='],
  );
  assert.deepEqual(
    config?.mounts.map((mount) => [mount.hostPath, mount.containerPath, mount.readonly]),
    [
      ['/h', '/c', true],
      ['/x', '/y', false],
    ],
  );
  assert.equal(config?.labels['io.kubernetes.pod.name'], 'Site');
});

test('a mistake in the options shows before anything is asked', async () => {
  for (const [args, words] of [
    [['-p', '80'], /80 is not HOST:CONTAINER/],
    [['-p', '80:80/icmp'], /is not HOST:CONTAINER/],
    [['-e', '=x'], /=x is not NAME=value/],
    [['-v', 'a:/b'], /a:\/b is not \/HOST:\/CONTAINER/],
    [['-v', '/a:/b:rx'], /is not \/HOST/],
  ] as const) {
    const { caller } = node();
    const { exitCode, err } = await runWith(caller, 'run', ...args, 'web:v1');
    assert.equal(exitCode, 1);
    assert.match(err, words);
    assert.deepEqual(caller.asked, []);
  }
});

test('an image that is not here is pulled; programs are not told', async () => {
  const { caller } = node();
  assert.equal((await runWith(caller, 'run', 'other:v1')).err, 'image other:v1 is not here; pulling it\n');
  assert.ok(caller.asked.includes('PullImage'));
  assert.equal((await runWith(node().caller, '--json', 'run', 'other:v1')).err, '');
});

test('--rm shows the output, removes the pod and ends with its exit code', async () => {
  const { caller } = node();
  assert.deepEqual(await runWith(caller, 'run', '--rm', 'web:v1'), { exitCode: 3, out: 'said\n', err: '' });
  assert.deepEqual(caller.asked.slice(-3), REMOVAL);
  const { out } = await runWith(node().caller, '--json', 'run', '--rm', 'web:v1');
  const [line = '', end = ''] = out.trimEnd().split('\n');
  assert.equal((JSON.parse(line) as { text: string }).text, 'said');
  assert.deepEqual(JSON.parse(end), { pod: 'p1', container: 'c1', exitCode: 3 });
});

test('--wait leaves the pod', async () => {
  const { caller } = node();
  assert.equal((await runWith(caller, 'run', '--wait', 'web:v1')).exitCode, 3);
  assert.ok(!caller.asked.includes('RemovePodSandbox'));
});

test('a command that is not there is 127, and leaves no pod', async () => {
  const { caller } = node();
  caller.on(runtime.createContainer, () => {
    throw new CliError('create: config.command: x cannot be run: not found', undefined, {
      code: status.INVALID_ARGUMENT,
    });
  });
  assert.equal((await runWith(caller, 'run', 'web:v1', '--', 'x')).exitCode, 127);
  assert.deepEqual(caller.asked.slice(-3), REMOVAL);
});

test('a pod that cannot be removed after a failure is named', async () => {
  const { caller } = node();
  const refuse = (what: string) => () => {
    throw new CliError(what);
  };
  caller.on(runtime.startContainer, refuse('no start')).on(runtime.stopPodSandbox, refuse('no stop'));
  const { err, exitCode } = await runWith(caller, 'run', 'web:v1');
  assert.deepEqual([exitCode, err], [1, 'berth: no start; and pod p1 is left: no stop\n']);
});

test('who presses Ctrl-C leaves no pod with --rm, and with --wait is told of it', async () => {
  const late = node(1000);
  const interruptAt = (method: string, { caller }: ReturnType<typeof node>): void => {
    const ask = caller.call.bind(caller);
    caller.call = async (...args) => {
      if (args[0].path.endsWith(method)) caller.interrupt.abort();
      return await ask(...args);
    };
  };
  interruptAt('/ContainerStatus', late);
  assert.equal((await runWith(late.caller, 'run', '--rm', 'web:v1')).exitCode, 130);
  assert.deepEqual(late.caller.asked.slice(-3), REMOVAL);
  const staying = node(1000);
  interruptAt('/ContainerStatus', staying);
  const { exitCode, err } = await runWith(staying.caller, 'run', '--wait', '--name', 'x', 'web:v1');
  assert.deepEqual([exitCode, err], [130, 'berth: interrupted\n  pod x goes on; berth rm x ends it\n']);
  assert.ok(!staying.caller.asked.includes('RemovePodSandbox'));
  const early = node();
  interruptAt('/RunPodSandbox', early);
  assert.equal((await runWith(early.caller, 'run', 'web:v1')).exitCode, 130);
  assert.deepEqual(early.caller.asked.slice(-4), ['RunPodSandbox', ...REMOVAL]);
});

test('a program that ends at once is told of, with its last words and its exit code', async () => {
  const { exitCode, out, err } = await runWith(node(0).caller, 'run', '--name', 'x', 'web:v1');
  assert.deepEqual([exitCode, out], [3, '']);
  assert.match(err, /^ {2}said\nberth: pod p1 \(x\): its program has ended at once, with exit code 3 /);
  const forPrograms = await runWith(node(0).caller, '--json', 'run', '--name', 'x', 'web:v1');
  assert.equal((JSON.parse(forPrograms.out) as { exitCode: number }).exitCode, 3);
});

test('a name that another pod has is refused before anything is made', async () => {
  const { caller, pods } = node();
  const holder = PodSandbox.create({ id: 'p0', metadata: { name: 'x', namespace: 'default' } });
  caller.on(runtime.listPodSandbox, () => ({ items: [holder] }));
  const { exitCode, err } = await runWith(caller, 'run', '--name', 'x', 'web:v1');
  assert.deepEqual([exitCode, err], [1, 'berth: pod x is there already: p0\n  berth rm x removes it\n']);
  assert.deepEqual(pods, []);
});

test('what a pod will wait for is told before the waiting', async () => {
  const { caller } = node(2);
  const network = { type: 'NetworkReady', status: false, reason: 'Bad', message: 'no file' };
  caller.on(runtime.status, () => StatusResponse.create({ status: { conditions: [network] } }));
  assert.match((await runWith(caller, 'run', 'web:v1')).err, /^waiting up to 4 minutes for a network .*: no file\n$/);
  assert.equal((await runWith(caller, 'run', '--host-network', 'web:v1')).err, '');
});
