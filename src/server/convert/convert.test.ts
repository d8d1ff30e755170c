import assert from 'node:assert/strict';
import { describe as suite, test } from 'node:test';

import {
  ContainerConfig,
  LinuxContainerResources,
  NamespaceMode,
  PodSandboxConfig,
  SecurityProfile_ProfileType,
  Signal,
} from '../../../proto/gen/cri/api.ts';
import { containerSpecFromProto } from './container-config.ts';
import { userToProto } from './image.ts';
import { resourcesFromProto, resourcesToProto } from './resources.ts';
import { sandboxSpecFromProto } from './sandbox-config.ts';
import { signalFromProto, signalToProto } from './signals.ts';

type SandboxFields = Parameters<typeof PodSandboxConfig.create>[0];
type ContainerFields = Parameters<typeof ContainerConfig.create>[0];

const sandbox = (fields: SandboxFields = {}) =>
  sandboxSpecFromProto(
    PodSandboxConfig.create({ metadata: { name: 'web', namespace: 'shop', uid: 'u1' }, ...fields }),
    '',
  );
const container = (fields: ContainerFields = {}) =>
  containerSpecFromProto(
    ContainerConfig.create({ metadata: { name: 'main' }, image: { image: 'busybox' }, ...fields }),
  );

suite('sandbox configuration', () => {
  test('a plain one gets pod namespaces and no limits', () => {
    const spec = sandbox();
    assert.deepEqual(spec.security.namespaces, {
      network: 'pod',
      pid: 'pod',
      ipc: 'pod',
      targetId: '',
      user: undefined,
    });
    assert.equal(spec.dns, undefined);
    assert.equal(spec.resources, undefined);
  });

  test('annotations and labels come through unaltered', () => {
    const annotations = { 'a/b': ' two\nlines ', '': 'empty key' };
    assert.deepEqual(sandbox({ annotations, labels: annotations }).annotations, annotations);
  });

  const bad: [string, SandboxFields, RegExp][] = [
    ['a name is missing', { metadata: { name: '' } }, /^config\.metadata\.name: is empty/],
    ['a name has a slash', { metadata: { name: 'a/b' } }, /^config\.metadata\.name: /],
    ['a namespace has a NUL byte', { metadata: { name: 'a', namespace: 'x\0' } }, /^config\.metadata\.namespace: /],
    ['the host name is none', { hostname: 'bad host' }, /^config\.hostname: /],
    ['the host name is too long', { hostname: 'x'.repeat(65) }, /^config\.hostname: /],
    ['the log directory is relative', { logDirectory: 'logs' }, /^config\.log_directory: /],
    ['the log directory climbs', { logDirectory: '/var/../etc' }, /^config\.log_directory: /],
    ['the log directory is too long', { logDirectory: '/x'.repeat(2048) }, /^config\.log_directory: has 4096 bytes/],
    [
      'the log directory has a name too long',
      { logDirectory: `/a/${'é'.repeat(128)}` },
      /^config\.log_directory: .*name of 256 bytes/,
    ],
    ['a DNS server is two words', { dnsConfig: { servers: ['1.1.1.1 x'] } }, /^config\.dns_config\.servers\[0\]: /],
    [
      'a port is out of range',
      { portMappings: [{ containerPort: 70_000 }] },
      /^config\.port_mappings\[0\]\.container_port: /,
    ],
    [
      'a host port is taken twice',
      {
        portMappings: [
          { hostPort: 80, containerPort: 80 },
          { hostPort: 81, containerPort: 80, hostIp: '::1' },
          { hostPort: 81, containerPort: 81 },
          { hostPort: 81, containerPort: 82, hostIp: '::1' },
        ],
      },
      /^config\.port_mappings\[3\]\.host_port: is that of config\.port_mappings\[1\]/,
    ],
    [
      'a host port leads to no port',
      { portMappings: [{ containerPort: 0, hostPort: 1 }] },
      /^config\.port_mappings\[0\]\.container_port: /,
    ],
    [
      'ports are too many',
      { portMappings: Array(5000).fill({ hostPort: 1, containerPort: 1 }) },
      /^config\.port_mappings: /,
    ],
    ['a host address is none', { portMappings: [{ hostIp: 'lo' }] }, /^config\.port_mappings\[0\]\.host_ip: /],
    ['a protocol is unknown', { portMappings: [{ protocol: 9 as 0 }] }, /^config\.port_mappings\[0\]\.protocol: /],
    [
      'a namespace mode is unknown',
      { linux: { securityContext: { namespaceOptions: { network: 7 as 0 } } } },
      /^config\.linux\.security_context\.namespace_options\.network: /,
    ],
    [
      'a group comes without a user',
      { linux: { securityContext: { runAsGroup: { value: 5n } } } },
      /^config\.linux\.security_context\.run_as_group: /,
    ],
    [
      'a localhost profile has no name',
      { linux: { securityContext: { seccomp: { profileType: SecurityProfile_ProfileType.Localhost } } } },
      /^config\.linux\.security_context\.seccomp\.localhost_ref: /,
    ],
    [
      "the pod's limit is negative",
      { linux: { resources: { memoryLimitInBytes: -2n } } },
      /^config\.linux\.resources\.memory_limit_in_bytes: /,
    ],
  ];
  for (const [what, fields, message] of bad) {
    test(`is refused by the field's name when ${what}`, () => {
      assert.throws(() => sandbox(fields), { kind: 'invalid', message });
    });
  }

  test('is refused when it or its metadata is missing', () => {
    assert.throws(() => sandboxSpecFromProto(undefined, ''), { kind: 'invalid', message: 'config: is missing' });
    assert.throws(() => sandboxSpecFromProto(PodSandboxConfig.create(), ''), {
      kind: 'invalid',
      message: 'config.metadata: is missing',
    });
  });
});

