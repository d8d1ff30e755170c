/** Pods that neither the database nor its copies know, because both were lost, are ended: all of them, and in order. */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe as suite, test } from 'node:test';

import {
  ListContainersRequest,
  ListPodSandboxRequest,
  PodSandboxState,
  RuntimeServiceService as runtime,
} from '../../proto/gen/cri/api.ts';
import { eventually } from '../harness/cri-lab.ts';
import { isAlive, readMounts } from '../harness/machine-state.ts';
import { patient } from '../harness/patience.ts';
import { PodLab } from '../harness/pod-lab.ts';

const FREEZER = '/sys/fs/cgroup/freezer';

/** What is frozen when a test ends cannot end. */
function thaw(cgroup: string): void {
  if (existsSync(cgroup)) writeFileSync(join(cgroup, 'freezer.state'), 'THAWED');
}

suite('pods that the database does not know', { timeout: patient(900_000) }, () => {
  let lab: PodLab;
  beforeEach(async () => {
    lab = await PodLab.start();
  });
  afterEach(async (t) => {
    if ('passed' in t && t.passed === false) process.stderr.write(`berthd's log:\n${lab.berthd.log()}\n`);
    await lab.close();
  });

  const database = (): string => join(lab.berthd.root, 'berth.db');
  /** Copies of the records would bring the pods back. */
  const loseCopies = (): void => rmSync(join(lab.berthd.state, 'records'), { recursive: true });
  const lose = (): void => {
    loseCopies();
    for (const end of ['', '-wal', '-shm']) rmSync(database() + end, { force: true });
  };
  const whole = (): string => readFileSync(lab.berthd.logFile, 'utf8');

  /** A pod with one container that runs, one that waits to be started, and one that has ended; and its processes. */
  const makePod = async (): Promise<{ pod: string; running: string; pids: number[] }> => {
    const pod = await lab.runPod();
    const running = await lab.start(pod, { command: ['sh', '-c', 'while :; do touch /written; sleep 0.1; done'] });
    const created = await lab.create(pod);
    await lab.run(pod, { command: ['true'] });
    const infos = await Promise.all([lab.info(running), lab.info(created)]);
    const pause = (await lab.podInfo(pod)).pid;
    return { pod, running, pids: [pause, ...infos.flatMap(({ pid, monitorPid }) => [pid, monitorPid])] };
  };

  const losses: Readonly<Record<string, () => void>> = {
    'was deleted': lose,
    'was moved away': () => {
      loseCopies();
      for (const end of ['', '-wal', '-shm'])
        if (existsSync(database() + end)) renameSync(database() + end, `${database()}.old${end}`);
    },
    'was cut': () => {
      loseCopies();
      rmSync(`${database()}-wal`);
      truncateSync(database(), 3 * 4096 + 17);
    },
    'was written over': () => {
      loseCopies();
      rmSync(`${database()}-wal`);
      const bytes = readFileSync(database());
      writeFileSync(database(), bytes.fill(0x5a, 4096, 60_000));
    },
  };
  for (const [what, happens] of Object.entries(losses)) {
    test(`when it ${what}: they are ended, and all that they had is free`, async () => {
      const pods = await Promise.all([makePod(), makePod()]);
      await lab.berthd.end('SIGKILL');
      happens();
      await lab.berthd.start();
      await eventually('all are gone', () => pods.every(({ pids }) => !pids.some(isAlive)) || undefined);
      await eventually('nothing is left', () => Object.keys(lab.berthd.traces()).length === 0 || undefined);
      assert.deepEqual((await lab.berthd.call(runtime.listPodSandbox, ListPodSandboxRequest.create())).items, []);
      assert.deepEqual((await lab.berthd.call(runtime.listContainers, ListContainersRequest.create())).containers, []);
      for (const { pod, running } of pods) {
        assert.match(
          whole(),
          new RegExp(`"sandbox":"${pod}","msg":"a sandbox that the database does not know is gone"`),
        );
        assert.match(
          whole(),
          new RegExp(`"container":"${running}","msg":"a container that the database does not know`),
        );
      }
      if (what === 'was cut' || what === 'was written over') {
        assert.match(whole(), /database \S+berth\.db is damaged, kept as \S+berth\.db\.damaged-/);
        assert.equal(readdirSync(lab.berthd.root).filter((name) => /damaged-.*Z$/.test(name)).length, 1);
      }
      const again = await lab.runPod();
      assert.equal((await lab.podStatus(again)).status?.state, PodSandboxState.SANDBOX_READY);
      await lab.removePod(again);
    });
  }

  test('one that cannot be removed keeps its files, and stops no other', async () => {
    const pods = [await makePod(), await makePod()];
    await lab.berthd.end('SIGKILL');
    lose();
    const [stuck, other] = pods.map(({ pod }) => join(lab.berthd.state, 'sandboxes', pod));
    const busy = join(stuck ?? '', 'busy');
    mkdirSync(busy);
    execFileSync('mount', ['-t', 'tmpfs', 'busy', busy]);
    await lab.berthd.start();
    await eventually('all are gone', () => pods.every(({ pids }) => !pids.some(isAlive)) || undefined);
    await eventually('the other one is gone', () => !existsSync(other ?? '') || undefined);
    assert.ok(existsSync(busy));
    execFileSync('umount', [busy]);
    await lab.berthd.end('SIGKILL');
    await lab.berthd.start();
    await eventually('nothing is left', () => Object.keys(lab.berthd.traces()).length === 0 || undefined);
  });

  test('while a program of one survives, its files and its address stay its own', {
    skip: existsSync(FREEZER) ? false : 'only what a version 1 freezer holds survives SIGKILL',
  }, async (t) => {
    const pods = [await makePod(), await makePod()];
    const [kept, other] = pods;
    assert.ok(kept && other);
    const ip = await lab.ipOf(kept.pod);
    const { pid } = await lab.info(kept.running);
    const cgroup = /:freezer:(.*)$/m.exec(readFileSync(`/proc/${pid}/cgroup`, 'utf8'))?.[1] ?? '';
    const inner = join(FREEZER, cgroup, 'inner');
    mkdirSync(inner);
    // Its first process, and so what that starts; what else was there ends by itself.
    writeFileSync(join(inner, 'cgroup.procs'), String(pid));
    writeFileSync(join(inner, 'freezer.state'), 'FROZEN');
    t.after(() => thaw(inner));
    await lab.berthd.end('SIGKILL');
    lose();
    await lab.berthd.start();
    await eventually('the other one is gone', () => !other.pids.some(isAlive) || undefined);
    await eventually(
      'it is told',
      () => /container [0-9a-f]{64} of it could not be ended/.test(whole()) || undefined,
      60_000,
    );
    const addresses = (): string[] => readdirSync(join(lab.berthd.root, 'addresses/berth-test'));
    assert.ok(addresses().includes(ip));
    const root = readdirSync(`/proc/${pid}/root/`);
    assert.ok(root.includes('written') && root.includes('bin'), `its root filesystem is there: ${root}`);
    assert.ok(existsSync(join(lab.berthd.state, 'sandboxes', kept.pod, 'ns/net')));
    assert.ok(existsSync(join(lab.berthd.state, 'containers', kept.running)));
    const fresh = await lab.runPod();
    assert.notEqual(await lab.ipOf(fresh), ip);
    assert.ok(addresses().includes(ip));
    thaw(inner);
    await lab.removePod(fresh);
    await lab.berthd.end('SIGKILL');
    await lab.berthd.start();
    await eventually('nothing is left', () => Object.keys(lab.berthd.traces()).length === 0 || undefined, 60_000);
  });

  test('a program that crun mounted on a file of its own, and was killed over, is taken away', async (t) => {
    const { runtimeHandlers } = await lab.berthd.call(runtime.status, { verbose: false });
    if (!runtimeHandlers.some(({ name }) => name === 'crun')) return t.skip('there is no crun');
    const program = execFileSync('sh', ['-c', 'readlink -f "$(command -v crun)"'], { encoding: 'utf8' }).trim();
    const random = randomBytes(3).toString('hex');
    const [left, other] = [`/tmp/crun.${random}`, `/tmp/crun-${random}`];
    const isMounted = (path: string): boolean => readMounts().includes(path);
    await lab.berthd.end('SIGTERM');
    for (const path of [left, other]) {
      writeFileSync(path, '');
      execFileSync('mount', ['--bind', program, path]);
    }
    try {
      await lab.berthd.start();
      await eventually('it is gone', () => !existsSync(left) || undefined);
      assert.deepEqual([isMounted(left), isMounted(other)], [false, true]);
    } finally {
      for (const path of [left, other].filter(isMounted)) execFileSync('umount', [path]);
      for (const path of [left, other]) rmSync(path, { force: true });
    }
  });
});
