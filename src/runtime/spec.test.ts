import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { specInput } from '../../test/fakes/spec-input.ts';
import { buildSpec } from './spec.ts';

describe('buildSpec', () => {
  it('joins the namespaces that the sandbox pins, and makes the others', () => {
    assert.deepEqual(buildSpec(specInput({})).linux.namespaces, [
      { type: 'mount' },
      { type: 'cgroup' },
      { type: 'network', path: '/ns/net' },
      { type: 'ipc', path: '/ns/ipc' },
      { type: 'uts', path: '/ns/uts' },
      { type: 'pid' },
    ]);
  });

  it("leaves out the host's namespaces, and cgroup namespaces where cgroups are v1", () => {
    const input = specInput({
      namespaces: { network: 'host', ipc: 'host', uts: 'host', pid: 'host' },
      host: { cgroupVersion: 1 },
    });
    assert.deepEqual(buildSpec(input).linux.namespaces, [{ type: 'mount' }]);
  });

  it('shows a privileged one all cgroups, unless it has a user namespace', () => {
    const kinds = (request: Parameters<typeof specInput>[0]): string[] =>
      buildSpec(specInput({ ...request, security: { privileged: true } })).linux.namespaces.map(({ type }) => type);
    assert.ok(!kinds({}).includes('cgroup'));
    const range = [{ hostId: 100_000, containerId: 0, length: 65_536 }];
    assert.ok(kinds({ userNamespace: { path: '/ns/user', maps: { uids: range, gids: range } } }).includes('cgroup'));
  });

  it('joins the PID namespace of another process', () => {
    const input = specInput({ namespaces: { pid: { path: '/proc/42/ns/pid' } } });
    const found = buildSpec(input).linux.namespaces.find(({ type }) => type === 'pid');
    assert.deepEqual(found, { type: 'pid', path: '/proc/42/ns/pid' });
  });

  it('hides what leaks from the host, also when a client has an older list', () => {
    const masked = (maskedPaths: readonly string[] | undefined) =>
      buildSpec(specInput({ security: { maskedPaths } })).linux.maskedPaths;
    assert.ok(masked(undefined).includes('/proc/kcore'));
    assert.ok(masked(['/own', '/proc/kcore']).includes('/own'));
    assert.ok(masked(['/own', '/proc/kcore']).includes('/proc/interrupts'));
    assert.equal(masked(['/proc/kcore']).filter((path) => path === '/proc/kcore').length, 1);
    assert.deepEqual(masked([]), []);
  });

  it('gives a privileged container everything', () => {
    const { linux, mounts } = buildSpec(
      specInput({
        security: { privileged: true, maskedPaths: ['/x'], readonlyPaths: ['/y'] },
        seccomp: { defaultAction: 'x', syscalls: [] },
      }),
    );
    assert.deepEqual([linux.maskedPaths, linux.readonlyPaths, linux.seccomp], [[], [], undefined]);
    for (const path of ['/sys', '/sys/fs/cgroup']) {
      assert.ok(mounts.find(({ destination }) => destination === path)?.options.includes('rw'), path);
    }
  });

  it('confines any other container', () => {
    const seccomp = { defaultAction: 'SCMP_ACT_ERRNO', syscalls: [] };
    const { linux, mounts } = buildSpec(specInput({ seccomp }));
    assert.equal(linux.seccomp, seccomp);
    for (const path of ['/sys', '/sys/fs/cgroup']) {
      assert.ok(mounts.find(({ destination }) => destination === path)?.options.includes('ro'), path);
    }
  });

  it("keeps a client's annotations from the runtime, which may take orders from them", () => {
    const { annotations } = buildSpec(specInput({}));
    assert.equal(annotations['run.oci.handler'], undefined);
    assert.equal(annotations['io.kubernetes.cri.sandbox-id'], 'sandbox-id');
  });

  it('shows the runtime the annotations that the owner of the node allows it, and no others', () => {
    const { annotations } = buildSpec(specInput({ visibleAnnotations: ['pod.*', 'io.kubernetes.cri.sandbox-id'] }));
    assert.equal(annotations['pod.note'], 'p');
    assert.equal(annotations['shared'], undefined);
    assert.equal(annotations['run.oci.handler'], undefined);
    assert.equal(annotations['io.kubernetes.cri.sandbox-id'], 'sandbox-id');
  });

  it('puts limits, device rules and the number of processes side by side', () => {
    // No quota is what a new cgroup has.
    const resources = { hugepageLimits: [], unified: {}, cpuShares: 512, cpuQuotaUs: -1 };
    assert.deepEqual(buildSpec(specInput({ spec: { resources }, pidsLimit: 10 })).linux.resources, {
      cpu: { shares: 512 },
      devices: [{ allow: false, access: 'rwm' }],
      pids: { limit: 10 },
    });
  });

  it("joins the pod's user namespace, and says its maps to runtimes that want to be told", () => {
    const range = { hostId: 1000, containerId: 0, length: 10 };
    const input = specInput({});
    const userNamespace = { path: '/ns/user', maps: { uids: [range], gids: [range] } };
    const { linux } = buildSpec({ ...input, sandbox: { ...input.sandbox, userNamespace } });
    assert.deepEqual(
      linux.namespaces.find(({ type }) => type === 'user'),
      { type: 'user', path: '/ns/user' },
    );
    assert.deepEqual(linux.uidMappings, [{ containerID: 0, hostID: 1000, size: 10 }]);
    assert.deepEqual(linux.gidMappings, linux.uidMappings);
  });
});