suite('container configuration', () => {
  test('without a security context the default paths are masked; with one its lists are meant', () => {
    assert.equal(container().security.maskedPaths, undefined);
    assert.deepEqual(container({ linux: { securityContext: {} } }).security.maskedPaths, []);
  });

  test('capabilities lose their prefix', () => {
    const capabilities = {
      addCapabilities: ['cap_net_admin'],
      dropCapabilities: ['ALL'],
      addAmbientCapabilities: ['CAP_CHOWN'],
    };
    assert.deepEqual(container({ linux: { securityContext: { capabilities } } }).security.capabilities, {
      add: ['NET_ADMIN'],
      drop: ['ALL'],
      addAmbient: ['CHOWN'],
    });
  });

  test('profiles may come in the old fields, and the new ones win', () => {
    const profiles = (securityContext: object) => {
      const { seccomp, apparmor } = container({ linux: { securityContext } }).security;
      return [seccomp, apparmor];
    };
    const both = (name: string) => profiles({ seccompProfilePath: name, apparmorProfile: name });
    assert.deepEqual(both(''), [undefined, undefined]);
    assert.deepEqual(both('runtime/default'), [{ type: 'runtimeDefault' }, { type: 'runtimeDefault' }]);
    assert.deepEqual(both('docker/default'), both('runtime/default'));
    assert.deepEqual(both('unconfined'), [{ type: 'unconfined' }, { type: 'unconfined' }]);
    assert.deepEqual(both('localhost//a/b.json')[0], { type: 'localhost', reference: '/a/b.json' });
    assert.deepEqual(
      profiles({ seccompProfilePath: 'unconfined', seccomp: { profileType: 0 }, apparmorProfile: 'localhost/mine' }),
      [{ type: 'runtimeDefault' }, { type: 'localhost', reference: 'mine' }],
    );
    const seccomp = sandbox({ linux: { securityContext: { seccompProfilePath: 'runtime/default' } } }).security.seccomp;
    assert.deepEqual(seccomp, { type: 'runtimeDefault' });
    for (const name of ['localhost/', 'mine'])
      assert.throws(() => both(name), { kind: 'invalid', message: /seccomp_profile_path: ".*" is none of/ });
  });

  const bad: [string, ContainerFields, RegExp][] = [
    ['it has no name', { metadata: { name: '' } }, /^config\.metadata\.name: is empty/],
    ['it has no image', { image: { image: '' } }, /^config\.image\.image: is empty/],
    ['an argument is too long', { args: ['a', 'x'.repeat(131_072)] }, /^config\.args\[1\]: has 131072 bytes/],
    ['the program has no name that a file can have', { command: ['x'.repeat(256)] }, /^config\.command\[0\]: /],
    [
      'a variable is too long',
      { envs: [{ key: 'A', value: Buffer.alloc(131_070, 'x') }] },
      /^config\.envs\[0\]\.value: has 131072 bytes/,
    ],
    ['a variable has no name', { envs: [{ key: '', value: Buffer.from('x') }] }, /^config\.envs\[0\]\.key: /],
    [
      'a variable is not UTF-8',
      { envs: [{ key: 'A', value: Buffer.from([0xff]) }] },
      /^config\.envs\[0\]\.value: is not UTF-8/,
    ],
    [
      'a mount has a relative target',
      { mounts: [{ containerPath: 'x', hostPath: '/' }] },
      /^config\.mounts\[0\]\.container_path: /,
    ],
    ['a mount has no source', { mounts: [{ containerPath: '/x' }] }, /^config\.mounts\[0\]\.host_path: /],
    [
      'a device has bad permissions',
      { devices: [{ containerPath: '/x', hostPath: '/x', permissions: 'rx' }] },
      /^config\.devices\[0\]\.permissions: /,
    ],
    ['the working directory is relative', { workingDir: 'x' }, /^config\.working_dir: /],
    ['the stop signal is unknown', { stopSignal: 99 as 0 }, /^config\.stop_signal: /],
    [
      'a user is negative',
      { linux: { securityContext: { runAsUser: { value: -1n } } } },
      /\.run_as_user: -1 is less than 0/,
    ],
    [
      'a part of a label is none',
      { linux: { securityContext: { selinuxOptions: { user: 'a:b', role: '', type: '', level: '' } } } },
      /\.selinux_options\.user: "a:b" is no part of a label/,
    ],
    [
      'a level would break out of its quotes',
      { linux: { securityContext: { selinuxOptions: { user: '', role: '', type: '', level: 's0",suid' } } } },
      /\.selinux_options\.level: /,
    ],
    [
      'the target of a PID namespace is not named',
      { linux: { securityContext: { namespaceOptions: { pid: NamespaceMode.TARGET } } } },
      /\.namespace_options\.target_id: /,
    ],
  ];
  for (const [what, fields, message] of bad) {
    test(`is refused by the field's name when ${what}`, () => {
      assert.throws(() => container(fields), { kind: 'invalid', message });
    });
  }
});

