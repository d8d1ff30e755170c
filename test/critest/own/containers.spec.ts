/** Facts about what a container is made of, and what of it is refused. */

import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, afterEach, before, test } from 'node:test';

import { status } from '@grpc/grpc-js';

import {
  MountPropagation,
  NamespaceMode,
  RunPodSandboxRequest,
  RuntimeServiceService as runtime,
  SupplementalGroupsPolicy,
  UpdateContainerResourcesRequest,
} from '../../../proto/gen/cri/api.ts';
import type { ContainerFields, PodFields } from '../../harness/cri-lab.ts';
import { Server } from './server.ts';

const MIB = 1n << 20n;
type Security = NonNullable<NonNullable<ContainerFields['linux']>['securityContext']>;
const script = (text: string): ContainerFields => ({ command: ['/bin/sh', '-c', text] });
const secured = (text: string, securityContext: Security): ContainerFields => ({
  ...script(text),
  linux: { securityContext },
});
let server: Server;
let pod: string;

before(async () => {
  server = await Server.connect();
  await server.pull(server.facts.rich);
  pod = await server.runPod();
});
afterEach(async () => {
  const { containers } = await server.connection.call(runtime.listContainers, {
    filter: { id: '', state: undefined, podSandboxId: pod, labelSelector: {} },
  });
  for (const { id } of containers) await server.connection.call(runtime.removeContainer, { containerId: id });
});
// Without any fact that was asked for in this file there is none.
after(async () => await (server as Server | undefined)?.[Symbol.asyncDispose]());

const rich = (fields: ContainerFields): ContainerFields => ({ ...fields, image: { image: server.facts.rich } });
const refusedPod = async (fields: PodFields) =>
  await server.connection.fails(
    runtime.runPodSandbox,
    RunPodSandboxRequest.create({ config: server.podConfig(fields), runtimeHandler: server.handler }),
  );

test('fact 67: who runs: by number, by name, by the image', async () => {
  assert.equal(await server.output(pod, secured('id -u; id -g', { runAsUser: { value: 1234n } })), '1234\n0');
  const grouped = { runAsUser: { value: 1234n }, runAsGroup: { value: 77n } };
  assert.equal(await server.output(pod, secured('id -u; id -g', grouped)), '1234\n77');
  assert.equal(await server.output(pod, rich(script('id -un'))), 'user');
  assert.equal(await server.output(pod, rich(secured('id -un', { runAsUsername: 'root' }))), 'root');
});

test('fact 67: a group without a user is refused', async () => {
  const { code } = await server.refused(pod, secured('true', { runAsGroup: { value: 7n } }));
  assert.notEqual(code, status.OK);
});

test("fact 67: supplementary groups, the image's among them or not", async () => {
  const groups = { runAsUsername: 'user', supplementalGroups: [4242n] };
  const merged = await server.output(pod, rich(secured('id -G', groups)));
  assert.deepEqual(new Set(merged.split(' ')), new Set(['1000', '2000', '4242']));
  const strict = { ...groups, supplementalGroupsPolicy: SupplementalGroupsPolicy.Strict };
  assert.deepEqual(
    new Set((await server.output(pod, rich(secured('id -G', strict)))).split(' ')),
    new Set(['1000', '4242']),
  );
});

test('fact 69: the status tells who runs', async () => {
  const id = await server.start(pod, rich({ command: ['sleep', '100'] }));
  const user = (await server.status(id)).user?.linux;
  assert.equal(user?.uid, 1000n);
  assert.ok(user.supplementalGroups.includes(2000n));
});

test('fact 70: entrypoint and command of the image', async () => {
  assert.equal(await server.output(pod, rich({ command: [] })), 'from.the.image.');
  assert.equal(await server.output(pod, rich({ command: [], args: ['mine'] })), 'mine.');
  assert.equal(await server.output(pod, rich({ command: ['/bin/echo', 'own'] })), 'own');
});

test('fact 71: environment, working directory', async () => {
  const envs = [{ key: 'FIRST', value: Buffer.from('mine') }];
  const text = 'echo $FIRST $SECOND $HOSTNAME; pwd';
  const [first, folder] = (await server.output(pod, rich({ ...script(text), envs }))).split('\n');
  assert.match(first ?? '', /^mine image \S+$/);
  assert.equal(folder, '/home/user');
  assert.equal(await server.output(pod, { ...script('pwd'), workingDir: '/new/one' }), '/new/one');
});

