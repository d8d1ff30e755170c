/**
 * Checkpoint and restore, through berthd, with a runtime that stands in for CRIU: that one needs a kernel that it knows,
 * and test machines rarely have one. The last test uses the real one where it runs.
 */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, beforeEach, describe as suite, test } from 'node:test';

import { status } from '@grpc/grpc-js';

import {
  CheckpointContainerRequest,
  CheckpointPodRequest,
  ContainerState,
  PodSandboxState,
  RestorePodRequest,
  RuntimeServiceService as runtime,
} from '../../proto/gen/cri/api.ts';
import { buildCriuRuntime } from '../fakes/criu-runtime.ts';
import { eventually, readLog } from '../harness/cri-lab.ts';
import { isAlive } from '../harness/machine-state.ts';
import { SOON_MS } from '../harness/patience.ts';
import { PodLab } from '../harness/pod-lab.ts';

const path = process.env['PATH'] ?? '';

suite('checkpoint and restore', { timeout: 900_000 }, () => {
  let folder: string;
  let fake: { readonly path: string; readonly binDir: string };
  let lab: PodLab;
  let out: string;
  let outs = 0;

  const calls = (): string[] => {
    const file = join(folder, 'criu/calls');
    const lines = existsSync(file) ? readFileSync(file, 'utf8').trimEnd().split('\n') : [];
    rmSync(file, { force: true });
    return lines;
  };
  const breakVerb = (how: 'fail' | 'hang', verb: string): void => {
    rmSync(join(folder, 'criu/hanging'), { force: true });
    writeFileSync(join(folder, `criu/${how}-${verb}`), 'no');
  };
  /** The process of the verb that hangs since `breakVerb`. */
  const hanging = async (): Promise<number> =>
    await eventually('the runtime hangs', () => {
      const file = join(folder, 'criu/hanging');
      const pid = existsSync(file) ? /^(\d+)\n/.exec(readFileSync(file, 'utf8'))?.[1] : undefined;
      return pid === undefined ? undefined : Number(pid);
    });
  const isPaused = async (id: string): Promise<boolean> =>
    (
      JSON.parse(
        execFileSync('runc', ['--root', join(lab.berthd.state, 'runtime/criu'), 'state', id], { encoding: 'utf8' }),
      ) as { status: string }
    ).status === 'paused';
  const checkpoint = (containerId: string, location: string) =>
    CheckpointContainerRequest.create({ containerId, location });
  const assertNoWork = (): void => {
    const work = join(lab.berthd.root, 'checkpoints');
    assert.deepEqual(existsSync(work) ? readdirSync(work) : [], []);
  };

  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'berth-checkpoint-'));
    fake = buildCriuRuntime(join(folder, 'criu'));
    process.env['PATH'] = `${fake.binDir}:${path}`;
    lab = await PodLab.start({
      config: `[runtime]\ndefault_runtime = "criu"\n[runtime.handlers.criu]\npath = "${fake.path}"`,
      files: { 'etc/old': 'old', 'gone/a': 'a', 'gone/b': 'b' },
    });
  });
  beforeEach(() => {
    outs += 1;
    out = join(folder, `out-${outs}`);
    mkdirSync(out);
  });
  afterEach(async (t) => {
    for (const name of readdirSync(join(folder, 'criu')))
      if (/^(fail|hang)-/.test(name)) rmSync(join(folder, 'criu', name));
    await lab.afterTest(t);
    assertNoWork();
    calls();
  });
  after(async () => {
    await lab.close();
    process.env['PATH'] = path;
    rmSync(folder, { recursive: true });
  });

  test('a container becomes an archive, and another container goes on from it', async () => {
    const pod = await lab.runPod();
    const id = await lab.start(pod, { metadata: { name: 'first' } });
    await lab.exec(
      id,
      'sh',
      '-c',
      'echo new > /etc/new; echo changed > /etc/old; rm -r /gone; mkdir /gone; echo c > /gone/c',
    );
    const location = join(out, 'one.tar');
    await lab.berthd.call(runtime.checkpointContainer, checkpoint(id, location));
    assert.deepEqual(calls(), [`pause ${id}`, `checkpoint ${id}`, `resume ${id}`]);
    assert.equal(await isPaused(id), false);
    assert.equal(statSync(location).mode & 0o777, 0o600);
    assert.deepEqual(readdirSync(out), ['one.tar']);
    const members = execFileSync('tar', ['-tf', location], { encoding: 'utf8' }).split('\n');
    for (const name of [
      './checkpoint/pages-1.img',
      './config.dump',
      './spec.dump',
      './rootfs-diff.tar',
      './deleted.files',
      './bind.mounts',
      './container.log',
    ])
      assert.ok(members.includes(name), `${name} is not in ${members.join(' ')}`);
    const dump = JSON.parse(execFileSync('tar', ['-xOf', location, './config.dump'], { encoding: 'utf8' })) as {
      name: string;
      rootfsImageName: string;
    };
    assert.deepEqual([dump.name, dump.rootfsImageName], ['first', lab.image]);

    const restored = await lab.create(pod, { metadata: { name: 'second' }, image: { image: location } });
    assert.equal((await lab.status(restored)).state, ContainerState.CONTAINER_CREATED);
    await lab.berthd.end('SIGKILL');
    await lab.berthd.start();
    assert.equal((await lab.status(restored)).state, ContainerState.CONTAINER_CREATED, 'a restart keeps it');
    await lab.berthd.call(runtime.startContainer, { containerId: restored });
    const now = await lab.status(restored);
    assert.equal(now.state, ContainerState.CONTAINER_RUNNING);
    assert.equal(now.imageId, lab.imageId);
    assert.deepEqual(calls(), [`restore ${restored}`]);
    await eventually('the restored program writes to its log', () =>
      readLog(now.logPath).find(({ text }) => text === 'restored'),
    );
    assert.equal(await lab.exec(restored, 'cat', '/etc/new', '/etc/old', '/gone/c'), 'new\nchanged\nc');
    assert.equal(await lab.exec(restored, 'ls', '/gone'), 'c');
    await lab.berthd.call(runtime.stopContainer, { containerId: restored, timeout: 0n });
    assert.equal((await lab.status(restored)).exitCode, 137);
  });

  test('its image volumes are there when it comes back, and nobody holds them afterwards', async () => {
    const pod = await lab.runPod();
    const location = join(out, 'one.tar');
    await lab.berthd.call(runtime.checkpointContainer, checkpoint(await lab.start(pod), location));
    const image = { image: lab.image };
    const mounts = [{ containerPath: '/volume', image, readonly: true }];
    const volumes = (): string[] => readdirSync(join(lab.berthd.state, 'volumes'));
    const restored = await lab.create(pod, { image: { image: location }, mounts });
    assert.deepEqual(volumes(), [restored]);
    await lab.berthd.call(runtime.startContainer, { containerId: restored });
    assert.equal(await lab.exec(restored, 'cat', '/volume/etc/old'), 'old');
    assert.deepEqual(volumes(), []);
    const never = await lab.create(pod, { metadata: { name: 'never' }, image: { image: location }, mounts });
    await lab.berthd.call(runtime.removeContainer, { containerId: never });
    assert.deepEqual(volumes(), []);
  });

  test('a container that nobody lets go on is stopped all the same', async () => {
    const pod = await lab.runPod();
    const root = ['--root', join(lab.berthd.state, 'runtime/criu')];
    const polite = await lab.startReady(pod, {
      command: ['sh', '-c', "trap 'exit 7' TERM; echo ready; while :; do sleep 0.1; done"],
    });
    const stubborn = await lab.startReady(pod, {
      command: ['sh', '-c', "trap '' TERM; echo ready; while :; do sleep 0.1; done"],
    });
    for (const id of [polite, stubborn]) execFileSync('runc', [...root, 'pause', id]);
    await lab.berthd.call(runtime.stopContainer, { containerId: polite, timeout: 60n });
    assert.equal((await lab.status(polite)).exitCode, 7, 'it had its grace');
    execFileSync('runc', [...root, 'pause', await lab.start(pod)]);
    await lab.berthd.call(runtime.stopContainer, { containerId: stubborn, timeout: 1n });
    assert.equal((await lab.status(stubborn)).exitCode, 137);
  });

  test('one that is killed while it is dumped ends at once, and the dump with it', async () => {
    const pod = await lab.runPod();
    const id = await lab.start(pod);
    breakVerb('hang', 'checkpoint');
    const given = lab.berthd.fails(runtime.checkpointContainer, { ...checkpoint(id, join(out, 'x')), timeout: 100n });
    const dump = await hanging();
    await lab.berthd.call(runtime.stopContainer, { containerId: id, timeout: 0n });
    assert.equal((await lab.status(id)).exitCode, 137);
    await given;
    assert.equal(isAlive(dump), false);
    assert.deepEqual(readdirSync(out), []);
  });

  test('one that is never started goes without a trace, and keeps no pod from being stopped', async () => {
    const pod = await lab.runPod();
    const id = await lab.start(pod);
    const location = join(out, 'one.tar');
    await lab.berthd.call(runtime.checkpointContainer, checkpoint(id, location));
    const restored = await lab.create(pod, { image: { image: location } });
    await lab.berthd.call(runtime.removeContainer, { containerId: restored });
    assertNoWork();
    // Its pod can be stopped, although no process of it will ever end.
    const another = await lab.create(pod, { image: { image: location } });
    const started = performance.now();
    await lab.berthd.call(runtime.stopPodSandbox, { podSandboxId: pod });
    assert.ok(performance.now() - started < SOON_MS);
    assert.match(
      (await lab.berthd.fails(runtime.startContainer, { containerId: another })).details,
      /not ready|stopped/,
    );
  });

  for (const verb of ['pause', 'checkpoint']) {
    test(`when ${verb} fails, the container goes on and nothing is left`, async () => {
      const pod = await lab.runPod();
      const id = await lab.start(pod);
      breakVerb('fail', verb);
      const { details } = await lab.berthd.fails(runtime.checkpointContainer, checkpoint(id, join(out, 'one.tar')));
      assert.match(details, new RegExp(`checkpoint ${id}: .*criu ${verb} ${id}: no`));
      assert.equal(calls().at(-1), `resume ${id}`);
      assert.equal(await isPaused(id), false);
      assert.deepEqual(readdirSync(out), []);
    });
  }

  test('a dump that takes too long is given up at the deadline, and the container goes on', async () => {
    const pod = await lab.runPod();
    const id = await lab.start(pod);
    breakVerb('hang', 'checkpoint');
    const request = { ...checkpoint(id, join(out, 'one.tar')), timeout: 1n };
    assert.equal((await lab.berthd.fails(runtime.checkpointContainer, request)).code, status.DEADLINE_EXCEEDED);
    assert.equal(await isPaused(id), false);
    assert.deepEqual(readdirSync(out), []);
  });

  test('a berthd that is killed in between leaves a container that the next one lets go on', async () => {
    const pod = await lab.runPod();
    const id = await lab.start(pod);
    breakVerb('hang', 'checkpoint');
    const lost = lab.berthd.fails(runtime.checkpointContainer, checkpoint(id, join(out, 'one.tar')));
    const dump = await hanging();
    assert.equal(await isPaused(id), true);
    await lab.berthd.end('SIGKILL');
    await lost;
    process.kill(dump, 'SIGKILL');
    await lab.berthd.start();
    assert.equal(await isPaused(id), false);
    assert.deepEqual(readdirSync(out), []);
    assert.equal(await lab.exec(id, 'echo', 'alive'), 'alive');
  });

  test('a berthd that is killed while it restores leaves a container that could not be started', async () => {
    const pod = await lab.runPod();
    const location = join(out, 'one.tar');
    await lab.berthd.call(runtime.checkpointContainer, checkpoint(await lab.start(pod), location));
    const restored = await lab.create(pod, { image: { image: location } });
    breakVerb('hang', 'restore');
    const lost = lab.berthd.fails(runtime.startContainer, { containerId: restored });
    const restore = await hanging();
    await lab.berthd.end('SIGKILL');
    await lost;
    await lab.berthd.start();
    const { state, reason, exitCode, message } = await lab.status(restored);
    assert.deepEqual([state, reason, exitCode], [ContainerState.CONTAINER_EXITED, 'StartError', 128]);
    assert.match(message, /while the container was restored/);
    assert.equal(isAlive(restore), false);
    await lab.berthd.call(runtime.removeContainer, { containerId: restored });
    assertNoWork();
  });

  test('a pod: all are paused before the first is dumped, and the whole comes back', async () => {
    const config = lab.podConfig();
    const pod = await lab.runPod(config);
    const [a, b] = [
      await lab.start(pod, { metadata: { name: 'a' } }),
      await lab.start(pod, { metadata: { name: 'b' } }),
    ];
    await lab.berthd.call(
      runtime.checkpointPod,
      CheckpointPodRequest.create({ podSandboxId: pod, outputPath: out, containerIds: [b, a] }),
    );
    const verbs = calls().map((line) => line.split(' ')[0]);
    assert.deepEqual(verbs, ['pause', 'pause', 'checkpoint', 'checkpoint', 'resume', 'resume']);
    assert.deepEqual(readdirSync(out).sort(), ['a.tar', 'b.tar', 'pod.json']);

    const containerConfigs = ['a', 'b'].map(
      (name) => lab.containerRequest(pod, { metadata: { name }, image: { image: 'ignored' } }).config,
    );
    const again = lab.podConfig();
    const request = RestorePodRequest.create({
      checkpointPath: out,
      config: again,
      // An image need not be named: it is the checkpoint's.
      containerConfigs: containerConfigs.flatMap((one, at) =>
        one ? { ...one, ...(at > 0 && { image: undefined }) } : [],
      ),
    });
    const answer = await lab.berthd.call(runtime.restorePod, request);
    assert.deepEqual(
      answer.restoredContainers.map(({ name }) => name),
      ['a', 'b'],
    );
    assert.deepEqual(
      await lab.berthd.call(runtime.restorePod, request),
      answer,
      'an answer that was lost is given again',
    );
    const other = RestorePodRequest.create({ ...request, config: { ...again, hostname: 'other' } });
    assert.equal((await lab.berthd.fails(runtime.restorePod, other)).code, status.ALREADY_EXISTS);
    for (const { containerId } of answer.restoredContainers) {
      assert.equal((await lab.status(containerId)).state, ContainerState.CONTAINER_CREATED);
      await lab.berthd.call(runtime.startContainer, { containerId });
      assert.equal(await lab.exec(containerId, 'echo', 'alive'), 'alive');
      const late = await lab.berthd.fails(runtime.restorePod, request);
      assert.equal(late.code, status.ALREADY_EXISTS);
      assert.match(late.details, /is there as .* remove it first/);
    }
    assert.equal((await lab.podStatus(answer.podSandboxId)).status?.state, PodSandboxState.SANDBOX_READY);
  });

  test('what cannot be is refused by field, and changes nothing', async () => {
    const pod = await lab.runPod();
    const id = await lab.start(pod, { metadata: { name: 'a' } });
    const created = await lab.create(pod, { metadata: { name: 'created' } });
    const containers: [string, string, number, RegExp][] = [
      [id, 'relative.tar', status.INVALID_ARGUMENT, /location: "relative\.tar" is not the absolute path/],
      [id, join(out, 'no/such/folder.tar'), status.INVALID_ARGUMENT, /location: .* is not a folder/],
      [id, out, status.INVALID_ARGUMENT, /location: .* is a folder/],
      [created, join(out, 'x'), status.FAILED_PRECONDITION, /is created, not running/],
      ['nosuch', join(out, 'x'), status.NOT_FOUND, /nosuch/],
    ];
    for (const [containerId, location, code, expected] of containers) {
      const err = await lab.berthd.fails(runtime.checkpointContainer, checkpoint(containerId, location));
      assert.match(err.details, expected);
      assert.equal(err.code, code);
    }
    writeFileSync(join(folder, 'full'), '');
    const pods: [object, number, RegExp][] = [
      [{ outputPath: 'relative' }, status.INVALID_ARGUMENT, /output_path/],
      [{ outputPath: folder }, status.INVALID_ARGUMENT, /output_path: .* is not empty/],
      [{ outputPath: out, options: { fast: '1' } }, status.INVALID_ARGUMENT, /options\[fast\]: is not known/],
      [{ outputPath: out, containerIds: [created] }, status.INVALID_ARGUMENT, /container_ids: must be the running/],
    ];
    for (const [fields, code, expected] of pods) {
      const err = await lab.berthd.fails(
        runtime.checkpointPod,
        CheckpointPodRequest.create({ podSandboxId: pod, ...fields }),
      );
      assert.match(err.details, expected);
      assert.equal(err.code, code);
    }
    writeFileSync(join(out, 'junk.tar'), 'junk');
    const junk = await lab.refused(pod, { image: { image: join(out, 'junk.tar') } });
    assert.equal(junk.code, status.INVALID_ARGUMENT, junk.details);
    const location = join(out, 'good.tar');
    await lab.berthd.call(runtime.checkpointContainer, checkpoint(id, location));
    calls();
    const securityContext = { privileged: true };
    const late = await lab.refused(pod, { image: { image: location }, linux: { securityContext } });
    assert.match(late.details, /takes no privileged container/);
    assertNoWork();
    const missing = await lab.refused(pod, { image: { image: join(out, 'missing.tar') } });
    assert.match(missing.details, /config\.image\.image: .*missing\.tar is not there/);
    const config = lab.podConfig();
    const noPod = await lab.berthd.fails(runtime.restorePod, RestorePodRequest.create({ checkpointPath: out, config }));
    assert.match(noPod.details, /pod\.json: is not there/);
    assert.deepEqual(calls(), []);
  });

  test('a restore whose containers are not those of the checkpoint leaves no pod', async () => {
    const pod = await lab.runPod();
    await lab.start(pod, { metadata: { name: 'a' } });
    await lab.berthd.call(runtime.checkpointPod, CheckpointPodRequest.create({ podSandboxId: pod, outputPath: out }));
    const one = lab.containerRequest(pod, { metadata: { name: 'other' }, image: { image: 'x' } }).config;
    const request = { checkpointPath: out, config: lab.podConfig(), containerConfigs: one ? [one] : [] };
    const names = await lab.berthd.fails(runtime.restorePod, RestorePodRequest.create(request));
    assert.match(names.details, /container_configs: must be those of the checkpoint by name, a, each once/);
    writeFileSync(join(out, 'a.tar'), 'junk');
    const right = lab.containerRequest(pod, { metadata: { name: 'a' }, image: { image: 'x' } }).config;
    const broken = { ...request, containerConfigs: right ? [right] : [] };
    assert.equal(
      (await lab.berthd.fails(runtime.restorePod, RestorePodRequest.create(broken))).code,
      status.INVALID_ARGUMENT,
    );
    const { items } = await lab.berthd.call(runtime.listPodSandbox, { filter: undefined });
    assert.deepEqual(
      items.map(({ id }) => id),
      [pod],
    );
  });

  test('without CRIU it is a precondition that says what to install', async () => {
    const pod = await lab.runPod();
    const id = await lab.start(pod);
    await lab.berthd.end('SIGTERM');
    process.env['PATH'] = path;
    await lab.berthd.start();
    const err = await lab.berthd.fails(runtime.checkpointContainer, checkpoint(id, join(out, 'x')));
    assert.equal(err.code, status.FAILED_PRECONDITION);
    assert.match(err.details, /need CRIU: install criu/);
    await lab.berthd.end('SIGTERM');
    process.env['PATH'] = `${fake.binDir}:${path}`;
    await lab.berthd.start();
  });
});

