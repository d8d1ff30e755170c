import assert from 'node:assert/strict';
import { test } from 'node:test';

import { BerthError } from '../base/errors.ts';
import type { ContainerId } from '../base/ids.ts';
import { KeyedLock } from '../base/keyed-lock.ts';
import { silentLogger } from '../base/log.ts';
import { silentMeter } from '../base/meter.ts';
import type { SeenExit } from '../runtime/exit-watch.ts';
import { readProcessStartTime } from '../sys/process.ts';
import { ContainerExits } from './container-exits.ts';
import type { PodDeps } from './pod-deps.ts';
import { RecordIndex } from './record-index.ts';
import type { ContainerRecord, SandboxRecord } from './records.ts';
import { ContainerStops } from './stop-container.ts';

const never = new AbortController().signal;
const self = { pid: process.pid, startTime: readProcessStartTime(process.pid) ?? 0 };
/** No process has it: pids begin at 1. */
const dead = { pid: 1, startTime: -1 };

/** One running container, whose first process and monitor do what a test says. */
class Bench {
  readonly id = 'c' as ContainerId;
  readonly init = Promise.withResolvers<void>();
  file: SeenExit | undefined;
  isStoreBroken = false;
  stored: string[] = [];
  oomKills: () => number = () => 0;
  unwatchedOomKills = 0;
  killAll: () => void = () => {};
  /** Others of the pod that have ended, with their exit files. */
  readonly siblings = new Map<string, SeenExit | undefined>();
  readonly notedSiblings = new Set<string>();
  hasOomNote = false;
  readonly containers: RecordIndex<ContainerRecord>;
  readonly deps: PodDeps;
  readonly exits: ContainerExits;
  readonly stops: ContainerStops;

  constructor({ monitor = dead, waits = { deadMonitorMs: 20, liveMonitorMs: 20_000 } } = {}) {
    const record = {
      id: this.id,
      name: 'c',
      sandboxId: 'pod',
      state: 'running',
      createdAtUs: 1,
      stopSignal: 'SIGTERM',
      spec: { security: { namespaces: { pid: 'container' } } },
      resources: { unified: {} },
      init: dead,
      monitor,
    } as unknown as ContainerRecord;
    const store = {
      put: ({ state }: ContainerRecord) => {
        if (this.isStoreBroken) throw new Error('database is locked');
        this.stored.push(state);
      },
      delete: () => {},
    };
    this.containers = new RecordIndex('container', store, [record]);
    const sandbox = { id: 'pod', name: 'pod', spec: { cgroupParent: '' } } as unknown as SandboxRecord;
    this.deps = {
      log: silentLogger,
      meter: silentMeter,
      clock: { nowUs: () => 5, monotonicMs: () => 0 },
      sandboxes: new RecordIndex<SandboxRecord>('sandbox', { put() {}, delete() {} }, [sandbox]),
      containers: this.containers,
      processes: { exitOf: () => this.init.promise },
      cgroups: {
        container: () => ({
          watchOomKills() {},
          oomKills: () => this.oomKills(),
          oomKillsAtEnd: () => this.oomKills(),
          unwatchedOomKills: () => this.unwatchedOomKills,
          killAll: () => this.killAll(),
          thaw() {},
        }),
      },
      locks: new KeyedLock(),
      runtime: {
        exits: { read: (id: string) => (id === this.id ? this.file : this.siblings.get(id)) },
        bundles: { hasRunOutOfMemory: (id: string) => (id === this.id ? this.hasOomNote : this.notedSiblings.has(id)) },
        endExecs() {},
      },
    } as unknown as PodDeps;
    this.exits = new ContainerExits(this.deps, never, waits);
    this.stops = new ContainerStops(this.deps, this.exits, never);
    this.exits.follow(this.id);
  }

  addSibling(id: string, exitCode: number | undefined, unified: Record<string, string> = {}): void {
    this.siblings.set(id, exitCode === undefined ? undefined : { exitCode, finishedAtUs: 9 });
    const resources = { hugepageLimits: [], unified };
    this.containers.put({ ...this.containers.get(this.id), id: id as ContainerId, name: id, resources });
  }

  get state(): string {
    return this.containers.find(this.id)?.state ?? 'gone';
  }

  async end(exitCode: number): Promise<string> {
    this.file = { exitCode, finishedAtUs: 9 };
    this.init.resolve();
    return await this.ended();
  }

  async ended(): Promise<string> {
    await this.exits.ended(this.id, AbortSignal.timeout(60_000));
    const { code, reason } = this.containers.get(this.id).exit ?? {};
    return `${code} ${reason}`;
  }
}

test('an exit is known by its code', async () => {
  assert.equal(await new Bench().end(0), '0 Completed');
  assert.equal(await new Bench().end(7), '7 Error');
});

test('an exit that the store does not take is seen all the same, and stored when it does', async () => {
  const bench = new Bench();
  bench.isStoreBroken = true;
  const stop = bench.stops.stop(bench.id, 60_000, AbortSignal.timeout(60_000));
  assert.equal(await bench.end(7), '7 Error');
  await stop;
  assert.deepEqual([bench.state, bench.stored], ['exited', []]);
  bench.isStoreBroken = false;
  bench.containers.put({ ...bench.containers.get(bench.id), id: 'd' as ContainerId, name: 'd', state: 'creating' });
  assert.deepEqual(bench.stored, ['creating', 'exited']);
});

test('a stop does not wait for a container that was removed', async () => {
  const bench = new Bench();
  const stop = bench.stops.stop(bench.id, 60_000, AbortSignal.timeout(60_000));
  const other = bench.stops.stop(bench.id, 60_000, AbortSignal.timeout(60_000));
  bench.containers.delete(bench.id);
  await Promise.all([stop, other]);
});

