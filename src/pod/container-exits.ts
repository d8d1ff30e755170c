import { raceSignal, sleep } from '../base/deadline.ts';
import { describe, isKind } from '../base/errors.ts';
import type { ContainerId } from '../base/ids.ts';
import type { ExitClass } from '../base/meter.ts';
import { type MemberEnd, mayBeOutOfMemory } from '../runtime/cgroups/oom-ledger.ts';
import type { SeenExit } from '../runtime/exit-watch.ts';
import { isSameProcess } from '../sys/process.ts';
import type { PodDeps } from './pod-deps.ts';
import type { ContainerExit, ContainerRecord, ExitReason } from './records.ts';

/** How long an exit file is waited for after the end of the first process, in milliseconds. */
export interface ExitWaits {
  /** The monitor writes it within a moment: without it there is none. */
  readonly deadMonitorMs: number;
  /** It may take its time while the machine is very busy, but not for ever. */
  readonly liveMonitorMs: number;
}

const EXIT_WAITS: ExitWaits = Object.freeze({ deadMonitorMs: 5_000, liveMonitorMs: 120_000 });
const LONGEST_PAUSE_MS = 1_000;
/** The code for a container whose end nobody saw, as containerd reports it. */
const UNSEEN_EXIT_CODE = 255;
const MONITOR_LOST = 'the monitor was lost, and the exit code with it';

/**
 * The one authority on container exits. It hears of an exit from the monitor's file and from the kernel (the pidfd of
 * the first process), whichever comes first, records it once, and wakes who waits for it.
 */
export class ContainerExits {
  readonly #deps: PodDeps;
  readonly #shutdown: AbortSignal;
  readonly #waits: ExitWaits;
  readonly #waiters = new Map<string, PromiseWithResolvers<void>>();
  /** Containers that were looked at when their first process ended: whether the OOM killer was at work in them. */
  readonly #outOfMemory = new Map<string, boolean>();

  constructor(deps: PodDeps, shutdown: AbortSignal, waits = EXIT_WAITS) {
    this.#deps = deps;
    this.#shutdown = shutdown;
    this.#waits = waits;
    // Whoever ends, or removes, a container: who waits for its end need not wait any more.
    deps.containers.watch((before, after) => {
      if (before && !(after && isAlive(after))) this.#wake(before.id);
    });
  }

