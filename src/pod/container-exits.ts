import { sleep } from '../base/deadline.ts';
import { describe } from '../base/errors.ts';
import type { ContainerId } from '../base/ids.ts';
import type { SeenExit } from '../runtime/exit-watch.ts';
import { isSameProcess } from '../sys/process.ts';
import type { PodDeps } from './pod-deps.ts';
import type { ContainerExit, ContainerRecord, ExitReason } from './records.ts';

/** The monitor writes the exit file within a moment of the exit, unless the machine is very busy. */
const EXIT_FILE_WAIT_MS = 5_000;
/** Of one that lives and still writes nothing, nothing is expected any more. */
const STUCK_MONITOR_MS = 120_000;
const LONGEST_WAIT_MS = 1_000;
/** The code for a container whose end nobody saw, as containerd reports it. */
const UNSEEN_EXIT_CODE = 255;

/**
 * The one authority on container exits. It hears of an exit from the monitor's file and from the kernel (the pidfd of
 * the first process), whichever comes first, records it once, and wakes who waits for it.
 */
export class ContainerExits {
  readonly #deps: PodDeps;
  readonly #shutdown: AbortSignal;
  readonly #waiters = new Map<string, PromiseWithResolvers<void>>();

  constructor(deps: PodDeps, shutdown: AbortSignal) {
    this.#deps = deps;
    this.#shutdown = shutdown;
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
    // What fails here is tried again by the watch of its first process.
    if (record && isAlive(record)) this.#record(record, exit);
  }

  /** Resolves when the container has ended and its record says so; at once when it has. */
  async ended(id: string, signal: AbortSignal): Promise<void> {
    const record = this.#deps.containers.find(id);
    if (!record || !isAlive(record)) return;
    signal.throwIfAborted();
    const waiter = this.#waiters.get(id) ?? Promise.withResolvers<void>();
    this.#waiters.set(id, waiter);
    const { promise: aborted, reject } = Promise.withResolvers<never>();
    const onAbort = (): void => reject(signal.reason);
    signal.addEventListener('abort', onAbort, { once: true });
    try {
      await Promise.race([waiter.promise, aborted]);
    } finally {
      signal.removeEventListener('abort', onAbort);
    }
  }

  async #follow(id: ContainerId): Promise<void> {
    const record = this.#deps.containers.find(id);
    if (!record || !isAlive(record)) return;
    const { init } = record;
    const shutdown = this.#shutdown;
    if (init) await this.#deps.processes.exitOf(init.pid, init.startTime, shutdown);
    const sinceMs = performance.now();
    for (let waitMs = 5; ; waitMs = Math.min(waitMs * 2, LONGEST_WAIT_MS)) {
      const record = this.#deps.containers.find(id);
      if (!record || !isAlive(record)) return;
      const waitedMs = performance.now() - sinceMs;
      const limitMs = isMonitorAlive(record) ? STUCK_MONITOR_MS : EXIT_FILE_WAIT_MS;
      if (this.#tryRecord(record, waitedMs > limitMs)) return;
      await sleep(waitMs, shutdown);
    }
  }

  /** False when there is nothing to record yet, or it could not be stored: then it is tried again. */
  #tryRecord(record: ContainerRecord, isLost: boolean): boolean {
    try {
      const seen = this.#deps.runtime.exits.read(record.id);
      if (seen) this.#record(record, seen);
      else if (isLost) this.#recordUnseen(record);
      else return false;
      return true;
    } catch (err) {
      this.#deps.log.error(
        { container: record.id, err: describe(err) },
        'the end of a container cannot be recorded yet',
      );
      return false;
    }
  }

  /** The container is removed: who waits for its end has waited long enough. */
  forgotten(id: string): void {
    this.#waiters.get(id)?.resolve();
    this.#waiters.delete(id);
  }

  #recordUnseen(record: ContainerRecord): void {
    this.#deps.log.warn({ container: record.id }, 'container ended and its monitor left no exit code');
    this.#record(record, undefined);
  }

  #record(record: ContainerRecord, seen: SeenExit | undefined): void {
    const deps = this.#deps;
    const oomKills = this.#readOomKills(record);
    const exit = toExit(
      seen,
      oomKills,
      Math.max(record.startedAtUs ?? record.createdAtUs, seen?.finishedAtUs ?? deps.clock.nowUs()),
    );
    if (exit.reason === 'OOMKilled') deps.meter.oomKilled();
    this.#endStragglers(record);
    deps.containers.put({ ...record, state: 'exited', exit });
    deps.log.info(
      { container: record.id, sandbox: record.sandboxId, exitCode: exit.code, reason: exit.reason },
      'container ended',
    );
    deps.runtime.endExecs(record.id);
    this.forgotten(record.id);
  }

  // Before anything removes the cgroup: it is the only place that knows.
  #readOomKills(record: ContainerRecord): number {
    try {
      return this.#cgroupOf(record).oomKills();
    } catch (err) {
      this.#deps.log.warn(
        { container: record.id, err: describe(err) },
        'cannot tell whether the container ran out of memory',
      );
      return 0;
    }
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

function isMonitorAlive({ monitor }: ContainerRecord): boolean {
  return monitor !== undefined && isSameProcess(monitor.pid, monitor.startTime);
}

/** True for a container that has a process which can end. */
export function isAlive(record: ContainerRecord): boolean {
  return record.state === 'created' || record.state === 'running';
}

function toExit(seen: SeenExit | undefined, oomKills: number, atUs: number): ContainerExit {
  if (!seen)
    return {
      code: UNSEEN_EXIT_CODE,
      atUs,
      reason: 'Unknown',
      message: 'the monitor was lost, and the exit code with it',
    };
  const reason = oomKills > 0 ? 'OOMKilled' : ownReason(seen.exitCode);
  return { code: seen.exitCode, atUs, reason, message: '' };
}

function ownReason(exitCode: number): ExitReason {
  return exitCode === 0 ? 'Completed' : 'Error';
}
