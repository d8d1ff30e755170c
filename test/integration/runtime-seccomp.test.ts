import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';

import { readHierarchies } from '../../src/runtime/cgroups/hierarchies.ts';
import { SeccompProfiles } from '../../src/runtime/seccomp.ts';
import { makeBundle } from './oci-bundle.ts';

// The default profile in the kernel, by way of the OCI runtimes that this machine has. Needs root.

const profiles = new SeccompProfiles();
const hugetlb = '/sys/fs/cgroup/hugetlb';

/**
 * crun refuses a hybrid host without a v1 hugetlb hierarchy: the container is run where one is mounted, for it alone. In
 * a cgroup namespace that is not allowed; whether crun does without it there, it says itself.
 */
function withHugetlb(command: readonly string[]): readonly string[] {
  const mount = `mountpoint -q ${hugetlb} || mount -t cgroup -o hugetlb hugetlb ${hugetlb} 2>/dev/null; exec "$@"`;
  return ['unshare', '--mount', 'sh', '-c', mount, 'sh', ...command];
}

function run(
  runtime: string,
  script: string,
  capabilities: readonly string[],
): { status: number | null; output: string } {
  const folder = mkdtempSync(join(tmpdir(), 'berth-seccomp-'));
  const id = `berth-test-seccomp-${process.pid}`;
  const isHybrid = readHierarchies().some(({ version }) => version === 1);
  const makeHugetlb = runtime === 'crun' && isHybrid && !existsSync(hugetlb);
  const seccomp = profiles.resolve({ type: 'runtimeDefault' }, capabilities);
  assert.ok(seccomp);
  try {
    if (makeHugetlb) mkdirSync(hugetlb);
    const bundle = makeBundle(folder, { args: ['sh', '-c', script], cgroupsPath: `/${id}`, capabilities, seccomp });
    const command = [runtime, '--root', join(folder, 'state'), 'run', '--bundle', bundle, id];
    const [program = '', ...args] = runtime === 'crun' && isHybrid ? withHugetlb(command) : command;
    const { status, stdout, stderr } = spawnSync(program, args, { encoding: 'utf8', timeout: 30_000 });
    return { status, output: `${stdout}${stderr}` };
  } finally {
    if (makeHugetlb) rmdirSync(hugetlb);
    rmSync(folder, { recursive: true });
  }
}

for (const runtime of ['runc', 'crun']) {
  const skip = spawnSync(runtime, ['--version']).status === 0 ? false : `${runtime} is not installed`;

  test(`${runtime}: ordinary programs run under the default profile`, { skip }, () => {
    const { status, output } = run(runtime, 'echo a | cat && ls / > /dev/null && date > /dev/null && echo done', []);
    assert.equal(output, 'a\ndone\n');
    assert.equal(status, 0);
  });

  test(`${runtime}: calls of a capability are refused without it and allowed with it`, { skip }, () => {
    const script = 'unshare -n true && echo new namespace; mount -t tmpfs none /proc && echo mounted; true';
    const without = run(runtime, script, []);
    assert.match(without.output, /unshare: .*Operation not permitted/);
    assert.match(without.output, /mount: .*(Operation not permitted|permission denied)/i);
    assert.equal(run(runtime, script, ['CAP_SYS_ADMIN']).output, 'new namespace\nmounted\n');
  });
}
