import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, describe as suite, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

import { status } from '@grpc/grpc-js';

import { AdminService } from '../../proto/gen/berth/admin.ts';
import {
  type ContainerConfig,
  ContainerState,
  ContainerStatusRequest,
  CreateContainerRequest,
  ImageStatusRequest,
  ImageServiceService as images,
  ListContainersRequest,
  ListPodSandboxRequest,
  NamespaceMode,
  PodSandboxConfig,
  PodSandboxState,
  PodSandboxStatusRequest,
  PullImageRequest,
  RunPodSandboxRequest,
  RuntimeServiceService as runtime,
  StatusRequest,
  UpdateContainerResourcesRequest,
  VersionRequest,
} from '../../proto/gen/cri/api.ts';
import { buildBusyboxLayout } from '../fakes/images.ts';
import { TestBerthd } from '../harness/berthd.ts';
import { eventually } from '../harness/cri-lab.ts';
import { SOON_MS } from '../harness/patience.ts';

type PodFields = Parameters<typeof PodSandboxConfig.create>[0];
type ContainerFields = Parameters<typeof ContainerConfig.create>[0];

const IMAGE = 'example.com/busybox:test';
const OWN_PID = { namespaceOptions: { pid: NamespaceMode.CONTAINER } };

let berthd: TestBerthd;
let layouts: string;
let pods = 0;
/** Pods that several tests share. */
const kept = new Set<string>();

function podConfig(fields: PodFields = {}): PodSandboxConfig {
  pods += 1;
  return PodSandboxConfig.create({
    metadata: { name: `pod-${pods}`, namespace: 'test', uid: `uid-${pods}`, attempt: 0 },
    logDirectory: join(berthd.root, 'logs', `pod-${pods}`),
    linux: { securityContext: OWN_PID },
    ...fields,
  });
}

async function runPod(config: PodSandboxConfig = podConfig()): Promise<string> {
  return (await berthd.call(runtime.runPodSandbox, RunPodSandboxRequest.create({ config }))).podSandboxId;
}

function containerRequest(podSandboxId: string, fields: ContainerFields): CreateContainerRequest {
  const config = { metadata: { name: 'main' }, image: { image: IMAGE }, logPath: 'main.log', ...fields };
  return CreateContainerRequest.create({ podSandboxId, config });
}

async function startContainer(podSandboxId: string, fields: ContainerFields): Promise<string> {
  const { containerId } = await berthd.call(runtime.createContainer, containerRequest(podSandboxId, fields));
  await berthd.call(runtime.startContainer, { containerId });
  return containerId;
}

async function statusOf(containerId: string) {
  const { status: found } = await berthd.call(runtime.containerStatus, ContainerStatusRequest.create({ containerId }));
  assert.ok(found);
  return found;
}

async function ended(containerId: string) {
  const giveUpAt = Date.now() + SOON_MS;
  for (;;) {
    const found = await statusOf(containerId);
    if (found.state === ContainerState.CONTAINER_EXITED) return found;
    assert.ok(Date.now() < giveUpAt, `container ${containerId} does not end`);
    await delay(10);
  }
}

async function removePod(podSandboxId: string): Promise<void> {
  await berthd.call(runtime.stopPodSandbox, { podSandboxId });
  await berthd.call(runtime.removePodSandbox, { podSandboxId });
}

async function exec(containerId: string, ...cmd: string[]): Promise<string> {
  const answer = await berthd.call(runtime.execSync, { containerId, cmd, timeout: 60n });
  assert.equal(answer.exitCode, 0, answer.stderr.toString());
  return answer.stdout.toString();
}

/** The texts of a CRI log, by stream. */
function logTexts(path: string, stream: string): string[] {
  return readFileSync(path, 'utf8')
    .split('\n')
    .flatMap((line) => {
      const [, from, text] = /^\d{4}-\S+Z? (stdout|stderr) F (.*)$/.exec(line.replace(/\+00:00/, 'Z')) ?? [];
      return from === stream ? [text ?? ''] : [];
    });
}