  /**
   * Looks which containers the OOM killer has ended while no berthd ran: once, before any is followed. systemd has removed
   * their cgroups, and the count of what they were in is of all: it is told where it can be that of one of them only.
   */
  lookAtGap(): void {
    const parentOf = ({ sandboxId }: ContainerRecord) => this.#deps.sandboxes.find(sandboxId)?.spec.cgroupParent;
    const ended = this.#deps.containers.all().filter((record) => isAlive(record) && hasInitEnded(record));
    for (const [parent, records] of Map.groupBy(ended, parentOf)) {
      if (parent === undefined) continue;
      try {
        const killed = this.#onlyOneOutOfMemory(records.filter((record) => this.#isWithoutCgroup(record)));
        if (killed && this.#cgroupOf(killed).unwatchedOomKills() > 0) this.#outOfMemory.set(killed.id, true);
      } catch (err) {
        this.#deps.log.debug({ parent, err: describe(err) }, 'the OOM kills while no berthd ran are unknown');
      }
    }
  }

  /** Follows a live container's first process until it ends. Call it once per container and daemon. */
  follow(id: ContainerId): void {
    void this.#follow(id).catch((err: unknown) => {
      if (this.#shutdown.aborted) return;
      this.#deps.log.error(
        { container: id, err: describe(err) },
        'lost sight of a container; its exit comes from the monitor only',
      );
    });
  }

  /** The monitor's exit file has appeared. */
  onExitFile(id: string, exit: SeenExit): void {
    const record = this.#deps.containers.find(id);
    // A container that is still being created and fails is cleaned up by its own pipeline.
    if (record && isAlive(record)) this.#record(record, exit);
  }

  /** Resolves when the container has ended and its record says so, or is removed; at once when it has. */
  async ended(id: string, signal: AbortSignal): Promise<void> {
    const record = this.#deps.containers.find(id);
    if (!record || !isAlive(record)) return;
    const waiter = this.#waiters.get(id) ?? Promise.withResolvers<void>();
    this.#waiters.set(id, waiter);
    await raceSignal(waiter.promise, signal);
  }

  async #follow(id: ContainerId): Promise<void> {
    const record = this.#deps.containers.find(id);
    if (!record || !isAlive(record)) return;
    const { init } = record;
    const shutdown = this.#shutdown;
    if (!this.#outOfMemory.has(id)) this.#cgroupOf(record).watchOomKills();
    if (init) await this.#deps.processes.exitOf(init.pid, init.startTime, shutdown);
    // At once: systemd is about to remove the cgroup, and the monitor may not have come to look.
    const ended = this.#deps.containers.find(id);
    if (ended && isAlive(ended)) this.#readOomKills(ended);
    const sinceMs = performance.now();
    for (let waitMs = 5; ; waitMs = Math.min(waitMs * 2, LONGEST_PAUSE_MS)) {
      const record = this.#deps.containers.find(id);
      if (!record || !isAlive(record)) return;
      const seen = this.#deps.runtime.exits.read(id);
      const limitMs = isMonitorAlive(record) ? this.#waits.liveMonitorMs : this.#waits.deadMonitorMs;
      if (seen || performance.now() - sinceMs > limitMs) return this.#record(record, seen);
      await sleep(waitMs, shutdown);
    }
  }

  #record(record: ContainerRecord, seen: SeenExit | undefined): void {
    const deps = this.#deps;
    if (!seen) {
      deps.log.warn({ container: record.id }, 'container ended and its monitor left no exit code');
      tellLost(deps, record);
    }
    const atUs = endOf(record, seen, deps.clock.nowUs());
    const ranOutOfMemory = this.#ranOutOfMemory(record, seen?.exitCode ?? UNSEEN_EXIT_CODE);
    const exit = seen ? toExit(seen, ranOutOfMemory, atUs) : unseenExit(MONITOR_LOST, atUs);
    deps.meter.containerExited(classOf(exit, seen !== undefined));
    this.#endStragglers(record);
    deps.containers.putFact({ ...record, state: 'exited', exit });
    deps.log.info(
      { container: record.id, sandbox: record.sandboxId, exitCode: exit.code, reason: exit.reason },
      'container ended',
    );
    deps.runtime.endExecs(record.id);
  }

  #wake(id: string): void {
    this.#waiters.get(id)?.resolve();
    this.#waiters.delete(id);
    this.#outOfMemory.delete(id);
  }

  // The cgroup knows best, but systemd removes it with its last process; the monitor leaves a note that stays.
  #ranOutOfMemory(record: ContainerRecord, exitCode: number): boolean {
    if (!this.#outOfMemory.has(record.id)) this.#readOomKills(record, endWith(record, exitCode));
    return this.#outOfMemory.get(record.id) || this.#deps.runtime.bundles.hasRunOutOfMemory(record.id);
  }

  #readOomKills(record: ContainerRecord, end?: MemberEnd): void {
    try {
      this.#outOfMemory.set(record.id, this.#cgroupOf(record).oomKillsAtEnd(end) > 0);
    } catch (err) {
      this.#deps.log.debug({ container: record.id, err: describe(err) }, 'the OOM kills of the container are unknown');
    }
  }

  #isWithoutCgroup(record: ContainerRecord): boolean {
    try {
      this.#cgroupOf(record).oomKills();
      return false;
    } catch (err) {
      return isKind(err, 'notFound');
    }
  }

  #onlyOneOutOfMemory(records: readonly ContainerRecord[]): ContainerRecord | undefined {
    const { exits, bundles } = this.#deps.runtime;
    const codes = new Map(records.map((record) => [record, exits.read(record.id)?.exitCode]));
    // The kills may be those of one whose code is still to come, or of one of which the monitor knows.
    if (records.some((record) => codes.get(record) === undefined || bundles.hasRunOutOfMemory(record.id)))
      return undefined;
    const suspects = records.filter((record) =>
      mayBeOutOfMemory(endWith(record, codes.get(record) ?? UNSEEN_EXIT_CODE)),
    );
    return suspects.length === 1 ? suspects[0] : undefined;
  }

  // Without a PID namespace of its own, the end of the first process does not end its children.
  #endStragglers(record: ContainerRecord): void {
    if (record.spec.security.namespaces.pid === 'container') return;
    try {
      this.#cgroupOf(record).killAll();
    } catch (err) {
      this.#deps.log.warn({ container: record.id, err: describe(err) }, 'cannot end processes that the container left');
    }
  }

  #cgroupOf(record: ContainerRecord) {
    const { spec } = this.#deps.sandboxes.get(record.sandboxId);
    return this.#deps.cgroups.container(spec.cgroupParent, record.id);
  }
}

