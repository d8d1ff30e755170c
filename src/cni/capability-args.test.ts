import assert from 'node:assert/strict';
import { test } from 'node:test';

import fc from 'fast-check';

import { type CniAttachment, checkKey, cniArgs } from './attachment.ts';
import { capabilityArgs, runtimeConfig } from './capability-args.ts';
import type { PluginConfig } from './network-config.ts';

const attachment: CniAttachment = {
  containerId: 'c1',
  netns: '/run/netns/a',
  ifName: 'eth0',
  pod: { namespace: 'default', name: 'web', uid: 'u-1' },
  portMappings: [
    { protocol: 'tcp', containerPort: 80, hostPort: 8080, hostIp: '' },
    { protocol: 'udp', containerPort: 53, hostPort: 5353, hostIp: '127.0.0.1' },
    { protocol: 'tcp', containerPort: 9000, hostPort: 0, hostIp: '' },
  ],
  dns: { servers: ['10.0.0.10'], searches: ['svc'], options: ['ndots:5'] },
  annotations: { 'kubernetes.io/ingress-bandwidth': '10M', 'kubernetes.io/egress-bandwidth': '2k' },
  cgroupPath: '/kubepods/pod1',
  ips: ['10.0.0.7/24'],
};

function plugin(...capabilities: string[]): PluginConfig {
  return { type: 'x', capabilities, body: {} };
}

test('only what a plugin declares is made, and handed to that plugin', () => {
  const plugins = [plugin(), plugin('portMappings'), plugin('ips', 'cgroupPath', 'dns', 'unknown')];
  const args = capabilityArgs(attachment, plugins);
  assert.deepEqual(Object.keys(args).sort(), ['cgroupPath', 'dns', 'ips', 'portMappings']);
  assert.deepEqual(
    plugins.map((one) => Object.keys(runtimeConfig(args, one) ?? {})),
    [[], ['portMappings'], ['ips', 'cgroupPath', 'dns']],
  );
  assert.equal(runtimeConfig(args, plugin()), undefined);
});

test('port mappings without a host port are left out', () => {
  assert.deepEqual(capabilityArgs(attachment, [plugin('portMappings')]), {
    portMappings: [
      { hostPort: 8080, containerPort: 80, protocol: 'tcp' },
      { hostPort: 5353, containerPort: 53, protocol: 'udp', hostIP: '127.0.0.1' },
    ],
  });
  assert.deepEqual(capabilityArgs({ ...attachment, portMappings: [] }, [plugin('portMappings')]), {});
});

test('bandwidth in bits, with a burst that the token bucket can hold', () => {
  assert.deepEqual(capabilityArgs(attachment, [plugin('bandwidth')]), {
    bandwidth: { ingressRate: 10_000_000, ingressBurst: 10_000_000, egressRate: 2000, egressBurst: 200_000 },
  });
  const egress = (rate: string) =>
    capabilityArgs({ ...attachment, annotations: { 'kubernetes.io/egress-bandwidth': rate } }, [plugin('bandwidth')]);
  assert.deepEqual(egress('100k'), { bandwidth: { egressRate: 100_000, egressBurst: 1_048_576 } });
  assert.deepEqual(egress('1P'), { bandwidth: { egressRate: 10 ** 15, egressBurst: 2 ** 31 - 1 } });
  assert.throws(() => egress('fast'), { kind: 'invalid', message: /egress-bandwidth.*"fast" is no quantity/ });
  assert.throws(() => egress('10'), { kind: 'invalid', message: /between 1k and 1P/ });
  assert.throws(() => egress('2P'), { kind: 'invalid', message: /between 1k and 1P/ });
});

test('pod annotations are handed over whole', () => {
  assert.deepEqual(capabilityArgs(attachment, [plugin('io.kubernetes.cri.pod-annotations')]), {
    'io.kubernetes.cri.pod-annotations': attachment.annotations,
  });
});

test('CNI_ARGS in the order that plugins know', () => {
  assert.equal(
    cniArgs(attachment),
    'IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID=u-1',
  );
});

test('a value never becomes another argument', () => {
  fc.assert(
    fc.property(fc.oneof(fc.string(), fc.constantFrom('a;b', 'a=b', 'a\n')), (name) => {
      const pod = { ...attachment.pod, name };
      if (/[;=\p{Cc}]/u.test(name.replace(/[\u0080-\u009f]/g, ''))) {
        assert.throws(() => cniArgs({ containerId: 'c1', pod }), {
          kind: 'invalid',
          message: /^config\.metadata\.name: /,
        });
      } else assert.equal(cniArgs({ containerId: 'c1', pod }).split(';').length, 5);
    }),
  );
});

test('ids and interface names fit into file names', () => {
  const wrong = ['', '..', 'a/b', '../a', '-a', 'a'.repeat(129), 'a b', 'a\0'];
  for (const containerId of wrong) assert.throws(() => checkKey({ containerId, ifName: 'eth0' }), { kind: 'invalid' });
  for (const ifName of ['', '.', '..', 'a/b', 'a:b', 'a b', 'a'.repeat(16)]) {
    assert.throws(() => checkKey({ containerId: 'c', ifName }), { kind: 'invalid' });
  }
  checkKey({ containerId: 'a'.repeat(64), ifName: 'eth0.100' });
});