test('fact 72: capabilities: dropped, added, and none for others than root', async () => {
  const effective = 'sed -n "s/^CapEff:\\t//p" /proc/self/status';
  const caps = async (capabilities: Security['capabilities'], more: Security = {}): Promise<bigint> =>
    BigInt(`0x${await server.output(pod, secured(effective, { capabilities, ...more }))}`);
  assert.equal(await caps({ dropCapabilities: ['ALL'] }), 0n);
  assert.equal(await caps({ dropCapabilities: ['ALL'], addCapabilities: ['NET_ADMIN'] }), 1n << 12n);
  assert.equal(await caps({ addCapabilities: ['SYS_PTRACE'] }, { runAsUser: { value: 5n } }), 0n);
});

test('fact 73: parts of /proc are hidden or read-only, as asked', async () => {
  const wanted = { maskedPaths: ['/proc/kcore', '/proc/scsi'], readonlyPaths: ['/proc/sys'] };
  const text = 'ls /proc/scsi | wc -l; (echo 1 > /proc/sys/kernel/domainname) 2>/dev/null || echo refused';
  assert.equal(await server.output(pod, secured(text, wanted)), '0\nrefused');
});

test('fact 74: without a profile nothing is filtered', async () => {
  assert.equal(await server.output(pod, script('sed -n "s/^Seccomp:\\t//p" /proc/self/status')), '0');
});

test('fact 75: the folder of a mount is made where there is none, and refused where there can be none', async () => {
  const missing = join(server.logs, 'not', 'there');
  const mounts = [{ containerPath: '/m', hostPath: missing }];
  assert.equal(await server.output(pod, { ...script('echo here > /m/file; cat /m/file'), mounts }), 'here');
  assert.equal(readFileSync(join(missing, 'file'), 'utf8'), 'here\n');
  const below = [{ containerPath: '/m', hostPath: join(missing, 'file', 'sub') }];
  assert.notEqual((await server.refused(pod, { mounts: below })).code, status.OK);
});

test('facts 75, 77: mounts are read-only where asked, parents before children', async () => {
  const folder = join(server.logs, 'mounted');
  mkdirSync(join(folder, 'inner'), { recursive: true });
  writeFileSync(join(folder, 'file'), 'of the host');
  const mounts = [
    { containerPath: '/m/inner', hostPath: folder },
    { containerPath: '/m', hostPath: folder, readonly: true },
  ];
  const text = 'cat /m/file /m/inner/file; echo; touch /m/x 2>/dev/null || echo no; touch /m/inner/y && echo yes';
  assert.equal(await server.output(pod, { ...script(text), mounts }), 'of the hostof the host\nno\nyes');
});

test('fact 77: recursive read-only needs read-only and no propagation', async () => {
  const mount = { containerPath: '/m', hostPath: server.logs, recursiveReadOnly: true };
  mkdirSync(server.logs, { recursive: true });
  assert.notEqual((await server.refused(pod, { mounts: [{ ...mount }] })).code, status.OK);
  const propagated = { ...mount, readonly: true, propagation: MountPropagation.PROPAGATION_HOST_TO_CONTAINER };
  assert.notEqual((await server.refused(pod, { mounts: [propagated] })).code, status.OK);
});

test('fact 78: a privileged container sees and may do more', async () => {
  const privileged = { privileged: true };
  const config = server.podConfig({ linux: { securityContext: privileged } });
  const own = await server.runPod(config);
  const text =
    'ls /dev/kmsg /dev/loop-control 2>/dev/null | head -n 1; mkdir /x && mount -t tmpfs x /x && echo mounted';
  assert.match(await server.output(own, secured(text, privileged)), /mounted$/);
});

test('facts 79, 80: /etc/hosts, /etc/hostname and /etc/resolv.conf', async () => {
  const dnsConfig = { servers: ['192.0.2.53'], searches: ['a.test', 'b.test'], options: ['ndots:3'] };
  const own = await server.runPod(server.podConfig({ hostname: 'myself', dnsConfig }));
  const text = await server.output(own, script('cat /etc/resolv.conf; hostname; cat /etc/hostname'));
  for (const line of ['search a.test b.test', 'nameserver 192.0.2.53', 'options ndots:3'])
    assert.ok(text.split('\n').includes(line), text);
  assert.ok(text.endsWith('myself\nmyself'), text);
});

