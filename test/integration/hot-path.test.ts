/**
 * What a pod's life costs, in counts: times differ from machine to machine, and these do not. Whoever makes a count grow
 * has to say here that it is worth it; bench/NOTES.md tells what each costs.
 */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  copyFileSync,
  existsSync,
  lstatSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, describe as suite, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import {
  LinuxContainerConfig,
  ListContainerStatsRequest,
  ListContainersRequest,
  ListPodSandboxRequest,
  ListPodSandboxStatsRequest,
  RuntimeServiceService as runtime,
  SecurityProfile_ProfileType,
} from '../../proto/gen/cri/api.ts';
import { findProgram } from '../../src/runtime/handlers.ts';
import { childPids } from '../fakes/process-facts.ts';
import { eventually } from '../harness/cri-lab.ts';
import { PodLab } from '../harness/pod-lab.ts';

const COUNT_SYNCS = fileURLToPath(new URL('../fixtures/count-syncs.c', import.meta.url));
const WAL_HEADER_BYTES = 32;
const FRAME_HEADER_BYTES = 24;

/** What one call took. */
interface Cost {
  /** Programs that berthd itself started, by name. */
  readonly started: Readonly<Record<string, number>>;
  /** The verbs for which the OCI runtime was executed, whoever did it. */
  readonly verbs: readonly string[];
  readonly transactions: number;
}