suite('resources', () => {
  test('0 is "not said", and what is said comes back the same', () => {
    const said = LinuxContainerResources.create({
      cpuShares: 512n,
      cpuQuota: -1n,
      memoryLimitInBytes: 1_000_000n,
      cpusetCpus: '0-1,3',
      unified: { 'memory.high': '5' },
    });
    const domain = resourcesFromProto(said, 'linux');
    assert.deepEqual(domain, {
      cpuShares: 512,
      cpuQuotaUs: -1,
      memoryLimitBytes: 1_000_000,
      cpusetCpus: '0-1,3',
      hugepageLimits: [],
      unified: { 'memory.high': '5' },
    });
    assert.deepEqual(resourcesToProto(domain), said);
  });

  for (const [field, value] of [
    ['cpuQuota', -2n],
    ['cpuShares', -1n],
    ['memoryLimitInBytes', -5n],
    ['memoryLimitInBytes', 2n ** 62n],
    ['oomScoreAdj', 1001n],
    ['cpuPeriod', 1_000_001n],
  ] as const) {
    test(`${field} ${value} is refused`, () => {
      assert.throws(() => resourcesFromProto(LinuxContainerResources.create({ [field]: value }), 'linux'), {
        kind: 'invalid',
        message: /^linux\./,
      });
    });
  }

  test('swap below memory, cpusets and unified keys that are none are refused', () => {
    const refuse = (fields: Parameters<typeof LinuxContainerResources.create>[0], message: RegExp): void => {
      assert.throws(() => resourcesFromProto(LinuxContainerResources.create(fields), 'linux'), {
        kind: 'invalid',
        message,
      });
    };
    refuse({ memoryLimitInBytes: 100n, memorySwapLimitInBytes: 50n }, /memory_swap_limit_in_bytes/);
    refuse({ cpuShares: 1n }, /cpu_shares: 1 is less than 2/);
    refuse({ cpusetCpus: 'all' }, /cpuset_cpus/);
    refuse({ cpusetCpus: '99999999999999999999' }, /cpuset_cpus/);
    refuse({ cpusetMems: `0${',0'.repeat(5000)}` }, /cpuset_mems: has 10001 characters/);
    refuse({ unified: { '../x': '1' } }, /unified/);
    refuse({ hugepageLimits: [{ pageSize: '2M', limit: 1n }] }, /page_size/);
  });
});

suite('signals', () => {
  for (const [signal, name] of Object.entries({
    SIGTERM: 'SIGTERM',
    SIGRTMIN: 'SIGRTMIN',
    SIGRTMINPLUS3: 'SIGRTMIN+3',
    SIGRTMAXMINUS1: 'SIGRTMAX-1',
  })) {
    test(`${signal} is ${name} and back`, () => {
      const value =
        Object.entries(Signal).find(([word]) => word === `SIGNAL_${signal}`)?.[1] ?? Signal.SIGNAL_RUNTIME_DEFAULT;
      assert.equal(signalFromProto(value, 'x'), name);
      assert.equal(signalToProto(name), value);
    });
  }

  test('none is left to the image', () => assert.equal(signalFromProto(Signal.SIGNAL_RUNTIME_DEFAULT, 'x'), undefined));
});

test("an image's user is a number, a name, or root", () => {
  assert.deepEqual(userToProto('1000:50'), { uid: { value: 1000n }, username: '' });
  assert.deepEqual(userToProto('web:web'), { uid: undefined, username: 'web' });
  assert.deepEqual(userToProto(''), { uid: { value: 0n }, username: '' });
});
