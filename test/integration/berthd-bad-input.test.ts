/** What clients, plugins, registries and disks get wrong ends in a clear error, and leaves nothing behind. */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, describe as suite, test } from 'node:test';
import { gzipSync } from 'node:zlib';

import { type ServiceError, status } from '@grpc/grpc-js';

import { AdminService } from '../../proto/gen/berth/admin.ts';
import {
  ImageServiceService as images,
  ListContainersRequest,
  ListImagesRequest,
  ListPodSandboxRequest,
  MountPropagation,
  NamespaceMode,
  PullImageRequest,
  RunPodSandboxRequest,
  RuntimeServiceService as runtime,
  SecurityProfile_ProfileType,
  StatusRequest,
  UpdateContainerResourcesRequest,
} from '../../proto/gen/cri/api.ts';
import { buildBusyboxLayout, hostArchitecture } from '../fakes/images.ts';
import {
  answerError,
  describeBlob,
  type FakeBlob,
  type FakeImage,
  FakeRegistry,
  fakeBlob,
  type Misbehaviour,
} from '../fakes/registry.ts';
import { type FakeMember, tarBytes } from '../fakes/tar-bytes.ts';
import { TestBerthd } from '../harness/berthd.ts';
import { type ContainerFields, eventually, type PodFields } from '../harness/cri-lab.ts';
import { isAlive } from '../harness/machine-state.ts';
import { SOON_MS } from '../harness/patience.ts';
import { PodLab } from '../harness/pod-lab.ts';

const LAYER = 'application/vnd.oci.image.layer.v1.tar+gzip';
const CONFIG = 'application/vnd.oci.image.config.v1+json';
const MANIFEST = 'application/vnd.oci.image.manifest.v1+json';

function expect(err: ServiceError, code: status, details: RegExp): void {
  assert.match(err.details, details);
  assert.equal(status[err.code], status[code], err.details);
}

