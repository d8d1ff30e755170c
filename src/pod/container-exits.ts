import { sleep, withDeadline } from '../base/deadline.ts';
import { describe } from '../base/errors.ts';
import type { ContainerId } from '../base/ids.ts';
import type { SeenExit } from '../runtime/exit-watch.ts';
import type { PodDeps } from './pod-deps.ts';
import type { ContainerExit, ContainerRecord, ExitReason } from './records.ts';

/** The monitor writes the exit file within a moment of the exit; after this it has died itself. */
const EXIT_FILE_WAIT_MS = 5_000;
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
    using deadline = withDeadline(`exit file of container ${id}`, EXIT_FILE_WAIT_MS, shutdown);
    for (let waitMs = 5; ; waitMs *= 2) {
      const record = this.#deps.containers.find(id);
      if (!record || !isAlive(record)) return;
      const seen = this.#deps.runtime.exits.read(id);
      if (seen) return this.#record(record, seen);
      if (deadline.aborted) return this.#recordUnseen(record);
      await sleep(waitMs, deadline).catch(() => shutdown.throwIfAborted());
    }
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
    this.#waiters.get(record.id)?.resolve();
    this.#waiters.delete(record.id);
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
