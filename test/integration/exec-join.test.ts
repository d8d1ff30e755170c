/** A command that joins its container without its runtime finds what it would find with it. */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';

import type { ExecRequest } from '../../src/runtime/exec-process.ts';
import type { OciProcess } from '../../src/runtime/oci-spec.ts';
import { Lab, type LabContainer } from './runtime-lab.ts';

const signal = AbortSignal.timeout(600_000);

/** All that a process knows of itself; what differs from one to the next is left out. */
const LOOK = `
  grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp|Cpus_allowed|Mems_allowed|SigBlk|SigIgn|SigCgt|Umask|Tracer)' /proc/self/status
  sed '/Max realtime timeout/d' /proc/self/limits
  cat /proc/self/cgroup /proc/self/oom_score_adj /proc/self/personality 2>&1
  ls -l /proc/self/ns | sed 's/.*[0-9]:[0-9]* //'
  ls -l /proc/self/fd | sed -n 's/.* \\([0-9]*\\) -> .*/\\1/p'
  stat -c '%u %g %F' -L /proc/self/fd/1
  set -- $(cat /proc/$$/stat); echo leads $(($1 == $5)) $(($1 == $6)) nice $\{19}
  env | sort
  umask; pwd; id; hostname
  cat /proc/self/mountinfo | wc -l
`;

const ALL = ['CAP_CHOWN', 'CAP_KILL', 'CAP_SETUID', 'CAP_SETGID', 'CAP_NET_BIND_SERVICE'] as const;
const NONE = { bounding: [], effective: [], permitted: [], inheritable: [], ambient: [] };
const user = (uid: number, gid: number, ...additionalGids: number[]) => ({ uid, gid, additionalGids });

/** Changes of a container's own process. */
const processes: Readonly<Record<string, Partial<OciProcess>>> = {
  'as its container': {},
  'another user, with groups': { user: user(1000, 1001, 7, 1001, 8000) },
  'a user without a name': { user: user(2_000_000_000, 2_147_483_647) },
  'no capabilities': { capabilities: NONE },
  'some, for root': { capabilities: { ...NONE, bounding: ALL, permitted: ALL, effective: ALL } },
  'some, ambient, for a user': {
    user: user(1000, 1000),
    capabilities: {
      bounding: ALL,
      permitted: ALL,
      effective: ALL,
      inheritable: ALL,
      ambient: ['CAP_NET_BIND_SERVICE'],
    },
  },
  'ambient ones that cannot be': { capabilities: { ...NONE, bounding: ALL, permitted: ALL, ambient: ['CAP_CHOWN'] } },
  'no new privileges': { noNewPrivileges: true, user: user(1000, 1000) },
  limits: {
    rlimits: [
      // Not a lower soft limit, which runc before 1.1.13 may lose.
      { type: 'RLIMIT_NOFILE', soft: 150, hard: 150 },
      { type: 'RLIMIT_CORE', soft: 0, hard: Number.POSITIVE_INFINITY },
      { type: 'RLIMIT_NPROC', soft: 50, hard: 60 },
    ],
  },
  'a folder': { cwd: '/tmp' },
  'a folder of its own': { cwd: '/private', user: user(1000, 1000) },
  'an environment': { env: ['PATH=/bin', 'A=1', 'A=2', 'EMPTY=', 'SPACE= a b '] },
  'a home that is empty': { env: ['PATH=/bin', 'HOME='], user: user(1000, 1000) },
  'a home of the user': { env: ['PATH=/bin'], user: user(1234, 1234) },
  'no path': { env: ['HOME=/x'], args: ['/bin/sh', '-c', LOOK] },
};

/** Commands that cannot be started. */
const refused: Readonly<Record<string, Partial<OciProcess>>> = {
  'nothing of that name': { args: ['nothing-of-that-name'] },
  'no such file': { args: ['/no/such/file'] },
  'no program': { args: ['/etc/passwd'] },
  'a folder': { args: ['/tmp'] },
  'below a file': { args: ['/etc/passwd/x'] },
  'a link to itself': { args: ['/loop'] },
  'not for this user': { args: ['/only-root'], user: user(1000, 1000) },
  'bytes that are no program': { args: ['/no-format'] },
};

const noUnified = !existsSync('/sys/fs/cgroup/cgroup.controllers') && 'the host has cgroups of version 1';

