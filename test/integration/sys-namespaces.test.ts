import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  readSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';

import { silentLogger } from '../../src/base/log.ts';
import { silentMeter } from '../../src/base/meter.ts';
import { Processes } from '../../src/proc/processes.ts';
import { closeFd } from '../../src/sys/at.ts';
import { readMounts, unmount } from '../../src/sys/mount.ts';
import {
  type NamespaceKind,
  NamespaceMaker,
  type NamespaceRequest,
  type PauseProcess,
  unpinNamespaces,
} from '../../src/sys/namespaces.ts';
import { createPipe } from '../../src/sys/pipe.ts';
import { isSameProcess, killProcess } from '../../src/sys/process.ts';
import { canSpawnIntoCgroup } from '../../src/sys/spawn.ts';
import { NSFS_MAGIC, statfs } from '../../src/sys/statfs.ts';
import { buildNative } from '../fakes/build-native.ts';
import { childPids, openFdCount } from '../fakes/process-facts.ts';

const never = new AbortController().signal;
const processes = new Processes({ log: silentLogger, meter: silentMeter });
const hostNamespaces = threadNamespaces();
const hostName = hostname();
let base: string;
let pausePath: string;
let maker: NamespaceMaker;
let fdsBefore: number;
let pinDirs = 0;

before(async () => {
  base = mkdtempSync(join(tmpdir(), 'berth-sys-ns-'));
  pausePath = buildNative('pause', base);
  maker = new NamespaceMaker();
  maker.start();
  // The thread and the first watch open descriptors that stay.
  await end(await maker.make(request([]), never));
  fdsBefore = openFdCount();
});
beforeEach(() => pinDirs++);
afterEach(() => {
  assert.deepEqual(childPids(), [], 'a pause process is left');
  assert.deepEqual(pins(), [], 'a pinned namespace is left');
  assert.deepEqual(threadNamespaces(), hostNamespaces, 'a thread is in a namespace of a pod');
  assert.equal(hostname(), hostName);
});
after(async () => {
  await maker.close();
  await processes.close();
  // Only a test that failed left these.
  for (const pid of childPids()) process.kill(pid, 'SIGKILL');
  for (const pin of pins()) unmount(pin);
  rmSync(base, { recursive: true });
});

test('a pod gets its own namespaces, pinned and held by its pause process', async () => {
  const req = request(['net', 'ipc', 'uts'], { hostname: 'a-pod', pauseArgs: ['sandbox-id'] });
  const pause = await maker.make(req, never);
  assert.equal(isSameProcess(pause.pid, pause.startTime), true);
  assert.equal(readFileSync(`/proc/${pause.pid}/cmdline`, 'utf8'), `${pausePath}\0sandbox-id\0`);
  for (const kind of req.kinds) {
    const pinned = statSync(join(req.pinDir, kind)).ino;
    assert.equal(readlinkSync(`/proc/${pause.pid}/ns/${kind}`), `${kind}:[${pinned}]`);
    assert.ok(!hostNamespaces.includes(`${kind}:[${pinned}]`));
    assert.equal(statfs(join(req.pinDir, kind)).type, NSFS_MAGIC);
  }
  assert.ok(hostNamespaces.includes(readlinkSync(`/proc/${pause.pid}/ns/pid`)));
  assert.equal(inside(req, 'uts', 'hostname'), 'a-pod\n');
  await end(pause);
  // The namespaces outlive the process until they are let go.
  assert.equal(inside(req, 'uts', 'hostname'), 'a-pod\n');
  unpinNamespaces(req.pinDir);
  unpinNamespaces(req.pinDir);
  assert.deepEqual(readdirSync(req.pinDir), []);
});

test('it tells as soon as namespaces can be used, before there is a pause process', async () => {
  const req = request(['net', 'ipc', 'uts']);
  const pinned = Promise.withResolvers<string[]>();
  const making = maker.make(req, never, () => pinned.resolve(readdirSync(req.pinDir)));
  assert.deepEqual((await Promise.race([pinned.promise, making.then(() => [])])).toSorted(), ['ipc', 'net', 'uts']);
  await end(await making);
  unpinNamespaces(req.pinDir);
});

