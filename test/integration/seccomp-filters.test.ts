/** A command joins a container with the seccomp filter that runc has compiled for the container's first process. */

import assert from 'node:assert/strict';
import { copyFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, utimesSync } from 'node:fs';
import { arch, tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';

import { silentLogger } from '../../src/base/log.ts';
import type { OciSeccomp } from '../../src/runtime/oci-seccomp.ts';
import type { OciProcess } from '../../src/runtime/oci-spec.ts';
import { defaultSeccomp } from '../../src/runtime/seccomp-default.ts';
import { SeccompFilters } from '../../src/runtime/seccomp-filters.ts';
import { Lab, plainContainer } from './runtime-lab.ts';

const signal = AbortSignal.timeout(600_000);
const EPERM = 1;
/** What exec-join calls between setns(2) and execve(2), and a program can do without. */
const ON_THE_WAY =
  'setgroups setresuid setresgid capset capget prctl getcwd chdir setsid umask keyctl ppoll close_range';

const runtimeDefault = defaultSeccomp([], arch(), { takesX32: false });
const without = (names: string): OciSeccomp => ({
  defaultAction: 'SCMP_ACT_ALLOW',
  syscalls: [{ names: names.split(' '), action: 'SCMP_ACT_ERRNO', errnoRet: EPERM }],
});

/** What a process may do, and that it has one filter. */
const LOOK = `
  grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp)' /proc/self/status
  pwd; id; ls -l /proc/self/fd | sed -n 's/.* \\([0-9]*\\) -> .*/\\1/p'
  unshare -n true; mount -t tmpfs none /tmp; chmod 1777 /tmp; hostname; hostname x; true
`;
const user = { uid: 1000, gid: 1001, additionalGids: [7] };
const processes: Readonly<Record<string, Partial<OciProcess>>> = {
  root: {},
  'another user': { user },
  'no new privileges': { noNewPrivileges: true },
  'another user, no new privileges': { noNewPrivileges: true, user },
};

describe('a command joins a container with a seccomp filter', () => {
  let lab: Lab;
  before(async () => {
    lab = await Lab.open('runc');
  });
  after(async () => lab[Symbol.asyncDispose]());

  const running = async (seccomp: OciSeccomp, noNewPrivs = false, args = ['sleep', '1000']): Promise<string> => {
    const security = { ...plainContainer.security, noNewPrivs };
    const { id } = await lab.run({ args, seccomp, spec: { security } }, signal);
    return id;
  };
  const outputsOf = async (id: string, process: Partial<OciProcess>) => {
    const request = lab.execRequest(id, ['sh', '-c', LOOK]);
    assert.ok(request.joinable?.filter, 'the filter was learned');
    const outputOf = async (joinable: typeof request.joinable): Promise<string> => {
      const changed = { ...request, joinable, process: { ...request.process, ...process } };
      const { stdout, stderr, exitCode } = await lab.execs.run(changed, 0, signal);
      return `${exitCode}\n${stdout.toString()}${stderr.toString()}`;
    };
    return { joined: await outputOf(request.joinable), byRuntime: await outputOf(undefined) };
  };

  for (const [name, seccomp] of Object.entries({ RuntimeDefault: runtimeDefault, 'a rule': without('chmod fchmodat') }))
    for (const [what, process] of Object.entries(processes))
      it(`may do what it may with runc: ${name}, ${what}`, async () => {
        const { joined, byRuntime } = await outputsOf(await running(seccomp), process);
        assert.equal(joined, byRuntime);
        assert.match(joined, /^0\n.*^Seccomp:\t2$\s^Seccomp_filters:\t1$.*Operation not permitted/ms);
      });

  it('needs nothing of the filter on its way but what executes the program', async () => {
    const { joined, byRuntime } = await outputsOf(await running(without(ON_THE_WAY), true), { user });
    assert.equal(joined, byRuntime);
    assert.match(joined, /^Seccomp_filters:\t1$/m);
  });

  it('has a filter whichever container it was learned from, also by an earlier berthd, until the runtime is another', async () => {
    const folders = [false, true].map(() => mkdtempSync(join(tmpdir(), 'berth-filters-')));
    try {
      const sizes: number[] = [];
      for (const [at, stateDir] of folders.entries()) {
        const handler = { path: join(stateDir, 'runc') };
        copyFileSync(lab.handler.path, handler.path);
        const deps = { stateDir, filterReaderPath: lab.filterReaderPath, processes: lab.processes, log: silentLogger };
        const filters = new SeccompFilters(deps);
        const security = { ...plainContainer.security, noNewPrivs: at === 1 };
        const { id, init } = await lab.create({ args: ['true'], seccomp: runtimeDefault, spec: { security } }, signal);
        await filters.learn(filters.missing(lab.bundles.readSpec(id), handler) ?? assert.fail(), init, signal);
        await lab.runtime.start(id, signal);
        const { file } = new SeccompFilters(deps).find(runtimeDefault, handler) ?? assert.fail('it is not kept');
        sizes.push(readFileSync(file).length);
        assert.equal(new SeccompFilters(deps).find(without('mount'), handler), undefined);
        // As an upgrade leaves it.
        utimesSync(handler.path, 0, 0);
        assert.equal(new SeccompFilters(deps).find(runtimeDefault, handler), undefined);
        assert.equal(readdirSync(join(stateDir, 'seccomp')).length, 1);
      }
      // runc puts parts of it in an order that is never the same, so that the bytes differ.
      assert.equal(sizes[0], sizes[1]);
    } finally {
      for (const folder of folders) rmSync(folder, { recursive: true });
    }
  });

  it('learns nothing from a process that has ended, is another, or has no filter, and from the next one all', async () => {
    const seccomp = without('swapon');
    const { id, init } = await lab.create({ args: ['sleep', '1000'], seccomp }, signal);
    const missing = lab.filters.missing(lab.bundles.readSpec(id), lab.handler) ?? assert.fail();
    const bare = await lab.run({ args: ['sleep', '1000'] }, signal);
    for (const other of [bare.init, { ...init, startTime: init.startTime + 1 }, { pid: 2 ** 22 + 1, startTime: 1 }])
      await lab.filters.learn(missing, other, signal);
    process.kill(init.pid, 'SIGKILL');
    assert.equal((await lab.exitOf(id)).exitCode, 137);
    await lab.filters.learn(missing, init, signal);
    assert.equal(lab.filters.find(seccomp, lab.handler), undefined);
    await running(seccomp);
    assert.ok(lab.filters.find(seccomp, lab.handler));
    assert.equal(lab.filters.missing(lab.bundles.readSpec(id), lab.handler), undefined);
  });

  it('learns nothing from a container whose processes others see', async () => {
    const { id } = await lab.create({ args: ['sleep', '1000'], seccomp: without('swapoff'), pid: 'host' }, signal);
    assert.equal(lab.filters.missing(lab.bundles.readSpec(id), lab.handler), undefined);
  });

  it('lets the process go on as it was', async () => {
    const args = ['sh', '-c', 'trap "exit 7" TERM; while :; do sleep 0.01; done'];
    const { id, init } = await lab.create({ args, seccomp: without('swapoff') }, signal);
    const missing = lab.filters.missing(lab.bundles.readSpec(id), lab.handler) ?? assert.fail();
    // Of two at once one has nothing to do.
    await Promise.all([lab.filters.learn(missing, init, signal), lab.filters.learn(missing, init, signal)]);
    assert.match(readFileSync(`/proc/${init.pid}/status`, 'utf8'), /^TracerPid:\t0$/m);
    await lab.runtime.start(id, signal);
    await lab.exec(
      id,
      ['sh', '-c', 'until grep -q "^SigCgt:.*[4567cdef]...$" /proc/1/status; do sleep 0.01; done'],
      signal,
    );
    process.kill(init.pid, 'SIGTERM');
    assert.equal((await lab.exitOf(id)).exitCode, 7);
  });
});