suite('bad pods and containers', { timeout: 900_000 }, () => {
  let lab: PodLab;
  let pod: string;
  before(async () => {
    lab = await PodLab.start({ files: { 'etc/text': 'no program\n' } });
    pod = await lab.runPod();
  });
  afterEach(async (t) => {
    await lab.afterTest(t, [pod]);
    const { items } = await lab.berthd.call(runtime.listPodSandbox, ListPodSandboxRequest.create());
    assert.deepEqual(
      items.map(({ id }) => id),
      [pod],
    );
    const { containers } = await lab.berthd.call(runtime.listContainers, ListContainersRequest.create());
    assert.deepEqual(containers, []);
    const { rows = [], addresses, networks, ...traces } = lab.berthd.traces();
    assert.deepEqual(traces, { sandboxes: [pod], files: [pod] });
    assert.deepEqual([addresses?.length, networks?.length], [1, 1]);
    assert.deepEqual(
      rows.filter((row) => !row.includes(pod)),
      [],
    );
  });
  after(() => lab.close());

  const options = (namespaceOptions: object): PodFields => ({ linux: { securityContext: { namespaceOptions } } });
  const badPods: [string, PodFields, RegExp][] = [
    ['a name with a slash', { metadata: { name: 'a/b' } }, /^config\.metadata\.name/],
    ['a namespace with a line break', { metadata: { name: 'a', namespace: 'b\n' } }, /^config\.metadata\.namespace/],
    ['a uid too long', { metadata: { name: 'a', uid: 'u'.repeat(300) } }, /^config\.metadata\.uid/],
    ['a host name that is none', { hostname: 'not a name' }, /^config\.hostname/],
    ['a host name too long', { hostname: 'x'.repeat(65) }, /^config\.hostname/],
    ['a log directory that climbs', { logDirectory: '/var/log/../../etc' }, /^config\.log_directory/],
    [
      'a search domain of two words',
      { dnsConfig: { searches: ['a', 'b\nnameserver 1.2.3.4'] } },
      /^config\.dns_config\.searches\[1\]/,
    ],
    [
      'a port that is none',
      { portMappings: [{ containerPort: 80 }, { containerPort: 65_536 }] },
      /^config\.port_mappings\[1\]\.container_port/,
    ],
    [
      'an address of the host that is none',
      { portMappings: [{ containerPort: 80, hostPort: 80, hostIp: 'zz' }] },
      /^config\.port_mappings\[0\]\.host_ip/,
    ],
    [
      'a protocol that is none',
      { portMappings: [{ containerPort: 80, protocol: 9 as never }] },
      /^config\.port_mappings\[0\]\.protocol/,
    ],
    [
      'a host port that leads to no port',
      { portMappings: [{ hostPort: 28_000 }] },
      /^config\.port_mappings\[0\]\.container_port/,
    ],
    [
      'a host port on an address that is none',
      { portMappings: [{ containerPort: 80, hostPort: 28_000, hostIp: 'eth0' }] },
      /^config\.port_mappings\[0\]\.host_ip/,
    ],
    [
      'a host port for two of its ports',
      { portMappings: [80, 81].map((containerPort) => ({ containerPort, hostPort: 28_000 })) },
      /^config\.port_mappings\[1\]\.host_port: is that of config\.port_mappings\[0\]/,
    ],
    [
      'a name server of two words',
      { dnsConfig: { servers: ['10.0.0.1', '10.0.0.2 10.0.0.3'] } },
      /^config\.dns_config\.servers\[1\]/,
    ],
    [
      'more search domains than any resolver takes',
      { dnsConfig: { searches: Array.from({ length: 1000 }, (_, index) => `domain-${index}.example.com`) } },
      /^config\.dns_config: has \d+ bytes/,
    ],
    [
      'huge pages of a size that no kernel has',
      { linux: { resources: { hugepageLimits: [{ pageSize: '3MB', limit: 3n << 20n }] } } },
      /config\.linux\.resources\.hugepage_limits\[0\]\.page_size: 3MB is not a size/,
    ],
    ['a target for its processes', options({ pid: NamespaceMode.TARGET, targetId: 'a' }), /namespace_options\.pid/],
    ['a network per container', options({ network: NamespaceMode.CONTAINER }), /namespace_options\.network/],
    ['a user namespace', options({ usernsOptions: { mode: NamespaceMode.POD } }), /namespace_options\.userns_options/],
    ['a group without a user', { linux: { securityContext: { runAsGroup: { value: 1n } } } }, /run_as_group/],
    ['a negative user', { linux: { securityContext: { runAsUser: { value: -1n } } } }, /run_as_user/],
    [
      'a negative overhead',
      { linux: { overhead: { memoryLimitInBytes: -5n } } },
      /^config\.linux\.overhead\.memory_limit_in_bytes/,
    ],
    [
      'a sysctl that climbs',
      { linux: { sysctls: { 'net/../kernel/hostname': 'x' } } },
      /config\.linux\.sysctls\[net\/\.\.\/kernel\/hostname\]/,
    ],
    [
      'a sysctl that the kernel has not',
      { linux: { sysctls: { 'net.no.such': '1' } } },
      /config\.linux\.sysctls\[net\.no\.such\]/,
    ],
    [
      'a value that the kernel refuses',
      { linux: { sysctls: { 'net.ipv4.ip_forward': 'maybe' } } },
      /net\.ipv4\.ip_forward/,
    ],
    [
      'a sysctl of the network it shares with the host',
      {
        linux: {
          sysctls: { 'net.ipv4.ip_forward': '1' },
          securityContext: { namespaceOptions: { network: NamespaceMode.NODE } },
        },
      },
      /net\.ipv4\.ip_forward/,
    ],
    ['a cgroup parent with a control character', { linux: { cgroupParent: '/a\nb' } }, /^config\.linux\.cgroup_parent/],
  ];
  for (const [what, fields, details] of badPods) {
    test(`a pod with ${what}`, async () => {
      const config = lab.podConfig(fields);
      expect(
        await lab.berthd.fails(runtime.runPodSandbox, RunPodSandboxRequest.create({ config })),
        status.INVALID_ARGUMENT,
        details,
      );
    });
  }

  const secured = (securityContext: object): ContainerFields => ({ linux: { securityContext } });
  const badContainers: [string, ContainerFields, RegExp, status?][] = [
    ['an empty name', { metadata: { name: '' } }, /^config\.metadata\.name/],
    ['no image', { image: { image: '' } }, /^config\.image\.image/],
    ['an image name that is none', { image: { image: 'a b' } }, /^[^"]*config\.image\.image/],
    ['a working directory that is relative', { workingDir: 'here' }, /^config\.working_dir/],
    ['a working directory that is a file', { workingDir: '/etc/passwd/x' }, /config\.working_dir/],
    ['a variable without a name', { envs: [{ key: '', value: Buffer.from('') }] }, /^config\.envs\[0\]\.key/],
    ['a variable whose name has an =', { envs: [{ key: 'a=b', value: Buffer.from('') }] }, /^config\.envs\[0\]\.key/],
    ['a variable that is no text', { envs: [{ key: 'a', value: Buffer.from([0xff]) }] }, /^config\.envs\[0\]\.value/],
    [
      'a mount to a relative path',
      { mounts: [{ containerPath: 'x', hostPath: '/' }] },
      /^config\.mounts\[0\]\.container_path/,
    ],
    [
      'a mount over its root',
      { mounts: [{ containerPath: '/x/..', hostPath: '/' }] },
      /config\.mounts\[0\]\.container_path/,
    ],
    [
      'a mount from a relative path',
      { mounts: [{ containerPath: '/x', hostPath: 'x' }] },
      /^config\.mounts\[0\]\.host_path/,
    ],
    [
      'a propagation that is none',
      { mounts: [{ containerPath: '/x', hostPath: '/tmp', propagation: 9 as never }] },
      /^config\.mounts\[0\]\.propagation/,
    ],
    [
      'a propagation that cannot be',
      {
        mounts: [{ containerPath: '/x', hostPath: '/tmp', propagation: MountPropagation.PROPAGATION_BIDIRECTIONAL }],
      },
      /config\.mounts\[0\]\.propagation/,
    ],
    [
      'a mount option that gives rights',
      { mounts: [{ containerPath: '/x', hostPath: '/tmp', mountOptions: ['suid'] }] },
      /config\.mounts\[0\]\.mount_options/,
    ],
    [
      'a device that is missing',
      { devices: [{ hostPath: '/dev/no-such', containerPath: '/dev/x', permissions: 'r' }] },
      /config\.devices\[0\]\.host_path/,
    ],
    [
      'a device that is none',
      { devices: [{ hostPath: '/etc/passwd', containerPath: '/dev/x', permissions: 'r' }] },
      /config\.devices\[0\]\.host_path/,
    ],
    [
      'a device with other rights',
      { devices: [{ hostPath: '/dev/null', containerPath: '/dev/x', permissions: 'x' }] },
      /^config\.devices\[0\]\.permissions/,
    ],
    [
      'two devices in one place',
      {
        devices: ['/dev/null', '/dev/zero'].map((hostPath) => ({
          hostPath,
          containerPath: '/dev/x',
          permissions: 'r',
        })),
      },
      /config\.devices\[1\]\.container_path: \/dev\/x is that of another device/,
    ],
    [
      'huge pages of a size that no kernel has',
      { linux: { resources: { hugepageLimits: [{ pageSize: '3MB', limit: 3n << 20n }] } } },
      /config\.linux\.resources\.hugepage_limits\[0\]\.page_size: 3MB is not a size/,
    ],
    [
      'CPUs that are not there',
      { linux: { resources: { cpusetCpus: '4000' } } },
      /config\.linux\.resources\.cpuset_cpus: /,
    ],
    ['an absolute log path', { logPath: '/etc/x.log' }, /config\.log_path/],
    ['a log path that climbs inside', { logPath: 'a/../../x.log' }, /config\.log_path/],
    ['a log path that is a folder', { logPath: '.' }, /config\.log_path/],
    ['a stop signal that is none', { stopSignal: 999 as never }, /^config\.stop_signal/],
    [
      'an oom_score_adj out of range',
      { linux: { resources: { oomScoreAdj: 1001n } } },
      /^config\.linux\.resources\.oom_score_adj/,
    ],
    ['negative CPU shares', { linux: { resources: { cpuShares: -1n } } }, /^config\.linux\.resources\.cpu_shares/],
    ['a quota below -1', { linux: { resources: { cpuQuota: -2n } } }, /^config\.linux\.resources\.cpu_quota/],
    ['CPUs that are no list', { linux: { resources: { cpusetCpus: '0-' } } }, /^config\.linux\.resources\.cpuset_cpus/],
    [
      'swap below the memory limit',
      { linux: { resources: { memoryLimitInBytes: 100n << 20n, memorySwapLimitInBytes: 1n << 20n } } },
      /memory_swap_limit_in_bytes/,
    ],
    ['a user too large', secured({ runAsUser: { value: 1n << 33n } }), /run_as_user/],
    ['a group without a user', secured({ runAsGroup: { value: 5n } }), /run_as_group/],
    ['a negative supplemental group', secured({ supplementalGroups: [-1n] }), /supplemental_groups/],
    [
      'a relative seccomp profile',
      secured({ seccomp: { profileType: SecurityProfile_ProfileType.Localhost, localhostRef: 'x.json' } }),
      /localhost_ref/,
    ],
    [
      'a seccomp profile that is no JSON',
      secured({ seccomp: { profileType: SecurityProfile_ProfileType.Localhost, localhostRef: '/etc/passwd' } }),
      /localhost_ref.*\/etc\/passwd/,
    ],
    [
      'a capability to drop that is none',
      secured({ capabilities: { dropCapabilities: ['FLY'] } }),
      /drop_capabilities/,
    ],
    [
      'the processes of an unknown container',
      secured({ namespaceOptions: { pid: NamespaceMode.TARGET, targetId: 'f'.repeat(64) } }),
      /target_id/,
    ],
    ['a command that is a folder', { command: ['/etc'] }, /config\.command/],
    ['a command that is not executable', { command: ['/etc/text'] }, /config\.command/],
    ['a command that is in no PATH', { command: ['no-such-program'] }, /config\.command/],
    [
      'an image that is not here',
      { image: { image: `sha256:${'0'.repeat(64)}` } },
      /config\.image\.image/,
      status.NOT_FOUND,
    ],
  ];
  for (const [what, fields, details, code = status.INVALID_ARGUMENT] of badContainers) {
    test(`a container with ${what}`, async () => expect(await lab.refused(pod, fields), code, details));
  }

  test('what is said twice, and can be had, is no mistake', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'berth-twice-'));
    for (const name of ['one', 'two']) writeFileSync(join(folder, name), name);
    const device = { hostPath: '/dev/zero', containerPath: '/dev/x', permissions: 'r' };
    const printed = await lab.output(pod, {
      command: ['sh', '-c', 'cat /tmp/x; echo " $NAME"; head -c 1 /dev/x | wc -c'],
      mounts: ['one', 'two'].map((name) => ({ hostPath: join(folder, name), containerPath: '/tmp/x' })),
      devices: [device, device],
      envs: ['first', 'last'].map((value) => ({ key: 'NAME', value: Buffer.from(value) })),
    });
    rmSync(folder, { recursive: true });
    // As with runc under any runtime: the later mount lies on top, the later variable wins.
    assert.equal(printed, 'two last\n1');
  });

  test('a container in a pod that is stopped, and a second one of the same name', async () => {
    const other = await lab.runPod();
    const containerId = await lab.create(other, { metadata: { name: 'one' } });
    const another = { metadata: { name: 'one' }, command: ['another'] };
    expect(await lab.refused(other, another), status.ALREADY_EXISTS, /one.*another configuration/);
    expect(
      await lab.berthd.fails(runtime.execSync, { containerId, cmd: ['true'], timeout: 1n }),
      status.FAILED_PRECONDITION,
      /created/,
    );
    expect(await lab.berthd.fails(runtime.reopenContainerLog, { containerId }), status.FAILED_PRECONDITION, /created/);
    await lab.berthd.call(runtime.stopPodSandbox, { podSandboxId: other });
    expect(await lab.refused(other, {}), status.FAILED_PRECONDITION, /not ready/);
    expect(await lab.berthd.fails(runtime.startContainer, { containerId }), status.FAILED_PRECONDITION, /exited/);
  });

  test('unknown ids, and ids that are the beginning of several', async () => {
    const containerId = 'f'.repeat(64);
    for (const err of [
      await lab.berthd.fails(runtime.startContainer, { containerId }),
      await lab.berthd.fails(runtime.execSync, { containerId, cmd: ['true'], timeout: 1n }),
      await lab.berthd.fails(runtime.reopenContainerLog, { containerId }),
      await lab.berthd.fails(
        runtime.updateContainerResources,
        UpdateContainerResourcesRequest.create({ containerId, linux: {} }),
      ),
      await lab.berthd.fails(AdminService.podSteps, { id: containerId }),
      await lab.refused(containerId, {}),
    ])
      expect(err, status.NOT_FOUND, /f{64}/);
    // Of 17 ids, two begin with the same digit.
    const made = await Promise.all(
      Array.from({ length: 17 }, () =>
        lab.runPod(
          lab.podConfig({ linux: { securityContext: { namespaceOptions: { network: NamespaceMode.NODE } } } }),
        ),
      ),
    );
    const digits = made.map((id) => id.slice(0, 1));
    const twice = digits.find((digit, index) => digits.indexOf(digit) !== index) ?? '';
    const err = await lab.berthd.fails(runtime.podSandboxStatus, { podSandboxId: twice, verbose: false });
    expect(err, status.INVALID_ARGUMENT, /ambiguous/);
    await Promise.all(made.map((id) => lab.removePod(id)));
  });

  test('a negative grace period, and an empty id', async () => {
    const containerId = await lab.create(pod);
    expect(
      await lab.berthd.fails(runtime.stopContainer, { containerId, timeout: -1n }),
      status.INVALID_ARGUMENT,
      /^timeout/,
    );
    await lab.berthd.call(runtime.removeContainer, { containerId });
    for (const method of [runtime.startContainer, runtime.removeContainer] as const)
      expect(await lab.berthd.fails(method, { containerId: '' }), status.INVALID_ARGUMENT, /^container_id: is empty/);
    for (const method of [runtime.stopPodSandbox, runtime.removePodSandbox] as const)
      expect(
        await lab.berthd.fails(method, { podSandboxId: '' }),
        status.INVALID_ARGUMENT,
        /^pod_sandbox_id: is empty/,
      );
    expect(await lab.berthd.fails(AdminService.podSteps, { id: '' }), status.INVALID_ARGUMENT, /^id: is empty/);
    // An id that is unknown is fine all the same.
    await lab.berthd.call(runtime.removeContainer, { containerId });
    await lab.berthd.call(runtime.stopContainer, { containerId, timeout: 0n });
  });
});