test('a network namespace made beforehand is joined, and stays when what joins it fails', async () => {
  const req = request(['net', 'ipc', 'uts'], { hasNetwork: true, hostname: 'late' });
  const sysctls = { 'net.ipv4.ip_unprivileged_port_start': '9' };
  const file = await maker.makeNetwork({ networkIn: req.pinDir, sysctls }, never);
  assert.equal(file, join(req.pinDir, 'net'));
  assert.deepEqual(readdirSync(req.pinDir), ['net']);
  assert.match(inside(req, 'net', 'ip', '-o', 'address', 'show'), /lo\s+inet 127\.0\.0\.1\/8/);
  const { ino } = statSync(file);
  await assert.rejects(maker.make({ ...req, pausePath: join(base, 'missing') }, never), { kind: 'notFound' });
  assert.deepEqual(readdirSync(req.pinDir), ['net']);
  const pause = await maker.make(req, never);
  assert.deepEqual(readdirSync(req.pinDir).toSorted(), ['ipc', 'net', 'uts']);
  assert.equal(readlinkSync(`/proc/${pause.pid}/ns/net`), `net:[${ino}]`);
  assert.ok(!hostNamespaces.includes(`net:[${ino}]`));
  assert.equal(inside(req, 'net', 'cat', '/proc/sys/net/ipv4/ip_unprivileged_port_start'), '9\n');
  assert.equal(inside(req, 'uts', 'hostname'), 'late\n');
  await end(pause, req);
});

test('a network namespace that cannot be made leaves nothing', async () => {
  const { pinDir } = request([]);
  const wrong = { networkIn: pinDir, sysctls: { 'net.ipv4.ip_forward': 'much' } };
  await assert.rejects(maker.makeNetwork(wrong, never), { kind: 'invalid' });
  const others = { networkIn: pinDir, sysctls: { 'kernel.msgmax': '1' } };
  await assert.rejects(maker.makeNetwork(others, never), { kind: 'invalid', message: /no ipc namespace/ });
  await assert.rejects(maker.makeNetwork({ networkIn: pinDir, sysctls: {} }, AbortSignal.abort(new Error('enough'))));
  assert.deepEqual(readdirSync(pinDir), []);
  const late = new AbortController();
  const made = maker.makeNetwork({ networkIn: pinDir, sysctls: {} }, late.signal);
  late.abort(new Error('too late'));
  await assert.rejects(made, /too late/);
  assert.deepEqual(readdirSync(pinDir), []);
});

test('loopback is up, and only loopback is there', async () => {
  const req = request(['net']);
  const pause = await maker.make(req, never);
  const links = inside(req, 'net', 'ip', '-o', 'address', 'show');
  assert.match(links, /lo\s+inet 127\.0\.0\.1\/8/);
  assert.match(inside(req, 'net', 'ip', '-o', 'link', 'show'), /^1: lo: <LOOPBACK,UP,LOWER_UP>[^\n]*\n$/);
  await end(pause, req);
});

test('sysctls are set in the pod and not on the host', async () => {
  const names = {
    'net.ipv4.ip_unprivileged_port_start': '7',
    'net/ipv4/ping_group_range': '0 5',
    'kernel.msgmax': '9001',
  };
  const before = Object.keys(names).map(hostSysctl);
  const req = request(['net', 'ipc'], { sysctls: { ...names, 'fs.mqueue.msg_max': '21' } });
  const pause = await maker.make(req, never);
  assert.equal(inside(req, 'net', 'cat', '/proc/sys/net/ipv4/ip_unprivileged_port_start'), '7\n');
  assert.equal(inside(req, 'net', 'cat', '/proc/sys/net/ipv4/ping_group_range'), '0\t5\n');
  assert.equal(inside(req, 'ipc', 'cat', '/proc/sys/kernel/msgmax'), '9001\n');
  assert.equal(inside(req, 'ipc', 'cat', '/proc/sys/fs/mqueue/msg_max'), '21\n');
  assert.deepEqual(Object.keys(names).map(hostSysctl), before);
  await end(pause, req);
});

test('pause is process 1 of a shared PID namespace: it reaps, and ends by SIGTERM', async () => {
  const req = request(['pid']);
  const pause = await maker.make(req, never);
  const inPod = (script: string): string => inside(req, 'pid', '/bin/sh', '-c', script);
  assert.equal(inPod('echo $$'), '2\n');
  assert.match(readFileSync(`/proc/${pause.pid}/status`, 'utf8'), /^NSpid:\t\d+\t1$/m);
  // Twenty orphans: their signals merge, all must go.
  inPod('for i in 1 2 3 4 5 6 7 8 9 10; do (sleep 0.05 & sleep 0.05 &) ; done');
  await until(() => readFileSync(`/proc/${pause.pid}/task/${pause.pid}/children`, 'utf8') === '');
  for (const signal of ['SIGHUP', 'SIGUSR1', 'SIGTSTP', 'SIGPIPE'] as const)
    killProcess(pause.pid, pause.startTime, signal);
  inPod('kill -HUP 1; kill -TTIN 1; kill -KILL 1');
  assert.equal(isSameProcess(pause.pid, pause.startTime), true);
  killProcess(pause.pid, pause.startTime, 'SIGTERM');
  await processes.exitOf(pause.pid, pause.startTime, never);
  unpinNamespaces(req.pinDir);
});