test('a stop that cannot be done says why, to all who wait for it, and can be tried again', async () => {
  const bench = new Bench();
  bench.containers.put({ ...bench.containers.get(bench.id), stopSignal: 'SIGNONE' });
  const stops = [60_000, 50_000].map((ms) => bench.stops.stop(bench.id, ms, AbortSignal.timeout(60_000)));
  for (const stop of stops) await assert.rejects(stop, /SIGNONE/);
  const again = bench.stops.stop(bench.id, 0, AbortSignal.timeout(60_000));
  await bench.end(137);
  await again;
});

test('a container that takes no signal is killed by its cgroup, without a grace period that nobody told it of', async () => {
  const bench = new Bench();
  const asked: unknown[] = [];
  const stops = new ContainerStops(bench.deps, bench.exits, never, (_pid, _startTime, signal) => {
    asked.push(signal);
    throw new BerthError('permission', 'pidfd_send_signal: EACCES');
  });
  bench.killAll = () => {
    asked.push('cgroup');
    bench.file = { exitCode: 137, finishedAtUs: 9 };
    bench.init.resolve();
  };
  await stops.stop(bench.id, 3_600_000, AbortSignal.timeout(60_000));
  assert.equal(await bench.ended(), '137 Error');
  assert.deepEqual(asked, [15, 9, 'cgroup']);
});

test('a monitor that lives is waited for; one that is lost takes the code with it', async () => {
  const slow = new Bench({ monitor: self });
  slow.init.resolve();
  await new Promise((resolve) => setTimeout(resolve, 60));
  assert.equal(slow.state, 'running');
  assert.equal(await slow.end(7), '7 Error');
  for (const bench of [new Bench(), new Bench({ monitor: self, waits: { deadMonitorMs: 20, liveMonitorMs: 40 } })]) {
    bench.init.resolve();
    assert.equal(await bench.ended(), '255 Unknown');
  }
});

test('the OOM killer is known from the cgroup, or from what the monitor has left when that is gone', async () => {
  const counted = new Bench();
  counted.oomKills = () => 1;
  assert.equal(await counted.end(137), '137 OOMKilled');
  const noted = new Bench();
  noted.hasOomNote = true;
  noted.oomKills = () => {
    throw new Error('the cgroup is gone');
  };
  assert.equal(await noted.end(137), '137 OOMKilled');
  noted.hasOomNote = false;
  const killed = new Bench();
  killed.oomKills = noted.oomKills;
  assert.equal(await killed.end(137), '137 Error');
});

test('the OOM killer is known although systemd has removed the cgroup before the exit code comes', async () => {
  const bench = new Bench({ monitor: self });
  const asked = Promise.withResolvers<void>();
  bench.oomKills = () => {
    asked.resolve();
    return 1;
  };
  bench.init.resolve();
  await asked.promise;
  bench.oomKills = () => {
    throw new Error('the cgroup is gone');
  };
  assert.equal(await bench.end(137), '137 OOMKilled');
});

test('a kill while no berthd ran is that of the only container that it can be', async () => {
  const asOne = { 'memory.oom.group': '1' };
  const gap = (exitCode: number, kills: number, ...siblings: readonly (number | undefined)[]): Bench => {
    const bench = new Bench();
    bench.oomKills = () => {
      throw new BerthError('notFound', 'the cgroup is gone');
    };
    bench.unwatchedOomKills = kills;
    bench.file = { exitCode, finishedAtUs: 9 };
    for (const [index, code] of siblings.entries()) bench.addSibling(`sibling-${index}`, code);
    return bench;
  };
  const told = async (bench: Bench): Promise<string> => {
    bench.exits.lookAtGap();
    bench.init.resolve();
    return await bench.ended();
  };
  assert.equal(await told(gap(137, 1)), '137 OOMKilled');
  assert.equal(await told(gap(137, 0)), '137 Error', 'none was counted');
  assert.equal(await told(gap(1, 1)), '1 OOMKilled', 'a child of it');
  assert.equal(await told(gap(137, 1, 9)), '137 Error', 'it may have been a child of the other');
  assert.equal(await told(gap(1, 1, 0)), '1 Error', 'it may have been a child of the other, which ended well');
  const whole = gap(137, 1);
  for (const code of [0, 9]) whole.addSibling(`whole-${code}`, code, asOne);
  assert.equal(await told(whole), '137 OOMKilled', 'the others would have been killed as a whole');
  const two = gap(137, 1);
  two.addSibling('two', 137, asOne);
  assert.equal(await told(two), '137 Error', 'either of two that were killed');
  assert.equal(await told(gap(1, 1, 2)), '1 Error');
  assert.equal(await told(gap(1, 1, 137)), '1 Error');
  assert.equal(await told(gap(137, 2, 137)), '137 Error', 'either may have had both');
  assert.equal(await told(gap(137, 1, undefined)), '137 Error', 'nobody knows how the other ended');
  const restored = gap(137, 1, undefined);
  const waiting = restored.containers.get('sibling-0');
  restored.containers.put({ ...waiting, state: 'created', init: undefined });
  assert.equal(await told(restored), '137 OOMKilled', 'the other is to be restored, and has never run');
  const noted = gap(137, 1, 137);
  noted.notedSiblings.add('sibling-0');
  assert.equal(await told(noted), '137 Error', 'the monitor of the other has seen it');
  const there = gap(137, 1);
  there.oomKills = () => 0;
  assert.equal(await told(there), '137 Error', 'its own cgroup is there and knows');
});
