/** What happens to nodes: processes that are killed, programs that hang or are gone, disks that are full. */

import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { after, afterEach, before, describe as suite, test } from 'node:test';

import { status } from '@grpc/grpc-js';

import {
  AttachRequest,
  ContainerState,
  ImageServiceService as images,
  ListContainersRequest,
  ListPodSandboxRequest,
  NamespaceMode,
  PodSandboxState,
  PullImageRequest,
  RunPodSandboxRequest,
  RuntimeServiceService as runtime,
  StatusRequest,
} from '../../proto/gen/cri/api.ts';
import type { Method } from '../harness/cri-connection.ts';
import { eventually, readLog } from '../harness/cri-lab.ts';
import { isAlive, readCgroups } from '../harness/machine-state.ts';
import { patient, SOON_MS } from '../harness/patience.ts';
import { PodLab } from '../harness/pod-lab.ts';

const CGROUPS = '/sys/fs/cgroup';
/** Hierarchies of cgroup v1. */
const PIDS = join(CGROUPS, 'pids');
const FREEZER = join(CGROUPS, 'freezer');
/** Lines of a container that writes as fast as it can, while its log is rotated. */
const LINES = Number(process.env['BERTH_TEST_LOG_LINES'] ?? 200_000);
/** A list that waits for nothing answers in a few ms; a lock that something hanging has would cost its whole deadline. */
const NO_LOCK_MS = patient(20_000);

/** runc that hangs in a verb while there is a file `hang-VERB` in a folder. */
const hanging = (folder: string): string => `#!/bin/sh
for word in "$@"; do
  [ -e "${folder}/hang-$word" ] && exec sleep 7373
done
exec runc "$@"
`;

const script = (text: string) => ({ command: ['/bin/sh', '-c', text] });