/** The end of a container that ran when the host went down; its monitor may have come to write it down. */
export function exitAtReboot({ runtime, clock }: PodDeps, record: ContainerRecord): ContainerExit {
  const seen = runtime.exits.read(record.id);
  const atUs = endOf(record, seen, clock.nowUs());
  if (!seen) return unseenExit('the host was restarted while the container was there', atUs);
  return toExit(seen, runtime.bundles.hasRunOutOfMemory(record.id), atUs);
}

function endWith({ resources }: ContainerRecord, exitCode: number): MemberEnd {
  return { exitCode, killedAsOne: resources.unified['memory.oom.group'] === '1' };
}

// One that is to be restored has none yet.
function hasInitEnded({ init }: ContainerRecord): boolean {
  return init !== undefined && !isSameProcess(init.pid, init.startTime);
}

function isMonitorAlive({ monitor }: ContainerRecord): boolean {
  return monitor !== undefined && isSameProcess(monitor.pid, monitor.startTime);
}

/** True for a container that has a process which can end. */
export function isAlive(record: ContainerRecord): boolean {
  return record.state === 'created' || record.state === 'running';
}

/** When a container ended: never after now, nor before it began, whatever happened to the clock. */
function endOf({ startedAtUs, createdAtUs }: ContainerRecord, seen: SeenExit | undefined, nowUs: number): number {
  return Math.max(startedAtUs ?? createdAtUs, Math.min(seen?.finishedAtUs ?? nowUs, nowUs));
}

function unseenExit(message: string, atUs: number): ContainerExit {
  return { code: UNSEEN_EXIT_CODE, atUs, reason: 'Unknown', message };
}

function toExit(seen: SeenExit, ranOutOfMemory: boolean, atUs: number): ContainerExit {
  const reason = ranOutOfMemory ? 'OOMKilled' : ownReason(seen.exitCode);
  return { code: seen.exitCode, atUs, reason, message: '' };
}

function ownReason(exitCode: number): ExitReason {
  return exitCode === 0 ? 'Completed' : 'Error';
}

function tellLost({ notices, sandboxes }: PodDeps, record: ContainerRecord): void {
  const spec = sandboxes.find(record.sandboxId)?.spec;
  notices?.tell({
    reason: 'ContainerLost',
    message: `container ${record.id} (${record.name}) has ended, and nobody knows how: ${MONITOR_LOST}`,
    ...(spec ? { pod: { namespace: spec.namespace, name: spec.name, uid: spec.uid } } : {}),
  });
}

function classOf({ code, reason }: ContainerExit, wasSeen: boolean): ExitClass {
  if (!wasSeen) return 'unseen';
  if (reason === 'OOMKilled') return 'oom';
  if (code === 0) return 'success';
  return code > 128 ? 'signal' : 'error';
}