suite('berthd', { timeout: 900_000 }, () => {
  before(async () => {
    layouts = mkdtempSync(join(tmpdir(), 'berth-layout-'));
    await buildBusyboxLayout(layouts, { tag: IMAGE });
    berthd = new TestBerthd({ config: '[metrics]\nlisten = "127.0.0.1:0"' });
    await berthd.start();
    const { images: loaded } = await berthd.call(AdminService.loadImage, { path: layouts, name: '' });
    assert.deepEqual(
      loaded.flatMap(({ tags }) => tags),
      [IMAGE],
    );
  });
  // A test that fails halfway must not make the next ones fail too.
  afterEach(async () => {
    const { items } = await berthd.call(runtime.listPodSandbox, ListPodSandboxRequest.create());
    await Promise.all(items.flatMap(({ id }) => (kept.has(id) ? [] : [removePod(id)])));
  });
  after(async () => {
    rmSync(layouts, { recursive: true });
    await berthd[Symbol.asyncDispose]();
  });

  test('says who it is and that pods can run', async () => {
    const version = await berthd.call(runtime.version, VersionRequest.create());
    assert.deepEqual([version.runtimeName, version.runtimeApiVersion], ['berth', 'v1']);
    const { status: found, runtimeHandlers } = await berthd.call(runtime.status, StatusRequest.create());
    assert.deepEqual(
      found?.conditions.map(({ type, status: isMet }) => [type, isMet]),
      [
        ['RuntimeReady', true],
        ['NetworkReady', true],
      ],
    );
    assert.ok(runtimeHandlers.some(({ name }) => name === ''));
    assert.equal(statSync(berthd.endpoint.slice('unix://'.length)).mode & 0o777, 0o660);
  });

  test('a pod has its own network, names and /dev/shm, and what was said of it comes back unaltered', async () => {
    const said = { 'example.com/a': ' two\nlines "quoted" ', empty: '' };
    const config = podConfig({
      hostname: 'harbour',
      labels: said,
      annotations: said,
      dnsConfig: { servers: ['10.9.8.7'], searches: ['a.example'], options: ['ndots:3'] },
      linux: {
        securityContext: OWN_PID,
        sysctls: { 'net.ipv4.ip_unprivileged_port_start': '80', 'kernel.shm_rmid_forced': '1' },
      },
    });
    const pod = await runPod(config);
    const found = (
      await berthd.call(runtime.podSandboxStatus, PodSandboxStatusRequest.create({ podSandboxId: pod.slice(0, 12) }))
    ).status;
    assert.equal(found?.state, PodSandboxState.SANDBOX_READY);
    assert.ok(berthd.network.owns(found.network?.ip ?? ''), found.network?.ip);
    assert.deepEqual([found.labels, found.annotations], [said, said]);
    const container = await startContainer(pod, { command: ['sleep', '1000'] });
    assert.equal(await exec(container, 'hostname'), 'harbour\n');
    assert.equal(
      await exec(container, 'cat', '/etc/resolv.conf'),
      'search a.example\nnameserver 10.9.8.7\noptions ndots:3\n',
    );
    assert.match(await exec(container, 'ip', 'addr', 'show', 'eth0'), new RegExp(`inet ${found.network?.ip}/24`));
    assert.match(await exec(container, 'ip', 'addr', 'show', 'lo'), /LOOPBACK,UP[\s\S]*inet 127\.0\.0\.1/);
    assert.match(
      await exec(container, 'grep', ' /dev/shm ', '/proc/mounts'),
      /tmpfs .*nosuid,nodev,noexec.*size=65536k/,
    );
    assert.equal(await exec(container, 'cat', '/proc/sys/net/ipv4/ip_unprivileged_port_start'), '80\n');
    assert.equal(await exec(container, 'cat', '/proc/sys/kernel/shm_rmid_forced'), '1\n');
    assert.equal(readFileSync('/proc/sys/kernel/shm_rmid_forced', 'utf8'), '0\n');
    await removePod(pod);
  });

  test('the same request never makes two pods, and another one may not take its name', async () => {
    const config = podConfig();
    const [one, two] = await Promise.all([runPod(config), runPod(config)]);
    assert.equal(one, two);
    assert.equal(await runPod(config), one);
    const other = await berthd.fails(
      runtime.runPodSandbox,
      RunPodSandboxRequest.create({ config: { ...config, hostname: 'other' } }),
    );
    assert.equal(other.code, status.ALREADY_EXISTS);
    await removePod(one);
    await removePod(one);
  });

  test('namespaces are shared as the pod says', async () => {
    const own = await runPod();
    const shared = await runPod(
      podConfig({ linux: { securityContext: { namespaceOptions: { pid: NamespaceMode.POD } } } }),
    );
    const host = await runPod(
      podConfig({
        linux: {
          securityContext: {
            namespaceOptions: { pid: NamespaceMode.NODE, network: NamespaceMode.NODE, ipc: NamespaceMode.NODE },
          },
        },
      }),
    );
    const inOwn = await startContainer(own, { command: ['sleep', '1000'] });
    assert.match(await exec(inOwn, 'ps', '-o', 'pid,args'), /^ +1 sleep 1000$/m);
    const inShared = await startContainer(shared, {
      command: ['sleep', '1000'],
      linux: { securityContext: { namespaceOptions: { pid: NamespaceMode.POD } } },
    });
    assert.match(await exec(inShared, 'ps', '-o', 'pid,args'), /^ +1 .*pause/m);
    const nodeOptions = {
      namespaceOptions: { pid: NamespaceMode.NODE, network: NamespaceMode.NODE, ipc: NamespaceMode.NODE },
    };
    const inHost = await startContainer(host, { command: ['sleep', '1000'], linux: { securityContext: nodeOptions } });
    for (const kind of ['net', 'ipc', 'uts', 'pid']) {
      assert.equal(
        await exec(inHost, 'readlink', `/proc/self/ns/${kind}`),
        execFileSync('readlink', [`/proc/self/ns/${kind}`], { encoding: 'utf8' }),
        kind,
      );
    }
    const { status: hostStatus } = await berthd.call(
      runtime.podSandboxStatus,
      PodSandboxStatusRequest.create({ podSandboxId: host }),
    );
    assert.equal(hostStatus?.network?.ip, '');
    await Promise.all([own, shared, host].map(removePod));
  });

  test('exit codes, reasons and logs', async () => {
    const pod = await runPod();
    const cases = [
      { command: ['sh', '-c', 'echo out; echo err >&2'], code: 0, reason: 'Completed' },
      { command: ['sh', '-c', 'exit 3'], code: 3, reason: 'Error' },
      { command: ['sh', '-c', "sh -c 'kill -9 $$'; exit $?"], code: 137, reason: 'Error' },
      { command: ['sh', '-c', 'x=a; while :; do x=$x$x; done'], code: 137, reason: 'OOMKilled', memory: 16n },
    ];
    for (const [index, { command, code, reason, memory = 0n }] of cases.entries()) {
      const linux = { resources: { memoryLimitInBytes: memory << 20n } };
      const id = await startContainer(pod, {
        metadata: { name: `c${index}` },
        command,
        logPath: `c${index}.log`,
        linux,
      });
      const found = await ended(id);
      assert.deepEqual([found.exitCode, found.reason], [code, reason], command.join(' '));
      assert.ok(found.finishedAt >= found.startedAt && found.startedAt >= found.createdAt && found.createdAt > 0n);
      if (index > 0) continue;
      assert.deepEqual(logTexts(found.logPath, 'stdout'), ['out']);
      assert.deepEqual(logTexts(found.logPath, 'stderr'), ['err']);
    }
    const list = async (fields: Parameters<typeof ListContainersRequest.create>[0]) =>
      (await berthd.call(runtime.listContainers, ListContainersRequest.create(fields))).containers.length;
    assert.equal(
      await list({ filter: { podSandboxId: pod.slice(0, 10), state: { state: ContainerState.CONTAINER_EXITED } } }),
      4,
    );
    assert.equal(await list({ filter: { podSandboxId: pod, state: { state: ContainerState.CONTAINER_RUNNING } } }), 0);
    await removePod(pod);
  });

  test('a stop sends the signal, waits the grace period, then kills; a second one is fine', async () => {
    const pod = await runPod();
    const polite = await startContainer(pod, {
      metadata: { name: 'polite' },
      command: ['sh', '-c', 'trap "exit 5" TERM; echo ready; while :; do sleep 0.05; done'],
    });
    const deaf = await startContainer(pod, {
      metadata: { name: 'deaf' },
      command: ['sh', '-c', 'trap "" TERM; while :; do sleep 0.05; done'],
    });
    const { logPath } = await statusOf(polite);
    await eventually('its trap is set', () => readFileSync(logPath, 'utf8').includes('ready') || undefined);
    await berthd.call(runtime.stopContainer, { containerId: polite, timeout: 60n });
    assert.equal((await statusOf(polite)).exitCode, 5);
    const startedMs = performance.now();
    // The later, shorter one hastens the first.
    const long = berthd.call(runtime.stopContainer, { containerId: deaf, timeout: 100n });
    await berthd.call(runtime.stopContainer, { containerId: deaf, timeout: 1n });
    await long;
    assert.ok(performance.now() - startedMs < SOON_MS);
    assert.equal((await statusOf(deaf)).exitCode, 137);
    await berthd.call(runtime.stopContainer, { containerId: deaf, timeout: 1n });
    await removePod(pod);
  });

  test('users, capabilities, read-only roots, mounts, limits and profiles reach the program', async () => {
    const pod = await runPod();
    const shared = mkdtempSync(join(berthd.root, 'volume-'));
    chmodSync(shared, 0o755);
    writeFileSync(join(shared, 'file'), 'from the host');
    const id = await startContainer(pod, {
      command: ['sleep', '1000'],
      workingDir: '/made/here',
      envs: [{ key: 'WHO', value: Buffer.from('berth') }],
      mounts: [{ containerPath: '/data', hostPath: shared, readonly: true }],
      linux: {
        resources: { memoryLimitInBytes: 64n << 20n, cpuShares: 512n },
        securityContext: {
          ...OWN_PID,
          runAsUser: { value: 1000n },
          supplementalGroups: [4242n],
          noNewPrivs: true,
          capabilities: { dropCapabilities: ['ALL'] },
          seccomp: { profileType: 0 },
        },
      },
    });
    assert.match(await exec(id, 'id'), /uid=1000\(user\).*groups=.*4242/);
    assert.equal(await exec(id, 'pwd'), '/made/here\n');
    assert.equal(await exec(id, 'sh', '-c', 'echo $WHO'), 'berth\n');
    assert.equal(await exec(id, 'cat', '/data/file'), 'from the host');
    const own = await exec(id, 'cat', '/proc/1/status');
    assert.match(own, /^CapEff:\t0+$/m);
    assert.match(own, /^NoNewPrivs:\t1$/m);
    assert.match(own, /^Seccomp:\t2$/m);
    const { exitCode } = await berthd.call(runtime.execSync, {
      containerId: id,
      cmd: ['touch', '/data/new'],
      timeout: 60n,
    });
    assert.notEqual(exitCode, 0);
    assert.deepEqual((await statusOf(id)).user?.linux?.uid, 1000n);
    const linux = { memoryLimitInBytes: 96n << 20n };
    await berthd.call(
      runtime.updateContainerResources,
      UpdateContainerResourcesRequest.create({ containerId: id, linux }),
    );
    const { resources } = await statusOf(id);
    assert.deepEqual([resources?.linux?.memoryLimitInBytes, resources?.linux?.cpuShares], [96n << 20n, 512n]);
    await removePod(pod);
  });

  test('a rotated log goes on in a new file', async () => {
    const pod = await runPod();
    const id = await startContainer(pod, {
      command: ['sh', '-c', 'i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done'],
    });
    const { logPath } = await statusOf(id);
    renameSync(logPath, `${logPath}.1`);
    await berthd.call(runtime.reopenContainerLog, { containerId: id });
    assert.ok(existsSync(logPath));
    await berthd.call(runtime.stopContainer, { containerId: id, timeout: 0n });
    const numbers = [`${logPath}.1`, logPath].flatMap((path) => logTexts(path, 'stdout').map(Number));
    assert.deepEqual(
      numbers,
      numbers.map((_, index) => index + 1),
      'no line is lost',
    );
    assert.equal(
      (await berthd.fails(runtime.reopenContainerLog, { containerId: id })).code,
      status.FAILED_PRECONDITION,
    );
    await removePod(pod);
  });

  test('exec: output, exit code, time limit, and what cannot be started', async () => {
    const pod = await runPod();
    const containerId = await startContainer(pod, { command: ['sleep', '1000'] });
    const answer = await berthd.call(runtime.execSync, {
      containerId,
      cmd: ['sh', '-c', 'echo out; echo err >&2; exit 7'],
      timeout: 0n,
    });
    assert.deepEqual([answer.exitCode, answer.stdout.toString(), answer.stderr.toString()], [7, 'out\n', 'err\n']);
    const late = await berthd.fails(runtime.execSync, {
      containerId,
      cmd: ['sh', '-c', 'sleep 777 & sleep 777'],
      timeout: 1n,
    });
    assert.equal(late.code, status.DEADLINE_EXCEEDED);
    assert.doesNotMatch(await exec(containerId, 'ps', '-o', 'args'), /sleep 777/);
    assert.equal(
      (await berthd.fails(runtime.execSync, { containerId, cmd: ['/no/such'], timeout: 0n })).code,
      status.INVALID_ARGUMENT,
    );
    await removePod(pod);
  });

  test('kill -9: the next berthd adopts every pod, sees exits of the gap, and undoes what was half made', async () => {
    const pod = await runPod();
    const lasting = await startContainer(pod, { metadata: { name: 'lasting' }, command: ['sleep', '1000'] });
    const short = await startContainer(pod, {
      metadata: { name: 'short' },
      command: ['sh', '-c', 'sleep 0.5; exit 9'],
      logPath: 'short.log',
    });
    const created = (
      await berthd.call(
        runtime.createContainer,
        containerRequest(pod, { metadata: { name: 'created' }, command: ['sleep', '1000'] }),
      )
    ).containerId;
    const before = await berthd.call(runtime.podSandboxStatus, PodSandboxStatusRequest.create({ podSandboxId: pod }));
    const lastingBefore = await statusOf(lasting);
    // In the middle of making others.
    const half = Array.from({ length: 6 }, () => podConfig());
    const running = half.map((config) => runPod(config).catch(() => ''));
    await delay(60);
    await berthd.end('SIGKILL');
    await Promise.all(running);
    await eventually('its monitor notes the exit', () => existsSync(join(berthd.state, 'exits', short)) || undefined);
    const againMs = BigInt(Date.now());
    await berthd.start();
    const now = await berthd.call(runtime.podSandboxStatus, PodSandboxStatusRequest.create({ podSandboxId: pod }));
    assert.deepEqual(now.status, before.status);
    assert.deepEqual(await statusOf(lasting), lastingBefore);
    const gone = await ended(short);
    assert.deepEqual([gone.exitCode, gone.reason], [9, 'Error']);
    assert.ok(gone.finishedAt / 1_000_000n <= againMs, 'the time of the exit, not of the restart');
    await berthd.call(runtime.startContainer, { containerId: created });
    assert.equal((await statusOf(created)).state, ContainerState.CONTAINER_RUNNING);
    assert.equal(await exec(lasting, 'echo', 'still here'), 'still here\n');
    const retried = await Promise.all(half.map(runPod));
    assert.equal(new Set(retried).size, half.length);
    await Promise.all([pod, ...retried].map(removePod));
    assert.deepEqual((await berthd.call(runtime.listPodSandbox, ListPodSandboxRequest.create())).items, []);
  });

  test('twenty pods at once, each with an address of its own', async () => {
    const made = await Promise.all(Array.from({ length: 20 }, () => runPod()));
    const ips = await Promise.all(
      made.map(
        async (podSandboxId) =>
          (await berthd.call(runtime.podSandboxStatus, PodSandboxStatusRequest.create({ podSandboxId }))).status
            ?.network?.ip,
      ),
    );
    assert.equal(new Set(ips).size, 20);
    await Promise.all(made.map(removePod));
    assert.deepEqual(
      readdirSync(join(berthd.root, 'addresses/berth-test')).filter((name) => /^\d/.test(name)),
      [],
    );
  });

  test('a request that fails is in the log with the names of what has no id yet', async () => {
    const metadata = { name: 'refused', namespace: 'here', uid: 'u', attempt: 0 };
    const request = RunPodSandboxRequest.create({ config: { metadata }, runtimeHandler: 'none-such' });
    await berthd.fails(runtime.runPodSandbox, request);
    assert.match(berthd.wholeLog(), /"rpc":"RunPodSandbox","pod":"here\/refused","kind":"invalid".*"msg":"rpc failed"/);
  });

  test('a second berthd on the same root is refused, and names the first', () => {
    const second = spawnSync(
      fileURLToPath(new URL('../../bin/berthd', import.meta.url)),
      ['--root', berthd.root, '--state', `${berthd.state}/second`, '--listen', `unix://${berthd.state}/second.sock`],
      { encoding: 'utf8' },
    );
    assert.equal(second.status, 1);
    assert.match(second.stderr, /folder .* is in use by the berthd with pid \d+/);
  });

  suite('bad input gets a clear error and leaves nothing behind', () => {
    let pod: string;
    before(async () => {
      pod = await runPod();
      kept.add(pod);
    });
    after(() => removePod(pod));

    const badPods: [string, () => Parameters<typeof RunPodSandboxRequest.create>[0], status, RegExp][] = [
      ['no configuration', () => ({}), status.INVALID_ARGUMENT, /config: is missing/],
      ['no metadata', () => ({ config: {} }), status.INVALID_ARGUMENT, /config\.metadata/],
      [
        'an empty name',
        () => ({ config: { metadata: { name: '' } } }),
        status.INVALID_ARGUMENT,
        /config\.metadata\.name/,
      ],
      [
        'a relative log directory',
        () => ({ config: podConfig({ logDirectory: 'x' }) }),
        status.INVALID_ARGUMENT,
        /config\.log_directory/,
      ],
      [
        'an unknown handler',
        () => ({ config: podConfig(), runtimeHandler: 'nosuch' }),
        status.INVALID_ARGUMENT,
        /runtime_handler.*nosuch/,
      ],
      [
        'a cgroup parent of the other driver',
        () => ({ config: podConfig({ linux: { cgroupParent: '/a.slice' } }) }),
        status.INVALID_ARGUMENT,
        /cgroup_parent/,
      ],
      [
        'a cgroup parent that climbs',
        () => ({ config: podConfig({ linux: { cgroupParent: '/a/../b' } }) }),
        status.INVALID_ARGUMENT,
        /cgroup_parent/,
      ],
      [
        "a sysctl of the host's",
        () => ({ config: podConfig({ linux: { sysctls: { 'vm.swappiness': '1' } } }) }),
        status.INVALID_ARGUMENT,
        /vm\.swappiness/,
      ],
    ];
    for (const [what, request, code, details] of badPods) {
      test(`a pod with ${what}`, async () => {
        const err = await berthd.fails(runtime.runPodSandbox, RunPodSandboxRequest.create(request()));
        assert.deepEqual([err.code, details.test(err.details)], [code, true], err.details);
        assert.equal((await berthd.call(runtime.listPodSandbox, ListPodSandboxRequest.create())).items.length, 1);
        assert.deepEqual(readdirSync(join(berthd.state, 'sandboxes')), [pod]);
      });
    }

    const badContainers: [string, ContainerFields, status, RegExp][] = [
      ['no metadata', { metadata: undefined }, status.INVALID_ARGUMENT, /config\.metadata/],
      ['an unknown image', { image: { image: 'example.com/nosuch:1' } }, status.NOT_FOUND, /nosuch/],
      ['a bad image reference', { image: { image: 'NOT A REF' } }, status.INVALID_ARGUMENT, /image/],
      ['a log path that escapes', { logPath: '../../x.log' }, status.INVALID_ARGUMENT, /log_path/],
      ['a command that the image has not', { command: ['/no/such'] }, status.INVALID_ARGUMENT, /config\.command/],
      [
        'an unknown user',
        { command: ['true'], linux: { securityContext: { runAsUsername: 'nosuch' } } },
        status.INVALID_ARGUMENT,
        /run_as_username/,
      ],
      [
        'a mount whose source cannot be there',
        { command: ['true'], mounts: [{ containerPath: '/x', hostPath: '/etc/passwd/such' }] },
        status.INVALID_ARGUMENT,
        /mounts\[0\]\.host_path/,
      ],
      [
        'a negative limit',
        { linux: { resources: { memoryLimitInBytes: -2n } } },
        status.INVALID_ARGUMENT,
        /memory_limit_in_bytes/,
      ],
      [
        'an unknown capability',
        { command: ['true'], linux: { securityContext: { capabilities: { addCapabilities: ['FLY'] } } } },
        status.INVALID_ARGUMENT,
        /add_capabilities/,
      ],
    ];
    for (const [what, fields, code, details] of badContainers) {
      test(`a container with ${what}`, async () => {
        const err = await berthd.fails(runtime.createContainer, containerRequest(pod, fields));
        assert.deepEqual([err.code, details.test(err.details)], [code, true], err.details);
        assert.deepEqual((await berthd.call(runtime.listContainers, ListContainersRequest.create())).containers, []);
        assert.deepEqual(
          readdirSync(join(berthd.root, 'snapshots')).filter((name) => !name.startsWith('.')),
          [],
        );
      });
    }

    test('unknown ids: status is NotFound, stop and remove are fine', async () => {
      const [podSandboxId, containerId] = ['f'.repeat(64), 'e'.repeat(64)];
      assert.equal(
        (await berthd.fails(runtime.podSandboxStatus, PodSandboxStatusRequest.create({ podSandboxId }))).code,
        status.NOT_FOUND,
      );
      assert.equal(
        (await berthd.fails(runtime.containerStatus, ContainerStatusRequest.create({ containerId }))).code,
        status.NOT_FOUND,
      );
      assert.equal(
        (await berthd.fails(runtime.createContainer, containerRequest(podSandboxId, {}))).code,
        status.NOT_FOUND,
      );
      await removePod(podSandboxId);
      await berthd.call(runtime.stopContainer, { containerId, timeout: 0n });
      await berthd.call(runtime.removeContainer, { containerId });
      await berthd.call(images.removeImage, {
        image: {
          image: 'example.com/nosuch',
          annotations: {},
          userSpecifiedImage: '',
          runtimeHandler: '',
          imageRef: '',
        },
      });
      const { image } = await berthd.call(
        images.imageStatus,
        ImageStatusRequest.create({ image: { image: 'example.com/nosuch' } }),
      );
      assert.equal(image, undefined);
    });

    test('a registry that does not answer', async () => {
      const err = await berthd.fails(
        images.pullImage,
        PullImageRequest.create({ image: { image: '127.0.0.1:1/x:1' } }),
      );
      // The kubelet looks for the word where the code is this one, and nowhere else.
      assert.equal(err.code, status.UNKNOWN);
      assert.match(err.details, /^RegistryUnavailable/);
    });

    for (const [what, script, details] of [
      ['fails', 'echo \'{"cniVersion":"1.0.0","code":7,"msg":"no room"}\'; exit 1', /no room/],
      ['prints garbage', 'echo hello', /bad-plugin/],
    ] as const) {
      test(`a network plugin that ${what}`, async () => {
        const plugin = join(berthd.plugins, 'bad-plugin');
        writeFileSync(plugin, `#!/bin/sh\n[ "$CNI_COMMAND" = ADD ] || exit 0\n${script}\n`, { mode: 0o755 });
        berthd.useNetwork({ type: 'bad-plugin' });
        try {
          const err = await untilDetails(details);
          assert.match(err, details);
          assert.deepEqual(readdirSync(join(berthd.state, 'sandboxes')), [pod]);
        } finally {
          berthd.useNetwork();
          rmSync(plugin);
        }
      });
    }

    /** Runs pods until the new network configuration has been noticed. */
    async function untilDetails(details: RegExp): Promise<string> {
      const giveUpAt = Date.now() + SOON_MS;
      for (;;) {
        const config = podConfig();
        try {
          await removePod(await runPod(config));
        } catch (err) {
          const text = err instanceof Error ? err.message : String(err);
          if (details.test(text) || Date.now() > giveUpAt) return text;
        }
        await delay(20);
      }
    }
  });
});