suite('hot path', { timeout: 900_000 }, () => {
  let lab: PodLab;
  let folder: string;
  let trace: string;
  /** A copy of runc. */
  let runc: string;
  let syncs: string;

  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'berth-hot-path-'));
    trace = join(folder, 'trace');
    syncs = join(folder, 'syncs');
    const library = join(folder, 'count-syncs.so');
    execFileSync('cc', ['-shared', '-fPIC', '-O1', '-o', library, COUNT_SYNCS]);
    const wrapper = join(folder, 'counted');
    writeFileSync(wrapper, `#!/bin/sh\necho "$*" >> ${trace}\nexec ${findProgram('runc')} "$@"\n`);
    chmodSync(wrapper, 0o755);
    writeFileSync(trace, '');
    runc = join(folder, 'runc');
    copyFileSync(findProgram('runc'), runc);
    const config = [
      '[runtime]',
      'default_runtime = "counted"',
      '[runtime.handlers.counted]',
      `path = "${wrapper}"`,
      '[runtime.handlers.spared]',
      `path = "${runc}"`,
      '[metrics]',
      'listen = "127.0.0.1:0"',
    ].join('\n');
    lab = await PodLab.start({ config, environment: { LD_PRELOAD: library, BERTH_TEST_SYNCS: syncs } });
  });
  afterEach(async (t) => await lab.afterTest(t));
  after(async () => {
    await lab.close();
    rmSync(folder, { recursive: true, force: true });
  });

  /** The result of a call, and what it took. */
  async function costOf<T>(call: () => Promise<T>): Promise<[T, Cost]> {
    const [started, lines, commits] = [await startedPrograms(), traceLines().length, committed()];
    const result = await call();
    const now = await startedPrograms();
    const verbs = traceLines().slice(lines);
    const grown = [...now].map(([name, count]): [string, number] => [name, count - (started.get(name) ?? 0)]);
    const transactions = committed() - commits;
    return [result, { started: Object.fromEntries(grown.filter(([, count]) => count > 0)), verbs, transactions }];
  }

  async function startedPrograms(): Promise<Map<string, number>> {
    const text = await lab.berthd.metrics();
    const found = text.matchAll(/^berth_process_duration_seconds_count\{program="([^"]+)"\} (\d+)$/gm);
    return new Map([...found].map(([, program = '', count]) => [program, Number(count)]));
  }

  function sealedRuncs(): string[] {
    const folder = join(lab.berthd.state, 'sealed');
    const links = readdirSync(folder).map((name) => join(folder, name, 'runc'));
    return links.filter((link) => lstatSync(link, { throwIfNoEntry: false }));
  }

  function hasChild(name: RegExp): boolean {
    return childPids(lab.berthd.pid).some((child) => name.test(nameOf(child)));
  }

  function nameOf(pid: number): string {
    try {
      return readFileSync(`/proc/${pid}/comm`, 'utf8');
    } catch {
      return '';
    }
  }

  function traceLines(): string[] {
    const lines = readFileSync(trace, 'utf8').split('\n').filter(Boolean);
    return lines.map((line) => /(?:^| )(create|start|exec|delete|kill|state|features)(?: |$)/.exec(line)?.[1] ?? line);
  }

  /** Transactions in the database's write-ahead log (sqlite.org/fileformat2.html, "The WAL"). */
  function committed(): number {
    const log = readFileSync(join(lab.berthd.root, 'berth.db-wal'));
    const frameBytes = FRAME_HEADER_BYTES + log.readUInt32BE(8);
    const salts = log.subarray(16, 24);
    let count = 0;
    for (let at = WAL_HEADER_BYTES; at + frameBytes <= log.length; at += frameBytes) {
      // What follows is of an earlier round.
      if (!log.subarray(at + 8, at + 16).equals(salts)) break;
      if (log.readUInt32BE(at + 4) !== 0) count += 1;
    }
    return count;
  }

  function syncCount(): number {
    return existsSync(syncs) ? readFileSync(syncs).length : 0;
  }

  test('of a pod with one container: programs, transactions, and no wait for the disk', async () => {
    // Seals, compiles and remembers what only the first one does.
    await lab.removePod(await podWithContainer());
    // Programs count when they end, and this one has loaded the image.
    await eventually(
      'the process for work on the disk has ended',
      () => !hasChild(/^berth-disk$|^node$/m) || undefined,
    );
    const syncsBefore = syncCount();

    const config = lab.podConfig();
    const [podSandboxId, run] = await costOf(() => lab.runPod(config));
    const [containerId, create] = await costOf(() => lab.create(podSandboxId));
    const [, start] = await costOf(() => lab.berthd.call(runtime.startContainer, { containerId }));
    const [, exec] = await costOf(async () => {
      await lab.berthd.call(runtime.execSync, { containerId, cmd: ['true'], timeout: 60n });
      // It is counted when it has been reaped, which is a moment after it has told the exit code.
      await eventually('the monitor has ended', () => !hasChild(/^exec-monitor$/m) || undefined);
    });
    const [, stop] = await costOf(() => lab.berthd.call(runtime.stopContainer, { containerId, timeout: 0n }));
    const [, remove] = await costOf(() => lab.berthd.call(runtime.removeContainer, { containerId }));
    const [, stopPod] = await costOf(() => lab.berthd.call(runtime.stopPodSandbox, { podSandboxId }));
    const [, removePod] = await costOf(() => lab.berthd.call(runtime.removePodSandbox, { podSandboxId }));

    assert.ok(syncCount() > 0, 'the waits of the start have been counted');
    assert.equal(syncCount() - syncsBefore, 0);
    const plugins = { bridge: 1, portmap: 1 };
    assert.deepEqual(
      { run, create, start, exec, stop, remove, stopPod, removePod },
      {
        run: { started: plugins, verbs: [], transactions: 8 },
        create: { started: { conmon: 1 }, verbs: ['create'], transactions: 7 },
        start: { started: { counted: 1 }, verbs: ['start'], transactions: 4 },
        exec: { started: { 'exec-monitor': 1 }, verbs: ['exec'], transactions: 0 },
        stop: { started: {}, verbs: [], transactions: 1 },
        remove: { started: { counted: 1 }, verbs: ['delete'], transactions: 3 },
        stopPod: { started: plugins, verbs: [], transactions: 4 },
        removePod: { started: {}, verbs: [], transactions: 3 },
      },
    );
  });

  const { Unconfined, RuntimeDefault } = SecurityProfile_ProfileType;
  for (const [profile, profileType] of Object.entries({ Unconfined, RuntimeDefault }))
    test(`of a container whose runtime is runc itself, ${profile}: no program for its start, its commands and its end`, async () => {
      const config = { linux: LinuxContainerConfig.fromPartial({ securityContext: { seccomp: { profileType } } }) };
      lab.handler = 'spared';
      const podSandboxId = await lab.runPod();
      lab.handler = '';
      // The first one's seccomp filter is what the commands of all take on.
      await lab.start(podSandboxId, config);
      const containerId = await lab.create(podSandboxId, config);
      const [, start] = await costOf(() => lab.berthd.call(runtime.startContainer, { containerId }));
      // What it is started from by now. Without the program itself nobody would know whose filter it is.
      const links = sealedRuncs().map((link) => ({ link, target: readlinkSync(link) }));
      assert.equal(links.length, 1);
      for (const { link } of links) rmSync(link);
      // The program that stands in for it may not be sealed yet.
      await eventually('a command runs', async () => {
        const exec = lab.berthd.call(runtime.execSync, { containerId, cmd: ['true'], timeout: 60n });
        return await exec.then(
          ({ exitCode }) => exitCode === 0,
          () => undefined,
        );
      });
      for (const { link, target } of links) symlinkSync(target, link);
      await lab.berthd.call(runtime.stopContainer, { containerId, timeout: 0n });
      const [, remove] = await costOf(() => lab.berthd.call(runtime.removeContainer, { containerId }));
      assert.deepEqual([start.started, remove.started], [{}, {}]);
      assert.equal(existsSync(join(lab.berthd.state, 'runtime/spared', containerId)), false, 'what runc kept is gone');
      assert.equal(execFileSync('find', ['/sys/fs/cgroup', '-name', `*${containerId}*`], { encoding: 'utf8' }), '');
      await lab.removePod(podSandboxId);
    });

  test('of questions: nothing', async () => {
    const podSandboxId = await podWithContainer();
    const [, questions] = await costOf(async () => {
      await lab.berthd.call(runtime.listPodSandbox, ListPodSandboxRequest.create());
      await lab.berthd.call(runtime.listContainers, ListContainersRequest.create());
      await lab.berthd.call(runtime.listContainerStats, ListContainerStatsRequest.create());
      await lab.berthd.call(runtime.listPodSandboxStats, ListPodSandboxStatsRequest.create());
      await lab.podStatus(podSandboxId);
    });
    assert.deepEqual(questions, { started: {}, verbs: [], transactions: 0 });
  });

  async function podWithContainer(): Promise<string> {
    const podSandboxId = await lab.runPod();
    await lab.start(podSandboxId);
    return podSandboxId;
  }
});