/** Why CRIU cannot be tried here; '' where it can. */
function whyNoCriu(): string {
  try {
    execFileSync('criu', ['check'], { encoding: 'utf8', stdio: 'pipe' });
    return '';
  } catch (err) {
    const said = err instanceof Error && 'stderr' in err && err.stderr ? String(err.stderr).trim().split('\n')[0] : '';
    return `CRIU does not run here: ${said || 'it is not installed'}`;
  }
}

test('with the real CRIU, memory comes back', { skip: whyNoCriu() || false, timeout: 900_000 }, async () => {
  const out = mkdtempSync(join(tmpdir(), 'berth-criu-'));
  const lab = await PodLab.start({ config: '[runtime]\ndefault_runtime = "runc"' });
  try {
    const pod = await lab.runPod();
    const count = { command: ['/bin/sh', '-c', 'i=0; while :; do i=$((i+1)); echo $i > /count; sleep 0.05; done'] };
    const id = await lab.start(pod, count);
    const counted = await eventually('it counts', async () => {
      const { exitCode, text } = await lab.tryExec(id, 'cat', '/count');
      return exitCode === 0 && Number(text) > 5 ? Number(text) : undefined;
    });
    const location = join(out, 'one.tar');
    await lab.berthd.call(
      runtime.checkpointContainer,
      CheckpointContainerRequest.create({ containerId: id, location }),
    );
    const restored = await lab.create(pod, { image: { image: location } });
    await lab.berthd.call(runtime.startContainer, { containerId: restored });
    const now = Number(await lab.exec(restored, 'cat', '/count'));
    assert.ok(now >= counted, `${now} after ${counted}`);
  } finally {
    await lab.close();
    rmSync(out, { recursive: true });
  }
});