suite('what happens to nodes', { timeout: patient(900_000) }, () => {
  let lab: PodLab;
  let folder: string;
  const own = (): string => join(folder, 'own-runc');

  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'berth-real-faults-'));
    copyFileSync('/usr/sbin/runc', own());
    chmodSync(own(), 0o755);
    writeFileSync(join(folder, 'hanging'), hanging(folder), { mode: 0o755 });
    const handlers = Object.entries({ own: own(), hanging: join(folder, 'hanging') });
    lab = await PodLab.start({
      config: handlers.map(([name, path]) => `[runtime.handlers.${name}]\npath = "${path}"`).join('\n'),
    });
  });
  afterEach(async (t) => {
    lab.handler = '';
    await lab.afterTest(t);
  });
  after(async () => {
    await lab.close();
    rmSync(folder, { recursive: true });
  });

  /** Everything that only reads answers while something hangs. */
  const serves = async (): Promise<void> => {
    const startedMs = performance.now();
    await Promise.all([
      lab.berthd.call(runtime.status, StatusRequest.create({}), NO_LOCK_MS),
      lab.berthd.call(runtime.listPodSandbox, ListPodSandboxRequest.create(), NO_LOCK_MS),
      lab.berthd.call(runtime.listContainers, ListContainersRequest.create(), NO_LOCK_MS),
      lab.berthd.call(runtime.listContainerStats, { filter: undefined }, NO_LOCK_MS),
      lab.berthd.call(images.listImages, { filter: undefined }, NO_LOCK_MS),
    ]);
    assert.ok(performance.now() - startedMs < NO_LOCK_MS);
  };
  /** A request that waits for something that hangs, until its client leaves. */
  const asked = <Request, Response>(method: Method<Request, Response>, request: Request) => {
    const leave = new AbortController();
    const failed = lab.berthd.connection.fails(method, request, { signal: leave.signal });
    return {
      failed,
      leave: async (): Promise<void> => {
        leave.abort();
        assert.equal((await failed).code, status.CANCELLED);
      },
    };
  };
  const logText = (): string => readFileSync(lab.berthd.logFile, 'utf8');

  test('conmon is killed: the container goes on, is told to be without a monitor, and stops', async () => {
    const pod = await lab.runPod();
    const [id, other] = [await lab.start(pod), await lab.start(pod)];
    const { pid, monitorPid } = await lab.info(id);
    process.kill(monitorPid, 'SIGKILL');
    await eventually('it is gone', () => !isAlive(monitorPid) || undefined);
    assert.equal((await lab.status(id)).state, ContainerState.CONTAINER_RUNNING);
    assert.equal(await lab.exec(id, 'echo', 'here'), 'here');
    const attach = AttachRequest.create({ containerId: id, stdout: true });
    await lab.berthd.fails(runtime.attach, attach).catch(() => undefined);
    assert.equal(
      (await lab.berthd.fails(runtime.reopenContainerLog, { containerId: id })).code,
      status.FAILED_PRECONDITION,
    );
    await lab.berthd.call(runtime.stopContainer, { containerId: id, timeout: 1n });
    const ended = await lab.status(id);
    assert.deepEqual([ended.exitCode, ended.reason], [255, 'Unknown']);
    assert.match(ended.message, /monitor was lost/);
    assert.ok(!isAlive(pid));
    assert.equal(await lab.exec(other, 'echo', 'untouched'), 'untouched');
    await lab.berthd.call(runtime.removeContainer, { containerId: id });
  });

  test('a program that nobody knows is in the cgroup of a pod: it ends with the pod', async () => {
    const pod = await lab.runPod();
    const folder = readCgroups().find((path) => basename(path).includes(pod)) ?? assert.fail('the pod has no cgroup');
    const stray = spawn('sleep', ['1000'], { stdio: 'ignore' });
    const ended = once(stray, 'exit');
    writeFileSync(join(folder, 'cgroup.procs'), String(stray.pid));
    await lab.removePod(pod);
    assert.deepEqual(await ended, [null, 'SIGKILL']);
    lab.berthd.assertNoTraces();
  });

  test('conmon is killed, and the program ends by itself', async () => {
    const pod = await lab.runPod();
    const id = await lab.start(pod, script('until [ -e /dev/shm/end ]; do sleep 0.05; done'));
    process.kill((await lab.info(id)).monitorPid, 'SIGKILL');
    await lab.exec(id, 'touch', '/dev/shm/end').catch(() => undefined);
    assert.equal((await lab.ended(id)).reason, 'Unknown');
  });

  for (const pid of [NamespaceMode.CONTAINER, NamespaceMode.POD]) {
    test(`pause is killed (${pid === NamespaceMode.POD ? 'shared' : 'own'} PID namespaces): not ready, and it can be stopped and removed`, async () => {
      const pod = await lab.runPod(lab.podConfig({ linux: { securityContext: { namespaceOptions: { pid } } } }));
      const namespaceOptions = { linux: { securityContext: { namespaceOptions: { pid } } } };
      const id = await lab.startReady(pod, {
        ...script('trap "exit 3" TERM; echo ready; while :; do sleep 0.1; done'),
        ...namespaceOptions,
      });
      process.kill((await lab.podInfo(pod)).pid, 'SIGKILL');
      await eventually(
        'it is told',
        async () => (await lab.podStatus(pod)).status?.state === PodSandboxState.SANDBOX_NOTREADY || undefined,
      );
      assert.equal((await lab.refused(pod, {})).code, status.FAILED_PRECONDITION);
      await lab.berthd.call(runtime.stopContainer, { containerId: id, timeout: 60n });
      // The end of a PID namespace's first process kills the others.
      assert.equal((await lab.status(id)).exitCode, pid === NamespaceMode.POD ? 137 : 3);
      await lab.removePod(pod);
      lab.berthd.assertNoTraces();
    });
  }

  test('the runtime is gone: what needs it is refused by its name, what runs can be stopped and removed', async () => {
    lab.handler = 'own';
    const pod = await lab.runPod();
    const [id, waiting] = [await lab.start(pod), await lab.create(pod)];
    renameSync(own(), `${own()}.away`);
    try {
      const { code, details } = await lab.refused(pod, {});
      assert.match(details, /own-runc/);
      assert.notEqual(code, status.DEADLINE_EXCEEDED);
      assert.match((await lab.berthd.fails(runtime.startContainer, { containerId: waiting })).details, /own-runc/);
      const exec = await lab.berthd.fails(runtime.execSync, { containerId: id, cmd: ['true'], timeout: 5n });
      assert.match(exec.details, /own-runc/);
      assert.equal((await lab.status(id)).state, ContainerState.CONTAINER_RUNNING);
      await serves();
      await lab.berthd.call(runtime.stopContainer, { containerId: id, timeout: 0n });
      assert.equal((await lab.status(id)).exitCode, 137);
      await lab.removePod(pod);
      lab.berthd.assertNoTraces();
    } finally {
      renameSync(`${own()}.away`, own());
    }
  });

  test('the runtime is replaced while containers run, as by an upgrade', async () => {
    lab.handler = 'own';
    const pod = await lab.runPod();
    const id = await lab.start(pod);
    rmSync(own());
    writeFileSync(own(), '#!/bin/sh\nexec /usr/sbin/runc "$@"\n', { mode: 0o755 });
    assert.equal(await lab.exec(id, 'echo', 'here'), 'here');
    await lab.exec(await lab.start(pod), 'true');
    await lab.berthd.end('SIGKILL');
    await lab.berthd.start();
    assert.equal(await lab.exec(id, 'echo', 'here'), 'here');
    await lab.removePod(pod);
    rmSync(own());
    copyFileSync('/usr/sbin/runc', own());
  });

  test('a runtime that hangs keeps nobody from listing, and its pod can be removed', async () => {
    lab.handler = 'hanging';
    const pod = await lab.runPod();
    const waiting = await lab.create(pod);
    const hang = (verb: string): string => join(folder, `hang-${verb}`);
    try {
      writeFileSync(hang('create'), '');
      writeFileSync(hang('start'), '');
      const calls = [
        asked(runtime.createContainer, lab.containerRequest(pod, {})),
        asked(runtime.startContainer, { containerId: waiting }),
      ];
      await eventually('both hang', () => sleepers().length === 2 || undefined);
      await serves();
      for (const { leave } of calls) await leave();
      await serves();
      await lab.berthd.call(runtime.stopPodSandbox, { podSandboxId: pod });
      await lab.berthd.call(runtime.removePodSandbox, { podSandboxId: pod });
      assert.deepEqual(sleepers(), []);
      lab.berthd.assertNoTraces();
    } finally {
      for (const verb of ['create', 'start']) rmSync(hang(verb), { force: true });
    }
  });

  test('a runtime that hangs when it is asked to delete: stops go on, and the same removal works later', async () => {
    lab.handler = 'hanging';
    const pod = await lab.runPod();
    const [waiting, running] = [await lab.create(pod), await lab.start(pod)];
    const hang = join(folder, 'hang-delete');
    writeFileSync(hang, '');
    try {
      const removal = asked(runtime.removeContainer, { containerId: waiting });
      await eventually('it hangs', () => sleepers().length === 1 || undefined);
      await serves();
      assert.equal(await lab.exec(running, 'echo', 'here'), 'here');
      await removal.leave();
      await lab.berthd.call(runtime.stopContainer, { containerId: running, timeout: 0n });
      await lab.berthd.call(runtime.stopPodSandbox, { podSandboxId: pod }, SOON_MS);
      const failed = await lab.berthd.fails(runtime.removePodSandbox, { podSandboxId: pod }, 2_000);
      assert.equal(failed.code, status.DEADLINE_EXCEEDED);
      await lab.berthd.end('SIGKILL');
    } finally {
      rmSync(hang);
      // Those that were waited for have nobody any more.
      for (const pid of sleepers()) process.kill(Number(pid), 'SIGKILL');
    }
    await lab.berthd.start();
    await lab.berthd.call(runtime.removePodSandbox, { podSandboxId: pod });
    lab.berthd.assertNoTraces();
  });

  test('a runtime that hangs when it is asked for a state keeps berthd from no start', async () => {
    lab.handler = 'hanging';
    const pod = await lab.runPod();
    const containers = [await lab.create(pod), await lab.create(pod)];
    const running = await lab.start(pod);
    const hang = join(folder, 'hang-state');
    writeFileSync(hang, '');
    try {
      await lab.berthd.end('SIGKILL');
      await lab.berthd.start();
      await serves();
      assert.equal((await lab.status(running)).state, ContainerState.CONTAINER_RUNNING);
      for (const id of containers) assert.equal((await lab.status(id)).state, ContainerState.CONTAINER_CREATED);
      assert.deepEqual(sleepers(), []);
      const [first = ''] = containers;
      await lab.berthd.call(runtime.startContainer, { containerId: first });
      assert.equal(await lab.exec(first, 'echo', 'here'), 'here');
    } finally {
      rmSync(hang);
    }
  });

  test('a network plugin that hangs keeps nobody from listing', async () => {
    const plugin = join(lab.berthd.plugins, 'bad-hang');
    writeFileSync(plugin, '#!/bin/sh\n[ "$CNI_COMMAND" = ADD ] || exit 0\nexec sleep 7373\n', { mode: 0o755 });
    const fine = await lab.runPod();
    const busy = await lab.start(fine);
    lab.berthd.useNetwork({ type: 'bad-hang' });
    const config = lab.podConfig();
    await eventually('it is the network', () => logText().includes('"plugins":["bad-hang"]') || undefined);
    const run = asked(runtime.runPodSandbox, RunPodSandboxRequest.create({ config }));
    await eventually('it hangs', () => sleepers().length > 0 || undefined);
    await serves();
    assert.equal(await lab.exec(busy, 'echo', 'here'), 'here');
    await run.leave();
    lab.berthd.useNetwork();
    await lab.berthd.end('SIGTERM');
    assert.deepEqual(sleepers(), []);
    await lab.berthd.start();
  });

  test('a registry that hangs keeps nobody from listing, and no other pull', async (t) => {
    const hasAsked = Promise.withResolvers<void>();
    const server = createServer(() => hasAsked.resolve()).listen(0, '127.0.0.1');
    await once(server, 'listening');
    t.after(() => {
      server.closeAllConnections();
      server.close();
    });
    const address = server.address();
    const port = typeof address === 'object' ? address?.port : 0;
    const image = { image: `127.0.0.1:${port}/never/answers:1` };
    const pull = asked(images.pullImage, PullImageRequest.create({ image }));
    const early = await Promise.race([hasAsked.promise, pull.failed]);
    assert.equal(early?.details, undefined);
    await serves();
    const none = { image: { image: '127.0.0.1:1/nobody/there:1' } };
    assert.match(
      (await lab.berthd.fails(images.pullImage, PullImageRequest.create(none))).details,
      /^RegistryUnavailable/,
    );
    await pull.leave();
  });

  test('a disk that is full of logs stops no program, and no stop', async () => {
    const config = lab.podConfig();
    mkdirSync(config.logDirectory, { recursive: true });
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=256k', 'berth-test', config.logDirectory]);
    try {
      const pod = await lab.runPod(config);
      const writing = script(
        'i=0; while [ $i -lt 40000 ]; do echo "line number $i of a long story"; i=$((i + 1)); done; exit 5',
      );
      const id = await lab.start(pod, writing);
      assert.equal((await lab.ended(id)).exitCode, 5);
      const later = await lab.start(pod, script('while :; do echo more; done'));
      await lab.berthd.call(runtime.stopContainer, { containerId: later, timeout: 1n });
      assert.equal((await lab.status(later)).state, ContainerState.CONTAINER_EXITED);
      await lab.removePod(pod);
    } finally {
      execFileSync('umount', ['-l', config.logDirectory]);
    }
  });

  test('the clock was set back or forth while berthd was away: no exit is before its start', async () => {
    const pod = await lab.runPod();
    const go = script('until [ -e /dev/shm/go ]; do sleep 0.05; done; exit 4');
    const ids = [await lab.start(pod, go), await lab.start(pod, go)];
    const { pid } = await lab.info(ids[0] ?? '');
    await lab.berthd.end('SIGKILL');
    writeFileSync(`/proc/${pid}/root/dev/shm/go`, '');
    const exits = join(lab.berthd.state, 'exits');
    await eventually('both have ended', () => ids.every((id) => existsSync(join(exits, id))) || undefined);
    utimesSync(join(exits, ids[0] ?? ''), 1_000, 1_000);
    utimesSync(join(exits, ids[1] ?? ''), 4_000_000_000, 4_000_000_000);
    await lab.berthd.start();
    for (const id of ids) {
      const { startedAt, finishedAt, exitCode } = await lab.ended(id);
      assert.equal(exitCode, 4);
      assert.ok(finishedAt >= startedAt, `${finishedAt} >= ${startedAt}`);
      assert.ok(Number(finishedAt / 1_000_000n) <= Date.now() + 1_000, 'and not in the future');
    }
    await lab.removePod(pod);
  });

  test('what other runtimes have left is left alone, and keeps berthd from nothing', async (t) => {
    const hex = 'c0ffee'.padEnd(64, '0');
    const foreign = mkdtempSync(join(tmpdir(), 'berth-foreign-'));
    const stranger = spawn('sleep', ['7474']);
    const cgroup = join(existsSync(PIDS) ? PIDS : CGROUPS, lab.cgroupParent, `crio-${hex}`);
    mkdirSync(cgroup, { recursive: true });
    writeFileSync(join(cgroup, 'cgroup.procs'), String(stranger.pid));
    t.after(async () => {
      stranger.kill('SIGKILL');
      await eventually('it has ended', () => !isAlive(stranger.pid ?? 0) || undefined);
      // berthd leaves what others have put into a cgroup of pods.
      execFileSync('rmdir', ['-p', '--ignore-fail-on-non-empty', basename(cgroup)], { cwd: join(cgroup, '..') });
      if (existsSync(join(cgroup, '..'))) execFileSync('rmdir', ['--ignore-fail-on-non-empty', join(cgroup, '..')]);
      rmSync(foreign, { recursive: true });
    });
    const places = {
      'another id': join(lab.berthd.state, 'containers', 'not-an-id'),
      'a file': join(lab.berthd.state, 'sandboxes', 'README'),
      'another runtime': join(lab.berthd.state, 'runtime', 'kata', 'sandbox-1'),
      snapshots: join(lab.berthd.root, 'snapshots', 'lost+found'),
      results: join(lab.berthd.root, 'cni/results', `cbr0-${hex}-eth0`),
    };
    const pod = await lab.runPod();
    const id = await lab.start(pod);
    await lab.berthd.end('SIGKILL');
    for (const path of Object.values(places)) {
      mkdirSync(join(path, '..'), { recursive: true });
      if (path.endsWith('README') || path.endsWith('eth0')) writeFileSync(path, 'not ours');
      else mkdirSync(path);
    }
    symlinkSync('/nowhere', join(lab.berthd.state, 'containers', 'dangling'));
    await lab.berthd.start();
    assert.equal(await lab.exec(id, 'echo', 'here'), 'here');
    for (const [what, path] of Object.entries(places)) assert.ok(existsSync(path), what);
    assert.ok(isAlive(stranger.pid ?? 0));
    await lab.removePod(pod);
    for (const path of [...Object.values(places), join(lab.berthd.state, 'containers', 'dangling')])
      rmSync(path, { recursive: true, force: true });
    rmSync(join(lab.berthd.state, 'runtime', 'kata'), { recursive: true, force: true });
  });

  test('a process that nothing can kill: its stop goes on, others are not held up, and it ends when it can', {
    skip: existsSync(FREEZER) ? false : 'only what a version 1 freezer holds survives SIGKILL',
  }, async (t) => {
    const pod = await lab.runPod();
    const [id, other] = [await lab.start(pod), await lab.start(pod)];
    const { pid } = await lab.info(id);
    const path = /:freezer:(.*)$/m.exec(readFileSync(`/proc/${pid}/cgroup`, 'utf8'))?.[1] ?? '';
    const inner = join(FREEZER, path, 'inner');
    const thaw = (): void => {
      if (existsSync(inner)) writeFileSync(join(inner, 'freezer.state'), 'THAWED');
    };
    t.after(thaw);
    mkdirSync(inner);
    writeFileSync(join(inner, 'cgroup.procs'), String(pid));
    writeFileSync(join(inner, 'freezer.state'), 'FROZEN');
    const stop = await lab.berthd.fails(runtime.stopContainer, { containerId: id, timeout: 0n }, 7_000);
    assert.equal(stop.code, status.DEADLINE_EXCEEDED);
    assert.equal((await lab.status(id)).state, ContainerState.CONTAINER_RUNNING);
    await eventually('it is told', () => logText().includes('container survives SIGKILL') || undefined);
    await serves();
    assert.equal(await lab.exec(other, 'echo', 'here'), 'here');
    await lab.berthd.call(runtime.removeContainer, { containerId: other });
    thaw();
    await lab.berthd.call(runtime.stopContainer, { containerId: id, timeout: 0n });
    assert.equal((await lab.status(id)).exitCode, 137);
    await lab.removePod(pod);
  });

  test(`a log of ${LINES} lines as fast as they come, through rotations, loses none`, async (t) => {
    const pod = await lab.runPod();
    const writing = script(`i=0; while [ $i -lt ${LINES} ]; do echo $i; i=$((i + 1)); done`);
    const startedMs = performance.now();
    const id = await lab.start(pod, writing);
    const { logPath } = await lab.status(id);
    let rotations = 0;
    while ((await lab.status(id)).state === ContainerState.CONTAINER_RUNNING) {
      rotations += 1;
      renameSync(logPath, `${logPath}.${rotations}`);
      // It may end at any moment.
      await lab.berthd.call(runtime.reopenContainerLog, { containerId: id }).catch(() => undefined);
      await new Promise((resolve) => setTimeout(resolve, 300));
    }
    const seconds = (performance.now() - startedMs) / 1000;
    t.diagnostic(`${Math.round(LINES / seconds)} lines a second, ${rotations} rotations`);
    assert.ok(rotations >= 2);
    const files = [...Array.from({ length: rotations }, (_, index) => `${logPath}.${index + 1}`), logPath];
    // A line that was cut goes on in the next piece, in the next file too.
    const pieces = files.filter((file) => existsSync(file)).flatMap((file) => readLog(file));
    const whole = pieces.map(({ tag, text }) => (tag === 'P' ? text : `${text}\n`)).join('');
    const numbers = whole.trimEnd().split('\n').map(Number);
    assert.equal(numbers.length, LINES);
    assert.ok(numbers.every((number, index) => number === index));
  });
});

/** Programs of these tests that hang. */
function sleepers(): string[] {
  return readdirSync('/proc').filter((pid) => {
    try {
      return readFileSync(`/proc/${pid}/cmdline`, 'latin1') === 'sleep\0' + '7373\0';
    } catch {
      return false;
    }
  });
}