test('pause takes little memory and has nothing open but /dev/null', async () => {
  const pause = await maker.make(request([]), never);
  await until(() => isConfined(pause));
  const rollup = readFileSync(`/proc/${pause.pid}/smaps_rollup`, 'utf8');
  const privateKb = [...rollup.matchAll(/^Private_\w+:\s+(\d+) kB/gm)].reduce(
    (sum, match) => sum + Number(match[1]),
    0,
  );
  assert.ok(privateKb > 0 && privateKb < 100, `${privateKb} kB`);
  const open = readdirSync(`/proc/${pause.pid}/fd`).map((fd) => readlinkSync(`/proc/${pause.pid}/fd/${fd}`));
  assert.deepEqual(open, ['/dev/null', '/dev/null', '/dev/null']);
  assert.equal(readFileSync(`/proc/${pause.pid}/comm`, 'utf8'), 'pause\n');
  assert.equal(readlinkSync(`/proc/${pause.pid}/cwd`), '/');
  killProcess(pause.pid, pause.startTime, 'SIGINT');
  await processes.exitOf(pause.pid, pause.startTime, never);
});

test('pause has given away all rights and files of the host, and the thread that bore it is back among them', async () => {
  const req = request(['pid']);
  const pause = await maker.make(req, never);
  await until(() => isConfined(pause));
  const status = readFileSync(`/proc/${pause.pid}/status`, 'utf8');
  for (const set of ['Inh', 'Prm', 'Eff', 'Bnd', 'Amb']) assert.match(status, new RegExp(`^Cap${set}:\\t0+$`, 'm'));
  assert.match(status, /^NoNewPrivs:\t1$/m);
  for (const folder of ['root', 'cwd']) assert.deepEqual(readdirSync(`/proc/${pause.pid}/${folder}/`), []);
  // From outside, ".." would lead out of a root that was only changed.
  assert.deepEqual(readdirSync(`/proc/${pause.pid}/root/../..`), []);
  assert.match(readFileSync(`/proc/${pause.pid}/mountinfo`, 'utf8'), /^[^\n]* \/ \/ ro,[^\n]*\n$/);
  const other = await maker.make(request([]), never);
  await until(() => isConfined(other));
  assert.equal(link(`/proc/${other.pid}/ns/mnt`), link(`/proc/${pause.pid}/ns/mnt`), 'one home for all');
  for (const tid of readdirSync('/proc/self/task')) assert.equal(link(`/proc/self/task/${tid}/root`), '/');
  await end(pause, req);
  await end(other);
});

test('pause moves into its cgroups', async () => {
  const cgroup = '/sys/fs/cgroup/pids/berth-sys-ns-test';
  const root = existsSync('/sys/fs/cgroup/pids') ? cgroup : '/sys/fs/cgroup/berth-sys-ns-test';
  mkdirSync(root);
  try {
    const req = request(['uts'], { cgroupProcs: [join(root, 'cgroup.procs')] });
    const pause = await maker.make(req, never);
    assert.equal(readFileSync(join(root, 'cgroup.procs'), 'utf8'), `${pause.pid}\n`);
    await end(pause, req);
  } finally {
    await until(() => readFileSync(join(root, 'cgroup.procs'), 'utf8') === '');
    execFileSync('rmdir', [root]);
  }
});

const cgroup2 = ['/sys/fs/cgroup', '/sys/fs/cgroup/unified'].find((path) => existsSync(`${path}/cgroup.procs`));
const notBorn = canSpawnIntoCgroup && cgroup2 ? false : 'needs cgroup v2 and glibc 2.39';
test('pause is born in its cgroup of v2, where the C library can', { skip: notBorn }, async () => {
  const root = join(cgroup2 ?? '', 'berth-sys-ns-born');
  mkdirSync(root);
  try {
    const maps = [{ hostId: 300_000, containerId: 0, length: 65_536 }];
    for (const userNamespace of [undefined, { uids: maps, gids: maps }]) {
      // Not there, so nothing has been moved by it.
      const req = request(['uts', 'pid'], { userNamespace, cgroupProcs: [join(root, 'not-there')] });
      const pause = await maker.make(req, never);
      assert.equal(readFileSync(join(root, 'cgroup.procs'), 'utf8'), `${pause.pid}\n`);
      await end(pause, req);
    }
  } finally {
    await until(() => readFileSync(join(root, 'cgroup.procs'), 'utf8') === '');
    execFileSync('rmdir', [root]);
  }
});

