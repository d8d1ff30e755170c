import assert from 'node:assert/strict';
import { describe as suite, test } from 'node:test';

import type { Finding } from './finding.ts';
import { type KernelFacts, kernelFindings } from './kernel-findings.ts';

const v2 = { version: 2, controllers: [], name: '', mountPoint: '/sys/fs/cgroup' } as const;
const good: KernelFacts = {
  release: '6.12.1-amd64',
  namespaces: new Set(['mnt', 'net', 'ipc', 'uts', 'pid', 'user']),
  hasSeccomp: true,
  capabilities: new Set(
    'SYS_ADMIN NET_ADMIN SYS_CHROOT MKNOD CHOWN DAC_OVERRIDE FOWNER KILL SETUID SETGID'
      .split(' ')
      .map((name) => `CAP_${name}`),
  ),
  hierarchies: [v2],
  controllers: new Set(['cpu', 'cpuset', 'memory', 'pids']),
};
const shown = (found: readonly Finding[]): string[] => found.map(({ severity, subject }) => `${severity} ${subject}`);

suite('the kernel', () => {
  test('a good one has no findings', () => assert.deepEqual(kernelFindings(good), []));

  const cases: [string, Partial<KernelFacts>, string, RegExp][] = [
    ['too old', { release: '5.4.0' }, 'error kernel 5.4.0', /openat2/],
    ['without idmapped mounts', { release: '5.10.0-1' }, 'info kernel 5.10.0-1', /5\.12/],
    ['without user namespaces for pods', { release: '6.1.0' }, 'info kernel 6.1.0', /user namespace/],
    ['without a namespace', { namespaces: new Set(['mnt', 'net', 'uts', 'pid']) }, 'error ipc namespaces', /none/],
    ['without seccomp', { hasSeccomp: false }, 'warning seccomp', /RuntimeDefault/],
    ['without a capability', { capabilities: new Set() }, 'error capabilities', /CAP_SYS_ADMIN/],
    ['without cgroups', { hierarchies: [] }, 'error cgroups', /none is mounted/],
    ['without a controller', { controllers: new Set(['cpu', 'cpuset', 'pids']) }, 'warning cgroups', /memory/],
    ['v1 without devices', { hierarchies: [{ ...v2, version: 1 }] }, 'warning cgroups', /devices.*v1/],
  ];
  for (const [what, facts, expected, message] of cases) {
    test(`one ${what} is told, with what to do`, () => {
      const found = kernelFindings({ ...good, ...facts });
      assert.deepEqual(shown(found), [expected]);
      assert.match(found[0]?.message ?? '', message);
      assert.notEqual(found[0]?.remedy, '');
    });
  }
});
