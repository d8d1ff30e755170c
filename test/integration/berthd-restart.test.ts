/** What runs outlives berthd, whatever moment it is killed in; what was half made does not. */

import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, readlinkSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, afterEach, before, describe as suite, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';

import Database from 'better-sqlite3';

import {
  AttachRequest,
  ContainerState,
  ImageServiceService as images,
  ListContainersRequest,
  ListImagesRequest,
  ListPodSandboxRequest,
  PodSandboxState,
  RuntimeServiceService as runtime,
} from '../../proto/gen/cri/api.ts';
import { identify } from '../../src/runtime/process-identity.ts';
import { letGo } from '../../src/runtime/runc-state.ts';
import { readProcessStartTime } from '../../src/sys/process.ts';
import { childPids } from '../fakes/process-facts.ts';
import { connectCommand } from '../fakes/stream-client.ts';
import { eventually, readLog } from '../harness/cri-lab.ts';
import { isAlive, killInCgroups } from '../harness/machine-state.ts';
import { dropRules } from '../harness/packet-rules.ts';
import { patient, SOON_MS } from '../harness/patience.ts';
import { PodLab } from '../harness/pod-lab.ts';

const MIB = 1n << 20n;
const AT_ONCE = 8;

suite('berthd goes and comes back', { timeout: patient(900_000) }, () => {
  let lab: PodLab;
  before(async () => {
    lab = await PodLab.start();
  });
  afterEach((t) => lab.afterTest(t));
  after(() => lab.close());

  const script = (text: string) => ({ command: ['sh', '-c', text] });
  const listed = async () => (await lab.berthd.call(runtime.listPodSandbox, ListPodSandboxRequest.create())).items;
  const containers = async () =>
    (await lab.berthd.call(runtime.listContainers, ListContainersRequest.create())).containers;
  const statusWithoutTime = async (pod: string) => ({ ...(await lab.podStatus(pod, true)), timestamp: 0n });

  /** Kills berthd when `count` more steps of that name have ended, and starts it again. */
  const killAfter = async (step: string, count: number): Promise<void> => {
    await lab.berthd.logged(`"step":"${step}"`, count);
    await lab.berthd.end('SIGKILL');
  };

  for (const signal of ['SIGKILL', 'SIGTERM'] as const) {
    test(`${signal}: pods, containers and images are what they were`, async () => {
      const pod = await lab.runPod(lab.podConfig({ labels: { a: 'b' }, annotations: { c: 'd\n"e"' } }));
      const other = await lab.runPod();
      const stopped = await lab.runPod();
      await lab.berthd.call(runtime.stopPodSandbox, { podSandboxId: stopped });
      const ids = [
        await lab.start(pod, { envs: [{ key: 'A', value: Buffer.from('b') }] }),
        await lab.start(other),
        await lab.create(pod),
        await lab.start(pod, script('exit 4')),
      ];
      await lab.ended(ids[3] ?? '');
      const pods = [pod, other, stopped];
      const all = async () => [
        await Promise.all(pods.map(statusWithoutTime)),
        await Promise.all(ids.map((id) => lab.status(id))),
        await containers(),
        await lab.berthd.call(images.listImages, ListImagesRequest.create()),
      ];
      const before = await all();
      await lab.berthd.end(signal);
      await lab.berthd.start();
      assert.deepEqual(await all(), before);
      assert.equal(await lab.exec(ids[0] ?? '', 'sh', '-c', 'echo $A'), 'b');
      await lab.berthd.call(runtime.startContainer, { containerId: ids[2] ?? '' });
      assert.equal((await lab.status(ids[2] ?? '')).state, ContainerState.CONTAINER_RUNNING);
    });
  }

  for (const signal of ['SIGKILL', 'SIGTERM'] as const) {
    test(`${signal}: no command that berthd runs in a container outlives it`, async () => {
      const pod = await lab.runPod();
      const containerId = await lab.start(pod);
      const exec = lab.berthd.fails(runtime.execSync, {
        containerId,
        cmd: ['sh', '-c', 'sleep 7654 & (setsid sleep 7654 > /dev/null 2>&1 &); sleep 7655'],
        timeout: 0n,
      });
      await eventually('the command runs', () => sleepers().length === 3 || undefined);
      await lab.berthd.end(signal);
      await exec;
      await eventually('the command has ended', () => sleepers().length === 0 || undefined);
      await lab.berthd.start();
      const left = readdirSync(join(lab.berthd.state, 'containers', containerId));
      assert.deepEqual(
        left.filter((name) => name.startsWith('exec-')),
        [],
      );
      assert.equal(await lab.exec(containerId, 'echo', 'still here'), 'still here');
    });
  }

  test('a container can be attached to after a restart, by its terminal too', async () => {
    const pod = await lab.runPod();
    const wanted = { stdin: true, stdout: true };
    const ids = await Promise.all([
      lab.start(pod, { ...script('while read line; do echo "got $line"; done'), stdin: true }),
      lab.start(pod, { ...script('while read line; do stty size; echo "got $line"; done'), stdin: true, tty: true }),
    ]);
    await lab.berthd.end('SIGKILL');
    await lab.berthd.start();
    for (const [containerId, tty] of [[ids[0], false] as const, [ids[1], true] as const]) {
      const request = AttachRequest.create({ containerId, tty, ...wanted });
      const { url } = await lab.berthd.call(runtime.attach, request);
      const client = await connectCommand(url, 'websocket', { tty, ...wanted });
      if (tty) client.resize(77, 33);
      let seen = '';
      client.stdout.setEncoding('utf8').on('data', (data: string) => {
        seen += data;
      });
      await eventually('it answers', () => {
        client.stdin.write('word\n');
        return (tty ? /33 77\r\ngot word\r\n/ : /got word\n/).test(seen) || undefined;
      });
      client.close();
    }
  });

  test('exits of the gap are told with their code, reason and time', async () => {
    const pod = await lab.runPod();
    const go = 'until [ -e /dev/shm/go ]; do sleep 0.01; done;';
    // Without that key, which kubelets set, either of two that ended meanwhile may be the one that ran out of memory.
    const unified = existsSync('/sys/fs/cgroup/cgroup.controllers') ? { 'memory.oom.group': '1' } : {};
    const coded = await lab.start(pod, { ...script(`${go} exit 9`), linux: { resources: { unified } } });
    const large = await lab.start(pod, {
      ...script(`${go} x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done`),
      linux: { resources: { memoryLimitInBytes: 16n * MIB } },
    });
    const writing = await lab.start(pod, script(`i=0; while sleep 0.01; do i=$((i + 1)); echo $i; done`));
    const { pid } = await lab.info(coded);
    const logPath = (await lab.status(writing)).logPath;
    await lab.berthd.end('SIGKILL');
    const goneMs = Date.now();
    execFileSync('touch', [`/proc/${pid}/root/dev/shm/go`]);
    await eventually('both have ended', () =>
      readdirSync(`${lab.berthd.state}/exits`).length === 2 ? true : undefined,
    );
    const endedMs = Date.now();
    const seen = readLog(logPath).length;
    await eventually('the log goes on', () => (readLog(logPath).length > seen ? true : undefined));
    await lab.berthd.start();
    for (const [id, exitCode, reason] of [
      [coded, 9, 'Error'],
      [large, 137, 'OOMKilled'],
    ] as const) {
      const found = await lab.ended(id);
      assert.deepEqual([found.exitCode, found.reason], [exitCode, reason]);
      const finishedMs = Number(found.finishedAt / 1_000_000n);
      assert.ok(finishedMs >= goneMs - 5 && finishedMs <= endedMs + 5, `${goneMs} <= ${finishedMs} <= ${endedMs}`);
    }
    const numbers = readLog(logPath).map(({ text }) => Number(text));
    assert.deepEqual(
      numbers,
      numbers.map((_, index) => index + 1),
    );
  });

  test('a pause process that ended in the gap makes its pod not ready', async () => {
    const pod = await lab.runPod();
    const { pid } = await lab.podInfo(pod);
    await lab.berthd.end('SIGKILL');
    process.kill(pid, 'SIGKILL');
    await lab.berthd.start();
    assert.equal((await lab.podStatus(pod)).status?.state, PodSandboxState.SANDBOX_NOTREADY);
    await lab.removePod(pod);
  });

  for (const step of [
    'make folders',
    'make cgroup',
    'make namespaces and pause',
    'start pause',
    'attach network',
    'mark ready',
  ]) {
    for (const count of [1, 5]) {
      test(`killed in the middle of ${AT_ONCE} RunPodSandbox, as ${count} came past "${step}"`, async () => {
        const lasting = await lab.runPod();
        const before = (await lab.podStatus(lasting)).status;
        const configs = Array.from({ length: AT_ONCE }, () => lab.podConfig());
        const killed = killAfter(step, count);
        const answers = await Promise.all(configs.map((config) => lab.runPod(config).catch(() => undefined)));
        await killed;
        await lab.berthd.start();
        assert.deepEqual((await lab.podStatus(lasting)).status, before);
        const adopted = (await listed()).map(({ id }) => id);
        for (const id of answers) assert.ok(id === undefined || adopted.includes(id), 'what was promised is there');
        // A start waits two seconds for what is half made; what takes longer, on a busy machine, goes beside it.
        await eventually(
          'what was half made is gone',
          async () => (await listed()).every(({ state }) => state === PodSandboxState.SANDBOX_READY) || undefined,
        );
        const retried = await Promise.all(configs.map((config) => lab.runPod(config)));
        assert.equal(new Set(retried).size, AT_ONCE);
        for (const id of answers) assert.ok(id === undefined || retried.includes(id), 'the same request, the same pod');
        assert.equal((await listed()).length, AT_ONCE + 1);
        assert.equal(new Set(await Promise.all(retried.map((id) => lab.ipOf(id)))).size, AT_ONCE);
      });
    }
  }

  for (const step of ['mount snapshot', 'write spec', 'create under monitor', 'mark created']) {
    test(`killed in the middle of ${AT_ONCE} CreateContainer, as one came past "${step}"`, async () => {
      const pod = await lab.runPod();
      const requests = Array.from({ length: AT_ONCE }, () => lab.containerRequest(pod, {}));
      const killed = killAfter(step, 1);
      const answers = await Promise.all(
        requests.map((request) => lab.berthd.call(runtime.createContainer, request).catch(() => undefined)),
      );
      await killed;
      await lab.berthd.start();
      // As above: what is still being undone is listed as unknown.
      const adopted = await eventually('what was half made is gone', async () => {
        const listed = await containers();
        return listed.every(({ state }) => state !== ContainerState.CONTAINER_UNKNOWN) ? listed : undefined;
      });
      for (const answer of answers)
        assert.ok(answer === undefined || adopted.some(({ id }) => id === answer.containerId));
      for (const { state } of adopted) assert.equal(state, ContainerState.CONTAINER_CREATED);
      const names = new Set(adopted.map(({ metadata }) => metadata?.name));
      const missing = requests.filter(({ config }) => !names.has(config?.metadata?.name));
      const made = await Promise.all(missing.map((request) => lab.berthd.call(runtime.createContainer, request)));
      for (const containerId of [...adopted.map(({ id }) => id), ...made.map((answer) => answer.containerId)]) {
        await lab.berthd.call(runtime.startContainer, { containerId });
        assert.equal(await lab.exec(containerId, 'echo', 'runs'), 'runs');
      }
      assert.equal((await containers()).length, AT_ONCE);
    });
  }

  test('killed in the middle of starts, stops and removals', async () => {
    const pods = await Promise.all(Array.from({ length: 4 }, () => lab.runPod()));
    const ids = await Promise.all(pods.map((pod) => lab.create(pod)));
    const killedAtStart = killAfter('start in runtime', 1);
    await Promise.all(
      ids.map((containerId) => lab.berthd.call(runtime.startContainer, { containerId }).catch(() => {})),
    );
    await killedAtStart;
    await lab.berthd.start();
    for (const id of ids) {
      const { state } = await lab.status(id);
      if (state === ContainerState.CONTAINER_CREATED)
        await lab.berthd.call(runtime.startContainer, { containerId: id });
      assert.equal((await lab.status(id)).state, ContainerState.CONTAINER_RUNNING);
      assert.equal(await lab.exec(id, 'echo', 'runs'), 'runs');
    }
    for (const step of ['kill containers', 'detach network', 'end pause and namespaces']) {
      const killed = killAfter(step, 1);
      await Promise.all(
        pods.map((podSandboxId) => lab.berthd.call(runtime.stopPodSandbox, { podSandboxId }).catch(() => {})),
      );
      await killed;
      await lab.berthd.start();
      for (const { state, id } of await listed())
        assert.ok(state === PodSandboxState.SANDBOX_NOTREADY || (await lab.ipOf(id)) !== '', `${step}: ${id}`);
      // Each has one to stop for the next step.
      pods.push(await lab.runPod());
    }
    const killed = killAfter('remove containers', 1);
    await Promise.all(pods.map((pod) => lab.removePod(pod).catch(() => {})));
    await killed;
    await lab.berthd.start();
    await Promise.all(pods.map((pod) => lab.removePod(pod)));
    assert.deepEqual(await listed(), []);
  });

  test('killed in the moment in which it let a program of runc go: that runs, and runc knows', async () => {
    lab.handler = 'runc';
    const pod = await lab.runPod();
    lab.handler = '';
    const containerId = await lab.create(pod);
    const init = identify((await lab.info(containerId)).pid);
    const folder = join(lab.berthd.state, 'runtime/runc', containerId);
    await lab.berthd.end('SIGKILL');
    assert.ok(init && (await letGo(folder, init, AbortSignal.timeout(SOON_MS))));
    execFileSync('mkfifo', [join(folder, 'exec.fifo')]);
    await lab.berthd.start();
    assert.equal((await lab.status(containerId)).state, ContainerState.CONTAINER_RUNNING);
    assert.equal(await lab.exec(containerId, 'echo', 'runs'), 'runs');
    assert.equal(existsSync(join(folder, 'exec.fifo')), false);
    await lab.removePod(pod);
    assert.equal(existsSync(folder), false);
  });

  /** What a reboot takes along: processes, mounts, the state folder, packet rules. Returns when berthd has been killed. */
  const reboot = async (
    pods: readonly string[],
    containerIds: readonly string[],
    fact: 'boot id' | 'start of process 1' = 'boot id',
  ): Promise<void> => {
    await lab.berthd.end('SIGKILL');
    killInCgroups([...pods, ...containerIds]);
    for (const mount of ownMounts()) execFileSync('umount', ['--lazy', mount]);
    rmSync(lab.berthd.state, { recursive: true });
    for (const pod of pods) dropRules(pod);
    // The boot is told by the kernel, which has not been started anew.
    const database = new Database(join(lab.berthd.root, 'berth.db'));
    const { changes } = database.prepare("UPDATE facts SET value = 'another', row_sum = NULL WHERE name = ?").run(fact);
    assert.equal(changes, 1, `berthd notes the ${fact}`);
    database.close();
  };

  test('after a reboot the state folder and all processes are gone: pods are not ready, and leave nothing', async () => {
    const pod = await lab.runPod();
    const id = await lab.start(pod);
    const ended = await lab.run(pod, script('exit 5'));
    const created = await lab.create(pod);
    await reboot([pod], [id, created]);
    await lab.berthd.start();
    assert.equal((await lab.podStatus(pod)).status?.state, PodSandboxState.SANDBOX_NOTREADY);
    for (const containerId of [id, created])
      assert.deepEqual(
        [(await lab.ended(containerId)).exitCode, (await lab.ended(containerId)).reason],
        [255, 'Unknown'],
      );
    assert.deepEqual(await lab.status(ended.id), ended);
    await lab.removePod(pod);
  });

  test('a node that is a container is started anew, and its kernel is not: that is a reboot all the same', async () => {
    const pod = await lab.runPod();
    const id = await lab.start(pod);
    await reboot([pod], [id], 'start of process 1');
    await lab.berthd.start();
    const ip = await lab.ipOf(pod);
    const { exitCode, reason, message } = await lab.status(id);
    assert.deepEqual([ip, exitCode, reason], ['', 255, 'Unknown']);
    assert.match(message, /restarted/);
    await lab.removePod(pod);
  });

  test('a berthd that knows only the boot, as of an earlier version, takes its pods over', async () => {
    const pod = await lab.runPod();
    await lab.berthd.end('SIGKILL');
    const database = new Database(join(lab.berthd.root, 'berth.db'));
    database.exec("DELETE FROM facts WHERE name = 'start of process 1'");
    database.close();
    await lab.berthd.start();
    assert.equal((await lab.podStatus(pod)).status?.state, PodSandboxState.SANDBOX_READY);
    await lab.removePod(pod);
  });

  test('after a reboot addresses and host ports are free, before their pods are stopped', async () => {
    const portMappings = [{ containerPort: 80, hostPort: 28_377 }];
    const pod = await lab.runPod(lab.podConfig({ portMappings }));
    const ip = await lab.ipOf(pod);
    await reboot([pod], []);
    await lab.berthd.start();
    assert.equal(await lab.ipOf(pod), '');
    const addresses = join(lab.berthd.root, 'addresses/berth-test');
    await eventually('its address is free', () => !readdirSync(addresses).includes(ip) || undefined);
    const next = await lab.runPod(lab.podConfig({ portMappings }));
    assert.equal((await lab.podStatus(next)).status?.state, PodSandboxState.SANDBOX_READY);
    await lab.removePod(pod);
    assert.ok(readdirSync(addresses).includes(await lab.ipOf(next)), 'the address of the other one stays its own');
    await lab.removePod(next);
  });

  test('processes of another boot are nobody that berthd knows: none is adopted, and none is killed', async () => {
    const pod = await lab.runPod();
    const id = await lab.start(pod);
    const ended = await lab.run(pod, script('exit 5'));
    await lab.berthd.end('SIGKILL');
    // After a reboot their pids may be a stranger's, whose start time may be the same: it counts from the boot.
    const stranger = spawn('sleep', ['1000']);
    const identity = JSON.stringify({ pid: stranger.pid, startTime: readProcessStartTime(stranger.pid ?? 0) });
    const database = new Database(join(lab.berthd.root, 'berth.db'));
    database.exec(`UPDATE facts SET value = 'another', row_sum = NULL WHERE name = 'boot id';
      UPDATE sandboxes SET body_sum = NULL, body = json_set(body, '$.pause', json('${identity}'));
      UPDATE containers SET body_sum = NULL,
        body = json_set(body, '$.init', json('${identity}'), '$.monitor', json('${identity}'))`);
    database.close();
    await lab.berthd.start();
    assert.equal((await lab.podStatus(pod)).status?.state, PodSandboxState.SANDBOX_NOTREADY);
    const { exitCode, reason, message } = await lab.status(id);
    assert.deepEqual([exitCode, reason], [255, 'Unknown']);
    assert.match(message, /restarted/);
    assert.deepEqual(await lab.status(ended.id), ended);
    dropRules(pod);
    await lab.removePod(pod);
    assert.ok(isAlive(stranger.pid ?? 0));
    stranger.kill();
    const again = await lab.runPod();
    await lab.berthd.end('SIGKILL');
    await lab.berthd.start();
    assert.equal((await lab.podStatus(again)).status?.state, PodSandboxState.SANDBOX_READY);
  });

  test('what a container writes to its files in /etc lies on the disk of the root folder, also after a restart', async () => {
    const pod = await lab.runPod();
    const id = await lab.start(pod);
    for (const name of ['hosts', 'hostname', 'resolv.conf'])
      await lab.exec(id, 'sh', '-c', `head -c 1000000 /dev/zero >> /etc/${name}`);
    assert.deepEqual(readdirSync(join(lab.berthd.state, 'sandboxes', pod)).sort(), ['ns', 'shm']);
    const sizes = ['hosts', 'hostname', 'resolv.conf'].map(
      (name) => statSync(join(lab.berthd.root, 'sandboxes', pod, name)).size,
    );
    assert.ok(sizes.every((size) => size > 1_000_000));
    await lab.berthd.end('SIGKILL');
    await lab.berthd.start();
    const later = await lab.start(pod);
    assert.equal(
      await lab.exec(later, 'sh', '-c', 'cat /etc/hosts /etc/hostname /etc/resolv.conf | wc -c'),
      String(sum(sizes)),
    );
  });

  test('killed before the monitor has written down who it is: neither it nor its container is left', async (t) => {
    const handler = join(lab.berthd.root, 'slow-runc');
    writeFileSync(handler, '#!/bin/sh\ncase "$*" in *" create "*) exec sleep 1000;; esac\nexec runc "$@"\n', {
      mode: 0o755,
    });
    const config = `[runtime.handlers.slow]\npath = "${handler}"`;
    const slow = await PodLab.start({ config });
    t.after(() => slow.close());
    slow.handler = 'slow';
    const pod = await slow.runPod();
    const creating = slow.create(pod).catch(() => undefined);
    const bundles = join(slow.berthd.state, 'containers');
    const monitorOf = () => {
      const [id = ''] = existsSync(bundles) ? readdirSync(bundles) : [];
      const pidFile = join(bundles, id, 'monitor.pid');
      return existsSync(pidFile) && readFileSync(pidFile, 'utf8') !== '' ? { id, pidFile } : undefined;
    };
    const { id, pidFile } = await eventually('a monitor', monitorOf);
    const pid = readFileSync(pidFile, 'utf8').trim();
    await slow.berthd.end('SIGKILL');
    await creating;
    rmSync(pidFile);
    assert.ok(isAlive(pid));
    await slow.berthd.start();
    assert.ok(!isAlive(pid));
    assert.ok(!existsSync(join(bundles, id)));
    await slow.removePod(pod);
    slow.berthd.assertNoTraces();
  });

  const ownMounts = (): string[] =>
    readFileSync('/proc/self/mounts', 'utf8')
      .split('\n')
      .map((line) => line.split(' ')[1] ?? '')
      .filter((path) => path.startsWith(lab.berthd.state) || path.startsWith(lab.berthd.root))
      .reverse();

  test('SIGTERM lets calls in flight end, or tells them that it stops; nothing is left half made', async () => {
    const pod = await lab.runPod();
    const id = await lab.start(pod);
    const command = lab.exec(id, 'sleep', '600').then(
      () => 'ended',
      (err: unknown) => String(err),
    );
    const making = Array.from({ length: 4 }, () => lab.runPod().catch(() => undefined));
    await delay(30);
    const startedMs = performance.now();
    await lab.berthd.end('SIGTERM');
    assert.ok(performance.now() - startedMs < SOON_MS, 'it ends soon');
    const answers = await Promise.all(making);
    assert.match(await command, /CANCELLED|UNAVAILABLE/);
    await lab.berthd.start();
    const found = (await listed()).map((item) => item.id);
    for (const answer of answers) assert.ok(answer === undefined || found.includes(answer));
    assert.equal(await lab.exec(id, 'echo', 'runs'), 'runs');
  });

  test('SIGTERM at any moment of pods that are made leaves nothing, not even an address', async () => {
    for (let afterMs = 0; afterMs < 150; afterMs += 10) {
      const making = Array.from({ length: 4 }, () => lab.runPod().catch(() => undefined));
      await delay(afterMs);
      await lab.berthd.end('SIGTERM');
      const answers = await Promise.all(making);
      await lab.berthd.start();
      const found = (await listed()).map((item) => item.id);
      for (const answer of answers) assert.ok(answer === undefined || found.includes(answer), `after ${afterMs} ms`);
      await Promise.all(found.map((id) => lab.removePod(id)));
      lab.berthd.assertNoTraces();
    }
  });

  test('it takes no more descriptors, threads or processes after thirty pods than after five', async () => {
    const cycle = async (): Promise<void> => {
      const pod = await lab.runPod();
      const id = await lab.start(pod);
      await lab.exec(id, 'true');
      await lab.removePod(pod);
    };
    const files = (): string[] =>
      readdirSync(`/proc/${lab.berthd.pid}/fd`).flatMap((fd) => {
        try {
          return readlinkSync(`/proc/${lab.berthd.pid}/fd/${fd}`);
        } catch {
          return [];
        }
      });
    const isDatabase = (file: string): boolean => file.startsWith(join(lab.berthd.root, 'berth.db'));
    const count = () => ({
      descriptors: files().filter((file) => !isDatabase(file)).length,
      threads: readdirSync(`/proc/${lab.berthd.pid}/task`).length,
      children: execFileSync('sh', ['-c', `cat /proc/${lab.berthd.pid}/task/*/children`], { encoding: 'utf8' }),
    });
    for (let round = 0; round < 5; round++) await cycle();
    await eventually('ended children are reaped', () => childPids(lab.berthd.pid).every(isAlive) || undefined);
    const before = count();
    for (let round = 0; round < 25; round++) await cycle();
    await eventually('it holds no more than before', () => {
      const now = count();
      return now.descriptors <= before.descriptors && now.threads <= before.threads && now.children === before.children
        ? true
        : undefined;
    }).catch((err: unknown) => {
      assert.deepEqual(count(), before, String(err));
    });
    // Three, and as many for the thread that moves its log; SQLite keeps one of them for the next such thread.
    assert.ok(files().filter(isDatabase).length <= 6, files().join(' '));
  });
});

/** Processes that sleep as long as those of the test with commands do. */
function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, number) => total + number, 0);
}

function sleepers(): string[] {
  return readdirSync('/proc').filter((pid) => {
    try {
      const words = readFileSync(`/proc/${pid}/cmdline`, 'latin1').split('\0');
      return words[0] === 'sleep' && ['7654', '7655'].includes(words[1] ?? '');
    } catch {
      return false;
    }
  });
}