test("fact 81: /dev/shm is the pod's, 64 MiB, and gone with it", async () => {
  const own = await server.runPod();
  const one = await server.start(own);
  const two = await server.start(own);
  await server.exec(one, 'sh', '-c', 'echo shared > /dev/shm/x');
  assert.equal(await server.exec(two, 'cat', '/dev/shm/x'), 'shared');
  assert.match(await server.exec(two, 'df', '-k', '/dev/shm'), / 65536 /);
});

test('fact 83: user namespaces of a kind that cannot be are refused', async () => {
  const range = { hostId: 100_000, containerId: 0, length: 65_536 };
  const wishes = [
    { mode: NamespaceMode.POD, uids: [range, range], gids: [range, range] },
    { mode: NamespaceMode.POD, uids: [range], gids: [{ ...range, length: 7 }] },
    { mode: NamespaceMode.CONTAINER, uids: [range], gids: [range] },
    { mode: NamespaceMode.TARGET, uids: [range], gids: [range] },
  ];
  for (const usernsOptions of wishes) {
    const namespaceOptions = { pid: NamespaceMode.CONTAINER, usernsOptions };
    const { code } = await refusedPod({ linux: { securityContext: { namespaceOptions } } });
    assert.notEqual(code, status.OK);
  }
});

test('fact 84: sysctls of the pod are set, those of the host refused', async () => {
  const own = await server.runPod(
    server.podConfig({ linux: { sysctls: { 'net.ipv4.ip_unprivileged_port_start': '7' } } }),
  );
  const text = 'cat /proc/sys/net/ipv4/ip_unprivileged_port_start';
  assert.equal(await server.output(own, script(text)), '7');
  const host = { namespaceOptions: { network: NamespaceMode.NODE } };
  const refused = await refusedPod({
    linux: { securityContext: host, sysctls: { 'net.ipv4.ip_unprivileged_port_start': '7' } },
  });
  assert.notEqual(refused.code, status.OK);
  assert.notEqual(readFileSync('/proc/sys/net/ipv4/ip_unprivileged_port_start', 'utf8').trim(), '7');
});

test('fact 85: a cgroup parent of another driver is refused', async () => {
  const { linux } = await server.connection.call(runtime.runtimeConfig, {});
  const wrong = linux?.cgroupDriver === 0 ? '/not-a-slice' : '/kubepods.slice';
  assert.notEqual((await refusedPod({ linux: { cgroupParent: wrong } })).code, status.OK);
});

test('fact 88: limits change, and the status says so', async () => {
  const resources = { memoryLimitInBytes: 64n * MIB, cpuShares: 512n };
  const id = await server.start(pod, { linux: { resources } });
  const update = UpdateContainerResourcesRequest.create({ containerId: id, linux: { memoryLimitInBytes: 96n * MIB } });
  await server.connection.call(runtime.updateContainerResources, update);
  const now = (await server.status(id)).resources?.linux;
  assert.deepEqual([now?.memoryLimitInBytes, now?.cpuShares], [96n * MIB, 512n]);
  const { id: ended } = await server.run(pod, script('exit 0'));
  await server.connection.fails(
    runtime.updateContainerResources,
    UpdateContainerResourcesRequest.create({ containerId: ended, linux: { cpuShares: 7n } }),
  );
});

test('fact 88: a memory limit below what is used is refused', async () => {
  const id = await server.start(pod, {
    ...script('dd if=/dev/zero of=/dev/shm/x bs=1M count=24; touch /dev/shm/full; sleep 1000'),
    linux: { resources: { memoryLimitInBytes: 256n * MIB } },
  });
  while ((await server.tryExec(id, 'test', '-e', '/dev/shm/full')).exitCode !== 0);
  await server.connection.fails(
    runtime.updateContainerResources,
    UpdateContainerResourcesRequest.create({ containerId: id, linux: { memoryLimitInBytes: 8n * MIB } }),
  );
  assert.equal(await server.exec(id, 'echo', 'alive'), 'alive');
});