const withoutV1 = existsSync('/sys/fs/cgroup/pids/tasks') ? false : 'needs the pids controller of cgroup v1';
test('pause is born in its cgroups, and the thread that bore it is back', { skip: withoutV1 }, async () => {
  const folder = '/sys/fs/cgroup/pids/berth-sys-ns-born';
  const leave = [`/sys/fs/cgroup/pids${/:pids:(.*)/.exec(readFileSync('/proc/self/cgroup', 'utf8'))?.[1]}/tasks`];
  mkdirSync(folder);
  try {
    const req = request(['uts'], { cgroupThread: { enter: [`${folder}/tasks`], leave } });
    const pause = await maker.make(req, never);
    assert.equal(readFileSync(`${folder}/tasks`, 'utf8'), `${pause.pid}\n`);
    const stranded = request(['uts'], { cgroupThread: { enter: [`${folder}/tasks`], leave: ['/no/such/tasks'] } });
    await assert.rejects(maker.make(stranded, never), { kind: 'internal', message: /worker thread failed/ });
    await end(pause, req);
    const next = request(['uts']);
    const other = await maker.make(next, never);
    await until(() => readFileSync(`${folder}/tasks`, 'utf8') === '');
    await end(other, next);
  } finally {
    execFileSync('rmdir', [folder]);
  }
});

for (const kinds of [['net', 'ipc', 'uts'], ['net', 'ipc', 'uts', 'pid'], []] as const) {
  test(`a pod with a user namespace, and ${kinds.join() || 'nothing else'} in it`, async () => {
    const maps = { hostId: 300_000, containerId: 0, length: 65_536 };
    const sysctls: Record<string, string> =
      kinds.length > 0 ? { 'net.ipv4.ip_unprivileged_port_start': '7', 'kernel.msgmax': '9001' } : {};
    const req = request(kinds, {
      userNamespace: { uids: [maps], gids: [maps] },
      hostname: kinds.length > 0 ? 'mapped' : '',
      sysctls,
      pauseArgs: ['sandbox-id'],
    });
    const pause = await maker.make(req, never);
    const status = readFileSync(`/proc/${pause.pid}/status`, 'utf8');
    assert.match(status, /^Uid:\t300000\t300000\t300000\t300000$/m);
    assert.match(status, /^Gid:\t300000\t300000\t300000\t300000$/m);
    assert.match(status, /^Groups:\s*(300000)?\s*$/m);
    assert.equal(readFileSync(`/proc/${pause.pid}/uid_map`, 'utf8').trim().replaceAll(/ +/g, ' '), '0 300000 65536');
    assert.equal(readFileSync(`/proc/${pause.pid}/cmdline`, 'utf8'), `${pausePath}\0sandbox-id\0`);
    for (const kind of ['user', ...kinds] as const) {
      const pinned = statSync(join(req.pinDir, kind)).ino;
      assert.equal(readlinkSync(`/proc/${pause.pid}/ns/${kind}`), `${kind}:[${pinned}]`);
    }
    // It closes its pipes once it has been released.
    while (readdirSync(`/proc/${pause.pid}/fd`).length > 3) await delay(1);
    const open = readdirSync(`/proc/${pause.pid}/fd`).map((fd) => readlinkSync(`/proc/${pause.pid}/fd/${fd}`));
    assert.deepEqual(open, ['/dev/null', '/dev/null', '/dev/null']);
    if (kinds.length > 0) {
      assert.equal(inside(req, 'uts', 'hostname'), 'mapped\n');
      assert.match(inside(req, 'net', 'ip', '-o', 'link', 'show'), /^1: lo: <LOOPBACK,UP,LOWER_UP>/);
      assert.equal(inside(req, 'net', 'cat', '/proc/sys/net/ipv4/ip_unprivileged_port_start'), '7\n');
      assert.equal(inside(req, 'ipc', 'cat', '/proc/sys/kernel/msgmax'), '9001\n');
      // They belong to the user namespace: its root may do with them as it likes.
      const asItsRoot = ['--user', '--net', '-t', String(pause.pid), 'ip', 'link', 'add', 'd0', 'type', 'bridge'];
      execFileSync('nsenter', ['--setuid', '0', ...asItsRoot]);
    }
    await end(pause, req);
    await until(() => !existsSync(`/proc/${pause.pid}`));
  });
}