describe('a command joins a container', () => {
  let lab: Lab;
  before(async () => {
    lab = await Lab.open('runc');
    const at = (path: string): string => join(lab.rootfs, path);
    mkdirSync(at('private'), { mode: 0o700 });
    chmodSync(at('private'), 0o755);
    writeFileSync(at('etc/passwd'), 'root:x:0:0::/root:/bin/sh\nbroken\nother:x:1234:1234::/home/other:/bin/sh\n');
    writeFileSync(at('only-root'), '#!/bin/sh\n', { mode: 0o700 });
    writeFileSync(at('no-format'), 'neither\n', { mode: 0o755 });
    symlinkSync('/loop', at('loop'));
  });
  after(async () => lab[Symbol.asyncDispose]());

  /** The same command by exec-join and by runc. */
  const bothWays = async <T>(id: string, process: Partial<OciProcess>, run: (request: ExecRequest) => Promise<T>) => {
    const args = process.args ?? ['sh', '-c', LOOK];
    const request = lab.execRequest(id, args);
    assert.ok(request.joinable);
    const changed = { ...request, args, process: { ...request.process, ...process } };
    return { joined: await run(changed), byRuntime: await run({ ...changed, joinable: undefined }) };
  };
  const outputOf = async (request: ExecRequest): Promise<string> => {
    const { stdout, stderr, exitCode } = await lab.execs.run(request, 0, signal);
    return `${exitCode}\n${stdout.toString()}${stderr.toString()}`;
  };
  const errorOf = async (request: ExecRequest): Promise<{ kind: unknown; message: string }> => {
    const err: unknown = await lab.execs.run(request, 0, signal).catch((thrown: unknown) => thrown);
    assert.ok(err instanceof Error && 'kind' in err, String(err));
    return { kind: err.kind, message: err.message };
  };
  const running = async (wish: Partial<LabContainer> = {}): Promise<string> =>
    (await lab.run({ args: ['sleep', '1000'], ...wish }, signal)).id;

  for (const [what, process] of Object.entries(processes)) {
    it(`finds what runc would have it find: ${what}`, async () => {
      const { joined, byRuntime } = await bothWays(await running(), process, outputOf);
      assert.equal(joined, byRuntime);
      assert.match(joined, /^0\n/);
    });
  }

  it("finds it in a container on the host's processes too", async () => {
    const { joined, byRuntime } = await bothWays(await running({ pid: 'host' }), {}, outputOf);
    assert.equal(joined, byRuntime);
  });

  for (const [what, process] of Object.entries(refused)) {
    it(`says why it is not started: ${what}`, async () => {
      const request = lab.execRequest(await running(), process.args ?? []);
      const { kind, message } = await errorOf({ ...request, process: { ...request.process, ...process } });
      assert.equal(kind, 'invalid', message);
      assert.match(message, /cannot be run in the container/);
    });
  }

  it('leaves nothing, however it ends', async () => {
    const id = await running();
    const folder = lab.paths(id).folder;
    const before = readdirSync(folder).sort();
    await lab.exec(id, ['true'], signal);
    await lab.exec(id, ['nothing'], signal).catch(() => {});
    await lab.exec(id, ['sleep', '100'], signal, 50).catch(() => {});
    assert.deepEqual(readdirSync(folder).sort(), before);
    assert.deepEqual(lab.cgroupOf(id).pids().length, 1);
  });

  it('is not let into a container that is paused, or has ended', async () => {
    const id = await running();
    await lab.runtime.pause(id, signal);
    assert.equal((await errorOf(lab.execRequest(id, ['true']))).kind, 'precondition');
    await lab.runtime.resume(id, signal);
    assert.equal((await lab.exec(id, ['true'], signal)).exitCode, 0);
    const request = lab.execRequest(id, ['true']);
    lab.cgroupOf(id).killAll();
    await lab.exitOf(id);
    assert.equal((await errorOf(request)).kind, 'precondition');
  });

  it('has nothing of the host in it that the container could get hold of', async () => {
    const id = await running();
    // Root of the container, with the right to look at other processes, looks at each that comes.
    const spy = `
      while [ ! -e /stop ]; do for p in /proc/[0-9]*; do
        case $p in /proc/1|/proc/$$) continue;; esac
        ls -l $p/fd $p/cwd $p/root $p/exe 2>/dev/null | grep -e '->' |
          grep -v -e 'pipe:' -e 'socket:' -e /dev/null -e /bin/ -e /lib/ -e '-> /$' -e '-> /proc/'
        grep exec-join $p/comm 2>/dev/null && touch /seen
        tr '\\0' '\\n' < $p/cmdline 2>/dev/null | grep -e /sys/fs -e berth-runtime
      done; done`;
    const request = lab.execRequest(id, ['sh', '-c', spy]);
    const capabilities = { ...NONE, bounding: ALL, permitted: ALL, effective: ALL };
    const watching = lab.execs.run({ ...request, process: { ...request.process, capabilities } }, 0, signal);
    // It looks for its program in all of these first, and is seen meanwhile.
    const slow = lab.execRequest(id, ['true']);
    const env = [`PATH=${'/a:'.repeat(3000)}/bin`];
    const file = (name: string): string => join(lab.rootfs, name);
    try {
      while (!existsSync(file('seen'))) await lab.execs.run({ ...slow, process: { ...slow.process, env } }, 0, signal);
    } finally {
      writeFileSync(file('stop'), '');
    }
    const seen = new Set((await watching).stdout.toString().split('\n').slice(0, -1));
    assert.deepEqual([...seen], ['exec-join']);
  });

  it('is started by what nobody can change, also not so that it cannot be executed', () => {
    const link = lab.programs.readonlyPathOf(lab.execJoinPath) ?? assert.fail();
    for (const change of [() => openSync(link, 'r+'), () => chmodSync(link, 0), () => truncateSync(link)])
      assert.throws(change, { code: 'EROFS' });
    assert.equal(execFileSync(link, ['--version']).toString(), '');
  });

  it('cannot be led out of the container by the folder that it begins in', async () => {
    const id = await running();
    symlinkSync('/proc/self/fd/4', join(lab.rootfs, 'out'));
    for (const cwd of ['/proc/self/fd/4', '/proc/self/fd/5', '/proc/self/fd/3', '/out', '/proc/self/fd/6']) {
      const { kind } = await errorOf({
        ...lab.execRequest(id, ['ls']),
        process: { ...lab.execRequest(id, ['ls']).process, cwd },
      });
      assert.equal(kind, 'internal', cwd);
    }
    unlinkSync(join(lab.rootfs, 'out'));
  });

  const noAppArmor = !existsSync('/sys/kernel/security/apparmor') && 'the host has no AppArmor';
  it("cannot be led to the host by the container's files", { skip: noAppArmor }, async () => {
    const id = await running();
    const request = lab.execRequest(id, ['sh', '-c', 'cat /proc/self/attr/current; echo $HOME']);
    const process = { ...request.process, env: ['PATH=/bin'], apparmorProfile: 'unconfined' };
    const passwd = join(lab.rootfs, 'etc/passwd');
    const own = readFileSync(passwd);
    try {
      // Its profile is taken on by the host's /proc, whose process 1 leads to the host's own users.
      for (let fd = 3; fd < 12; fd++) {
        unlinkSync(passwd);
        symlinkSync(`/proc/self/fd/${fd}/1/root/etc/passwd`, passwd);
        const { stdout } = await lab.execs.run({ ...request, process }, 0, signal);
        assert.equal(stdout.toString(), 'unconfined\n/\n');
      }
    } finally {
      unlinkSync(passwd);
      writeFileSync(passwd, own);
    }
  });

  it("begins below the container's own cgroup where that takes no processes", { skip: noUnified }, async () => {
    const id = await running({ pid: 'host' });
    const own = join('/sys/fs/cgroup/berth-lab', id);
    const { init } = lab.execRequest(id, []).joinable ?? assert.fail();
    const cgroupOf = async (): Promise<string> =>
      (await lab.exec(id, ['cat', '/proc/self/cgroup'], signal)).stdout.toString();
    mkdirSync(join(own, 'below'));
    writeFileSync(join(own, 'below/cgroup.procs'), String(init.pid));
    assert.equal(await cgroupOf(), '0::/\n');
    writeFileSync(join(own, 'cgroup.subtree_control'), '+pids');
    assert.equal(await cgroupOf(), '0::/below\n');
  });
});