suite('bad networks', { timeout: 900_000 }, () => {
  let lab: PodLab;
  before(async () => {
    lab = await PodLab.start();
  });
  afterEach(async (t) => {
    lab.berthd.useNetwork();
    await networkIs(true);
    await lab.afterTest(t);
  });
  after(() => lab.close());

  const network = async () => {
    const { status: found } = await lab.berthd.call(runtime.status, StatusRequest.create());
    return found?.conditions.find(({ type }) => type === 'NetworkReady');
  };
  const networkIs = (ready: boolean) =>
    eventually(`NetworkReady is ${ready}`, async () => {
      const found = await network();
      return found?.status === ready ? found : undefined;
    });
  /** Puts a plugin of its own in the place of the network's, and waits until berthd has noticed. */
  const usePlugin = async (name: string, script: string): Promise<void> => {
    writeFileSync(join(lab.berthd.plugins, name), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
    const noticed = lab.berthd.logged(name, 1);
    lab.berthd.useNetwork({ type: name });
    await noticed;
  };
  const fails = async (timeoutMs?: number) =>
    await lab.berthd.fails(runtime.runPodSandbox, RunPodSandboxRequest.create({ config: lab.podConfig() }), timeoutMs);

  test('no configuration: pods on the host network run, others are told why they do not', async () => {
    rmSync(join(lab.berthd.networks, '10-test.conflist'));
    const found = await networkIs(false);
    assert.deepEqual([found.reason, found.message.includes(lab.berthd.networks)], ['NetworkPluginNotReady', true]);
    const hostNetwork = { securityContext: { namespaceOptions: { network: NamespaceMode.NODE } } };
    await lab.removePod(await lab.runPod(lab.podConfig({ linux: hostNetwork })));
    const waiting = lab.runPod();
    lab.berthd.useNetwork();
    assert.ok(lab.berthd.network.owns(await lab.ipOf(await waiting)), 'a pod waits a while for its network');
  });

  test('a configuration that is no JSON', async () => {
    writeFileSync(join(lab.berthd.networks, '10-test.conflist'), '{"name": ');
    const found = await networkIs(false);
    assert.match(found.message, /10-test\.conflist/);
  });

  for (const [what, script, code, details] of [
    [
      'fails with an error',
      'echo \'{"cniVersion":"1.0.0","code":11,"msg":"try later"}\'; exit 1',
      status.UNAVAILABLE,
      /code 11.*try later/,
    ],
    ['fails without a word', 'exit 3', status.FAILED_PRECONDITION, /exited with 3/],
    ['prints garbage', 'echo "{]"', status.FAILED_PRECONDITION, /no valid result/],
    [
      'prints no addresses that are any',
      'echo \'{"cniVersion":"1.0.0","ips":[{"address":"10.1.2.3.4/99"}]}\'',
      status.FAILED_PRECONDITION,
      /no valid result/,
    ],
    ['never stops printing', 'exec yes', status.FAILED_PRECONDITION, /printed more than/],
    ['is killed', 'kill -9 $$', status.FAILED_PRECONDITION, /SIGKILL/],
  ] as const) {
    test(`a plugin that ${what}`, async () => {
      await usePlugin(`bad-${what.replaceAll(' ', '-')}`, `[ "$CNI_COMMAND" = ADD ] || exit 0\n${script}`);
      expect(await fails(), code, details);
    });
  }

  test('a plugin that is missing', async () => {
    const noticed = lab.berthd.logged('no-such-plugin', 1);
    lab.berthd.useNetwork({ type: 'no-such-plugin' });
    await noticed;
    expect(await fails(1_000), status.UNAVAILABLE, /no-such-plugin/);
  });

  test('a plugin that fails DEL keeps the pod listed until a later stop works', async () => {
    const flag = join(lab.berthd.plugins, 'broken');
    const result = '{"cniVersion":"1.0.0","ips":[{"address":"10.9.9.9/24"}]}';
    await usePlugin(
      'bad-del',
      `[ "$CNI_COMMAND" = DEL ] && [ -e ${flag} ] && exit 9\n[ "$CNI_COMMAND" = ADD ] && echo '${result}'\nexit 0`,
    );
    const podSandboxId = await lab.runPod();
    assert.equal(await lab.ipOf(podSandboxId), '10.9.9.9');
    writeFileSync(flag, '');
    const err = await lab.berthd.fails(runtime.stopPodSandbox, { podSandboxId });
    assert.match(err.details, /exited with 9/);
    assert.ok((await lab.podStatus(podSandboxId)).status);
    rmSync(flag);
    await lab.removePod(podSandboxId);
  });

  test('a plugin that is at work when berthd is killed does not go on after the address was given back', async () => {
    const [started, made] = [join(lab.berthd.plugins, 'at-work'), join(lab.berthd.plugins, 'made')];
    const add = `echo $$ > ${started}; sleep 3; echo > ${made}; echo '{"cniVersion":"1.0.0"}'`;
    await usePlugin(
      'bad-late',
      `[ "$CNI_COMMAND" = DEL ] && rm -f ${made}\n[ "$CNI_COMMAND" = ADD ] || exit 0\n${add}`,
    );
    const config = lab.podConfig();
    const call = lab.berthd.fails(runtime.runPodSandbox, RunPodSandboxRequest.create({ config }));
    const pid = await eventually(
      'the plugin runs',
      () => (existsSync(started) && readFileSync(started, 'utf8').trim()) || undefined,
    );
    await lab.berthd.end('SIGKILL');
    await call;
    assert.ok(isAlive(pid), 'it goes on by itself');
    lab.berthd.useNetwork();
    await lab.berthd.start();
    assert.ok(!isAlive(pid), 'it was ended');
    assert.ok(!existsSync(made));
    await lab.removePod(await lab.runPod(config));
  });

  test('a plugin that hangs: the client leaves, and so does all of it when berthd stops', async () => {
    const started = join(lab.berthd.plugins, 'started');
    await usePlugin('bad-hang', `[ "$CNI_COMMAND" = ADD ] || exit 0\necho $$ > ${started}\nsleep 3600 & wait`);
    const config = lab.podConfig();
    const call = lab.berthd.fails(runtime.runPodSandbox, RunPodSandboxRequest.create({ config }));
    const pid = await eventually(
      'the plugin runs',
      () => (existsSync(started) && readFileSync(started, 'utf8').trim()) || undefined,
    );
    lab.berthd.useNetwork();
    await lab.berthd.end('SIGTERM');
    assert.ok([status.CANCELLED, status.UNAVAILABLE].includes((await call).code));
    assert.ok(!isAlive(pid), 'the plugin is gone');
    assert.doesNotMatch(execFileSync('ps', ['-eo', 'args'], { encoding: 'utf8' }), /^sleep 3600$/m, 'with its child');
    await lab.berthd.start();
    await lab.removePod(await lab.runPod(config));
  });
});

/** An image of one layer made from these members; what is given with it takes the place of what is right. */
function imageOf(
  members: readonly FakeMember[],
  wrong: { layer?: Buffer; diffId?: string; size?: number } = {},
): FakeImage {
  const tar = tarBytes(members);
  const diffId = wrong.diffId ?? `sha256:${createHash('sha256').update(tar).digest('hex')}`;
  const config = fakeBlob(
    { os: 'linux', architecture: hostArchitecture, config: {}, rootfs: { type: 'layers', diff_ids: [diffId] } },
    CONFIG,
  );
  const layer = fakeBlob(gzipSync(tar), LAYER);
  const described = { ...describeBlob(layer), size: wrong.size ?? layer.size };
  const manifest = fakeBlob(
    { schemaVersion: 2, mediaType: MANIFEST, config: describeBlob(config), layers: [described] },
    MANIFEST,
  );
  return { manifest, config, layers: [{ ...layer, bytes: wrong.layer ?? layer.bytes }], diffIds: [diffId] };
}

suite('bad registries and images', { timeout: 900_000 }, () => {
  const outside = '/tmp/berth-test-escape';
  const good = imageOf([{ name: 'etc/' }, { name: 'etc/file', data: randomBytes(100_000) }]);
  let berthd: TestBerthd;
  let registry: FakeRegistry;
  let folder: string;
  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'berth-bad-'));
    registry = await FakeRegistry.start();
    berthd = new TestBerthd();
    await berthd.start();
  });
  afterEach(async () => {
    registry.misbehave = undefined;
    const listed = await berthd.call(images.listImages, ListImagesRequest.create());
    assert.deepEqual(listed.images, []);
    assert.deepEqual(
      readdirSync(join(berthd.root, 'image/layers')).filter((name) => !name.startsWith('.')),
      [],
    );
    assert.ok(!existsSync(outside), 'written outside of the layer');
    assert.ok(!existsSync(join(berthd.root, 'evil')) && !existsSync(join(berthd.root, 'image/evil')));
  });
  after(async () => {
    // First: one that listens would keep this process when something is found that was left.
    await registry.close();
    await berthd[Symbol.asyncDispose]();
    rmSync(folder, { recursive: true });
  });

  const pull = (image: string) => berthd.fails(images.pullImage, PullImageRequest.create({ image: { image } }));
  const pullOf = async (image: FakeImage): Promise<ServiceError> => {
    registry.add('team/app', image, 'v1');
    return await pull(`${registry.host}/team/app:v1`);
  };

  for (const reference of [
    '',
    'a/UPPER',
    'a/b:tag:tag',
    'a b',
    'x@sha256:123',
    '../etc/passwd',
    `a${'/b'.repeat(200)}`,
  ]) {
    test(`the reference ${JSON.stringify(reference.slice(0, 30))}`, async () => {
      const err = await pull(reference);
      assert.equal(status[err.code], 'INVALID_ARGUMENT', err.details);
    });
  }

  const answers =
    (code: number, name: string, headers: Record<string, string> = {}): Misbehaviour =>
    (_req, res) => {
      for (const [key, value] of Object.entries(headers)) res.setHeader(key, value);
      answerError(res, code, name);
      return true;
    };
  const silent: Misbehaviour = () => true;
  const registries: [string, Misbehaviour, status, RegExp][] = [
    ['401', answers(401, 'UNAUTHORIZED'), status.PERMISSION_DENIED, /refused to serve it without credentials.*401/],
    ['403', answers(403, 'DENIED'), status.PERMISSION_DENIED, /403 \(DENIED\)/],
    ['404', answers(404, 'MANIFEST_UNKNOWN'), status.NOT_FOUND, /not found/],
    [
      '429',
      answers(429, 'TOOMANYREQUESTS', { 'retry-after': '3600' }),
      status.UNKNOWN,
      /^RegistryUnavailable.*rate limit/,
    ],
    ['500', answers(500, 'UNKNOWN'), status.UNKNOWN, /^RegistryUnavailable.*500/],
    ['503', answers(503, 'UNAVAILABLE', { 'retry-after': '3600' }), status.UNKNOWN, /^RegistryUnavailable.*503/],
    [
      'garbage',
      (_req, res) => {
        res.writeHead(200, { 'content-type': MANIFEST }).end('{"]');
        return true;
      },
      status.FAILED_PRECONDITION,
      /not JSON/,
    ],
    [
      'a page for people',
      (_req, res) => {
        res.writeHead(200, { 'content-type': 'text/html' }).end('<html>');
        return true;
      },
      status.FAILED_PRECONDITION,
      /not JSON/,
    ],
    [
      'nothing, and hangs up',
      (req) => {
        req.socket.destroy();
        return true;
      },
      status.UNKNOWN,
      /^RegistryUnavailable/,
    ],
    [
      'a redirect to itself',
      (req, res) => {
        res.writeHead(307, { location: req.url ?? '' }).end();
        return true;
      },
      status.UNKNOWN,
      /^RegistryUnavailable.*redirect/,
    ],
  ];
  for (const [what, misbehave, code, details] of registries) {
    test(`a registry that answers ${what}`, async () => {
      registry.misbehave = misbehave;
      expect(await pull(`${registry.host}/team/app:v1`), code, details);
    });
  }

  test('a registry that never answers: the client may leave, and berthd can stop', async () => {
    registry.misbehave = silent;
    const seen = registry.seen.length;
    const call = pull(`${registry.host}/team/silent:v1`);
    await eventually('the registry was asked', () => (registry.seen.length > seen ? true : undefined));
    const startedMs = performance.now();
    await berthd.end('SIGTERM');
    assert.ok(performance.now() - startedMs < SOON_MS);
    assert.ok([status.CANCELLED, status.UNAVAILABLE].includes((await call).code));
    await berthd.start();
  });

  test('a layer with a wrong digest', async () => {
    const bytes = Buffer.from(good.layers[0]?.bytes ?? '');
    bytes[50] = (bytes[50] ?? 0) ^ 1;
    expect(
      await pullOf(imageOf([{ name: 'x', data: 'y' }], { layer: randomBytes(200) })),
      status.UNAVAILABLE,
      /digest|bytes/,
    );
    registry.add('team/app', { ...good, layers: good.layers.map((layer) => ({ ...layer, bytes })) }, 'v1');
    expect(await pull(`${registry.host}/team/app:v1`), status.UNAVAILABLE, /digest/);
  });

  test('a layer that is cut off', async () => {
    const whole = good.layers[0] as FakeBlob;
    registry.add(
      'team/app',
      { ...good, layers: [{ ...whole, bytes: whole.bytes.subarray(0, 40_000), size: 40_000 }] },
      'v1',
    );
    expect(await pull(`${registry.host}/team/app:v1`), status.UNAVAILABLE, /40000|size|bytes/);
    registry.misbehave = (req, res) => {
      if (!req.url?.includes('/blobs/') || !req.url.endsWith(whole.digest)) return false;
      res.writeHead(200, { 'content-length': whole.size });
      res.write(whole.bytes.subarray(0, 40_000), () => res.destroy());
      return true;
    };
    expect(await pull(`${registry.host}/team/app:v1`), status.UNKNOWN, /^RegistryUnavailable/);
  });

  test('a manifest that lies about the size or the content of a layer', async () => {
    expect(await pullOf(imageOf([{ name: 'x', data: 'y' }], { size: 5 })), status.UNAVAILABLE, /size|bytes/);
    const other = `sha256:${'1'.repeat(64)}`;
    expect(await pullOf(imageOf([{ name: 'x', data: 'y' }], { diffId: other })), status.FAILED_PRECONDITION, /diff id/);
  });

  test('a manifest whose digest is another', async () => {
    registry.addDocument('team/app', { ...good.manifest, digest: `sha256:${'2'.repeat(64)}` });
    expect(await pull(`${registry.host}/team/app@sha256:${'2'.repeat(64)}`), status.UNAVAILABLE, /digest/);
  });

  const hostile: [string, FakeMember[]][] = [
    ['climbs out', [{ name: '../evil', data: 'x' }]],
    ['climbs out deep inside', [{ name: 'a/b/../../../../evil', data: 'x' }]],
    [
      'goes through a link',
      [
        { name: 'out', type: '2', link: '/tmp' },
        { name: 'out/berth-test-escape', data: 'x' },
      ],
    ],
    [
      'goes through a relative link',
      [
        { name: 'out', type: '2', link: '../../../../../../tmp' },
        { name: 'out/berth-test-escape', data: 'x' },
      ],
    ],
    [
      'is a hard link to a file outside',
      [
        { name: 'in', type: '1', link: '../../../../../../etc/passwd' },
        { name: 'in', data: 'x' },
      ],
    ],
    [
      'is a hard link through a link',
      [
        { name: 'out', type: '2', link: '/etc' },
        { name: 'passwd', type: '1', link: 'out/passwd' },
      ],
    ],
    ['is a whiteout of what is above', [{ name: '.wh...', data: '' }]],
    ['has a name with a NUL', [{ name: 'x', pax: { path: 'a\0b' }, data: 'x' }]],
  ];
  for (const [what, members] of hostile) {
    test(`an archive with a member that ${what}`, async () => {
      const passwd = readFileSync('/etc/passwd');
      const image = imageOf(members);
      registry.add('team/hostile', image, 'v1');
      const reference = `${registry.host}/team/hostile:v1`;
      try {
        await berthd.call(images.pullImage, PullImageRequest.create({ image: { image: reference } }));
        // Taken in without leaving the layer is fine as well.
        await berthd.call(images.removeImage, {
          image: { image: reference, annotations: {}, userSpecifiedImage: '', runtimeHandler: '', imageRef: '' },
        });
      } catch (err) {
        expect(err as ServiceError, status.INVALID_ARGUMENT, /unpack layer/);
      }
      assert.deepEqual(readFileSync('/etc/passwd'), passwd);
    });
  }

  test('files that are no images', async () => {
    const load = (path: string) => berthd.fails(AdminService.loadImage, { path, name: '' });
    expect(await load(''), status.INVALID_ARGUMENT, /^path/);
    expect(await load('relative.tar'), status.INVALID_ARGUMENT, /^path/);
    expect(await load('/no/such.tar'), status.INVALID_ARGUMENT, /^path: \/no\/such\.tar/);
    expect(await load('/etc/passwd'), status.INVALID_ARGUMENT, /\/etc\/passwd/);
    expect(await load('/dev/zero'), status.INVALID_ARGUMENT, /\/dev\/zero/);
    expect(await load(folder), status.INVALID_ARGUMENT, /no index\.json/);
    const damaged = join(folder, 'damaged');
    const built = await buildBusyboxLayout(damaged, { tag: 'example.com/damaged:1' });
    const blob = join(damaged, 'blobs/sha256', built.layerDigests[0]?.slice('sha256:'.length) ?? '');
    const bytes = readFileSync(blob);
    bytes[1000] = (bytes[1000] ?? 0) ^ 1;
    writeFileSync(blob, bytes);
    expect(await load(damaged), status.INVALID_ARGUMENT, /damaged/);
    writeFileSync(blob, bytes.subarray(0, 5000));
    expect(await load(damaged), status.INVALID_ARGUMENT, /damaged/);
    rmSync(blob);
    expect(await load(damaged), status.INVALID_ARGUMENT, /blobs\/sha256/);
  });
});