test('id maps that the kernel refuses leave nothing', async () => {
  const overlapping = [
    { hostId: 1000, containerId: 0, length: 10 },
    { hostId: 2000, containerId: 5, length: 10 },
  ];
  const req = request(['net'], { userNamespace: { uids: overlapping, gids: overlapping } });
  await assert.rejects(maker.make(req, never), /write uid_map of pause process \d+: EINVAL/);
  assert.deepEqual(readdirSync(req.pinDir), []);
});

test('a request that fails at any step says why and leaves nothing', async () => {
  const taken = request(['ipc', 'uts']);
  mkdirSync(taken.pinDir, { recursive: true });
  writeFileSync(join(taken.pinDir, 'uts'), '');
  const all = ['net', 'ipc', 'uts', 'pid'] as const;
  const unknown = { 'net.ipv4.no_such_thing': '1' };
  const refused = { 'net.ipv4.ip_unprivileged_port_start': 'many' };
  const cases: [Partial<NamespaceRequest>, object][] = [
    [
      { kinds: all, pausePath: '/no/such/pause' },
      { kind: 'notFound', message: /\/no\/such\/pause: program not found/ },
    ],
    [
      { kinds: all, pausePath: '/etc/passwd' },
      { errno: 'EACCES', call: 'posix_spawn' },
    ],
    [{ kinds: all, pinDir: join(base, 'gone') }, { message: /gone\/net/ }],
    [
      { kinds: ['net'], sysctls: unknown },
      { kind: 'invalid', message: /sysctls\[net\.ipv4\.no_such_thing\]/ },
    ],
    [
      { kinds: ['net'], sysctls: refused },
      { kind: 'invalid', message: /ip_unprivileged_port_start.*"many"/ },
    ],
    [
      { kinds: all, cgroupProcs: ['/no/cgroup.procs'] },
      { kind: 'notFound', message: /\/no\/cgroup\.procs/ },
    ],
    [taken, { message: /EEXIST.*uts/ }],
  ];
  for (const [more, expected] of cases) {
    await assert.rejects(maker.make({ ...request(more.kinds ?? []), ...more }, never), expected);
    assert.deepEqual([childPids(), pins()], [[], []]);
    assert.deepEqual(threadNamespaces(), hostNamespaces);
  }
  assert.deepEqual(readdirSync(taken.pinDir), ['uts']);
  assert.equal(openFdCount(), fdsBefore);
});

test('an abort before its turn makes nothing, one in between takes everything back', async () => {
  const abort = new AbortController();
  const first = maker.make(request(['net', 'pid']), abort.signal);
  const second = maker.make(request(['net']), abort.signal);
  const reason = new Error('enough');
  await Promise.resolve();
  abort.abort(reason);
  const isReason = (err: unknown): boolean => err === reason;
  await Promise.all([first, second].map((made) => assert.rejects(made, isReason)));
});

test('who was told of its namespaces is not called off: it may be at work in them', async () => {
  const req = request(['net', 'ipc', 'uts']);
  const abort = new AbortController();
  const pause = await maker.make(req, abort.signal, () => abort.abort(new Error('enough')));
  assert.deepEqual(readdirSync(req.pinDir).toSorted(), ['ipc', 'net', 'uts']);
  await end(pause, req);
});

test('nor does who was told lose them when there comes to be no pause', async () => {
  for (const refused of [{ pausePath: '/no/such/pause' }, { cgroupProcs: ['/no/cgroup.procs'] }]) {
    const req = { ...request(['net', 'ipc', 'uts']), ...refused };
    await assert.rejects(
      maker.make(req, never, () => {}),
      { kind: 'notFound' },
    );
    assert.deepEqual(readdirSync(req.pinDir).toSorted(), ['ipc', 'net', 'uts']);
    assert.deepEqual(childPids(), []);
    unpinNamespaces(req.pinDir);
  }
});

test('a thread that dies is cleaned up after and replaced', async () => {
  // No way back is known for this kind: the thread must not take another request.
  const req = request(['uts', 'cgroup' as NamespaceKind]);
  await assert.rejects(maker.make(req, never), { kind: 'internal', message: /worker thread failed/ });
  assert.deepEqual(readdirSync(req.pinDir), []);
  assert.deepEqual([childPids(), pins()], [[], []]);
  const again = request(['uts'], { hostname: 'again' });
  const pause = await maker.make(again, never);
  assert.equal(inside(again, 'uts', 'hostname'), 'again\n');
  await end(pause, again);
});

test('a thread that hangs is given up after the deadline', async () => {
  // Enough for the thread that comes after it to start on a busy machine.
  const impatient = new NamespaceMaker({ timeoutMs: 10_000 });
  const { readFd, writeFd } = createPipe();
  try {
    // A full pipe: the next write waits, as a write to a frozen cgroup may.
    writeSync(writeFd, Buffer.alloc(65_536));
    const req = request(['uts'], { cgroupProcs: [`/proc/self/fd/${writeFd}`] });
    await assert.rejects(impatient.make(req, never), { kind: 'deadline' });
    assert.deepEqual([childPids(), pins(), readdirSync(req.pinDir)], [[], [], []]);
    const next = request(['uts']);
    await end(await impatient.make(next, never), next);
    await impatient.close();
  } finally {
    // Else the thread would never end, nor this process.
    readSync(readFd, Buffer.alloc(65_536));
    closeFd(readFd);
    closeFd(writeFd);
  }
  await until(() => threadNamespaces().join() === hostNamespaces.join());
});

test('many at once each get their own, and nothing leaks', async () => {
  const fds = openFdCount();
  const requests = Array.from({ length: 30 }, (_, i) =>
    request(['net', 'ipc', 'uts', 'pid'], { hostname: `pod-${i}` }),
  );
  const pauses = await Promise.all(requests.map((req) => maker.make(req, never)));
  assert.equal(new Set(requests.map((req) => statSync(join(req.pinDir, 'net')).ino)).size, 30);
  requests.forEach((req, i) => void assert.equal(inside(req, 'uts', 'hostname'), `pod-${i}\n`));
  for (const [i, pause] of pauses.entries()) await end(pause, requests[i]);
  assert.equal(openFdCount(), fds);
});

test('a closed maker refuses, and close may be called without a start', async () => {
  const other = new NamespaceMaker();
  await other.close();
  await assert.rejects(other.make(request(['uts']), never), { kind: 'unavailable' });
});

function request(kinds: readonly NamespaceKind[], more: Partial<NamespaceRequest> = {}): NamespaceRequest {
  const pinDir = join(base, `pins-${pinDirs}-${Math.random().toString(16).slice(2)}`);
  mkdirSync(pinDir);
  return { pausePath, kinds, hostname: '', sysctls: {}, pinDir, ...more };
}

async function end(pause: PauseProcess, req?: NamespaceRequest): Promise<void> {
  assert.equal(killProcess(pause.pid, pause.startTime, 'SIGKILL'), true);
  await processes.exitOf(pause.pid, pause.startTime, never);
  if (req) unpinNamespaces(req.pinDir);
}

function inside(req: NamespaceRequest, kind: NamespaceKind, ...command: string[]): string {
  return execFileSync('nsenter', [`--${kind}=${join(req.pinDir, kind)}`, ...command], { encoding: 'utf8' });
}

function hostSysctl(name: string): string {
  return readFileSync(`/proc/sys/${name.replaceAll('.', '/')}`, 'utf8');
}

function pins(): string[] {
  return readMounts().flatMap((m) => (m.mountPoint.startsWith(base) ? [m.mountPoint] : []));
}

/** The filter on its system calls is the last thing that it sets up. */
function isConfined({ pid }: PauseProcess): boolean {
  return /^Seccomp:\t2$/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
}

/** The namespaces that threads of this process are in, each once. */
function threadNamespaces(): string[] {
  const kinds = ['net', 'ipc', 'uts', 'pid', 'pid_for_children', 'mnt'];
  const links = readdirSync('/proc/self/task').flatMap((tid) =>
    kinds.map((kind) => link(`/proc/self/task/${tid}/ns/${kind}`)),
  );
  return [...new Set(links.filter((text) => text !== ''))].sort();
}

function link(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    // The thread has just ended.
    return '';
  }
}

async function until(condition: () => boolean): Promise<void> {
  for (let i = 0; i < 6000 && !condition(); i++) await new Promise((resolve) => setTimeout(resolve, 10));
  assert.ok(condition());
}