suite('no space left', { timeout: 900_000 }, () => {
  let disk: string;
  let lab: PodLab;
  before(async () => {
    disk = mkdtempSync(join(tmpdir(), 'berth-small-disk-'));
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=24m', 'berth-test', disk]);
    mkdirSync(join(disk, 'root'));
    lab = await PodLab.start({ root: join(disk, 'root') });
  });
  afterEach((t) => lab.afterTest(t));
  after(async () => {
    await lab.close();
    execFileSync('umount', [disk]);
    rmSync(disk, { recursive: true });
  });

  test('an image that does not fit', async () => {
    const layout = mkdtempSync(join(tmpdir(), 'berth-large-'));
    try {
      await buildBusyboxLayout(layout, {
        tag: 'example.com/large:1',
        compression: 'none',
        layers: [{ large: randomBytes(30_000_000).toString('base64') }],
      });
      const before = execFileSync('du', ['-sk', join(disk, 'root/image')], { encoding: 'utf8' });
      expect(
        await lab.berthd.fails(AdminService.loadImage, { path: layout, name: '' }),
        status.RESOURCE_EXHAUSTED,
        /no (room|space)/i,
      );
      const { images: listed } = await lab.berthd.call(images.listImages, ListImagesRequest.create());
      assert.equal(listed.length, 1);
      assert.equal(execFileSync('du', ['-sk', join(disk, 'root/image')], { encoding: 'utf8' }), before);
    } finally {
      rmSync(layout, { recursive: true });
    }
  });

  test('a container fills the disk: others are refused clearly, and what is there can be removed', async () => {
    const pod = await lab.runPod();
    const id = await lab.start(pod);
    const filled = await lab.tryExec(
      id,
      'sh',
      '-c',
      'cat /dev/zero > /fill; for i in 1 2 3 4 5; do echo > /fill$i; done',
    );
    assert.match(filled.text, /No space left/);
    const refused = await lab.berthd.fails(
      runtime.runPodSandbox,
      RunPodSandboxRequest.create({ config: lab.podConfig() }),
    );
    expect(refused, status.RESOURCE_EXHAUSTED, /space|full/i);
    await lab.removePod(pod);
    await lab.removePod(await lab.runPod());
  });
});
