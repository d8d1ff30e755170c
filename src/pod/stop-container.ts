import { raceSignal } from '../base/deadline.ts';
import { describe, isKind } from '../base/errors.ts';
import type { ContainerCgroup } from '../runtime/cgroups/cgroups.ts';
import { killProcess } from '../sys/process.ts';
import { type ContainerExits, isAlive } from './container-exits.ts';
import type { PodDeps } from './pod-deps.ts';
import type { ContainerRecord } from './records.ts';
import { signalNumber } from './stop-signal.ts';

/** SIGKILL is repeated: a process in uninterruptible sleep takes it when it wakes. */
const FIRST_KILL_WAIT_MS = 20;
const LONGEST_KILL_WAIT_MS = 120_000;
/** A wait this long after SIGKILL is worth a line in the log. */
const STUCK_AFTER_MS = 5_000;

/** True for a container that shall go on from a checkpoint and has not been started: no process of it is there to end. */
export function isUnrestored({ state, restoreFrom }: ContainerRecord): boolean {
  return state === 'created' && restoreFrom !== undefined;
}

interface Stop {
  /** Resolves when the container has ended. Rejects with what keeps it from being stopped. */
  readonly done: Promise<void>;
  /** Ends the grace period `timeoutMs` from now, if that is earlier than before. */
  hasten(timeoutMs: number): void;
}

/**
 * The stops under way. A stop belongs to the container, not to the request that asked for it: a client that leaves does
 * not end it, and a second client joins it, with a shorter grace period if it wants one, never with a longer.
 */
export class ContainerStops {
  readonly #deps: PodDeps;
  readonly #exits: ContainerExits;
  readonly #shutdown: AbortSignal;
  readonly #send: typeof killProcess;
  readonly #stops = new Map<string, Stop>();

  constructor(deps: PodDeps, exits: ContainerExits, shutdown: AbortSignal, send = killProcess) {
    this.#send = send;
    this.#deps = deps;
    this.#exits = exits;
    this.#shutdown = shutdown;
  }

  /**
   * Sends the container's stop signal, and SIGKILL after `timeoutMs`; 0 kills at once. Returns when the container has
   * ended, or throws what keeps it from being stopped, or the signal's reason while the stop goes on. A container that
   * does not run is fine.
   */
  async stop(id: string, timeoutMs: number, signal: AbortSignal): Promise<void> {
    const record = this.#deps.containers.find(id);
    if (!record || !isAlive(record) || isUnrestored(record)) return;
    const known = this.#stops.get(id);
    known?.hasten(timeoutMs);
    const { done } = known ?? this.#begin(record, timeoutMs);
    await raceSignal(done, signal);
  }

  #begin(record: ContainerRecord, timeoutMs: number): Stop {
    const graceOver = new AbortController();
    let endsAtMs = performance.now() + timeoutMs;
    let timer = setTimeout(() => graceOver.abort(), timeoutMs);
    const hasten = (laterTimeoutMs: number): void => {
      const earlier = performance.now() + laterTimeoutMs;
      if (earlier >= endsAtMs) return;
      endsAtMs = earlier;
      clearTimeout(timer);
      timer = setTimeout(() => graceOver.abort(), laterTimeoutMs);
    };
    if (timeoutMs === 0) graceOver.abort();
    const done = this.#run(record, graceOver.signal).finally(() => {
      clearTimeout(timer);
      this.#stops.delete(record.id);
    });
    done.catch((err: unknown) => {
      if (!this.#shutdown.aborted)
        this.#deps.log.error({ container: record.id, err: describe(err) }, 'container cannot be stopped');
    });
    const stop = { done, hasten };
    this.#stops.set(record.id, stop);
    return stop;
  }

  async #run(record: ContainerRecord, graceOver: AbortSignal): Promise<void> {
    if (!graceOver.aborted && this.#ask(record)) {
      // Whoever pauses it holds its lock, and lets it go on; otherwise it was left paused, and nobody else will.
      if (!this.#deps.locks.isHeld(record.id)) this.#thaw(record);
      const grace = AbortSignal.any([graceOver, this.#shutdown]);
      await this.#exits.ended(record.id, grace).catch(() => this.#shutdown.throwIfAborted());
    }
    await this.#kill(record);
  }

  async #kill(record: ContainerRecord): Promise<void> {
    const sinceMs = performance.now();
    for (let waitMs = FIRST_KILL_WAIT_MS; ; waitMs = Math.min(waitMs * 2, LONGEST_KILL_WAIT_MS)) {
      const now = this.#deps.containers.find(record.id);
      if (!now || !isAlive(now)) return;
      this.#forceEnd(now);
      this.#thaw(now);
      const pause = AbortSignal.any([AbortSignal.timeout(waitMs), this.#shutdown]);
      await this.#exits.ended(record.id, pause).catch(() => this.#shutdown.throwIfAborted());
      const killingMs = performance.now() - sinceMs;
      if (killingMs > STUCK_AFTER_MS) {
        this.#deps.log.warn(
          { container: record.id, pid: record.init?.pid, killingMs },
          'container survives SIGKILL: is it waiting for a disk or a network file system?',
        );
      }
    }
  }

  /** False when the container cannot be asked to end, by nobody: a grace period would be lost time. */
  #ask(record: ContainerRecord): boolean {
    try {
      this.#signal(record, record.stopSignal);
      return true;
    } catch (err) {
      if (!isKind(err, 'permission')) throw err;
      this.#deps.log.warn(
        { container: record.id, err: describe(err) },
        'the container takes no signal from berthd, so it is killed at once: does its AppArmor profile allow any?',
      );
      return false;
    }
  }

  // The kernel asks no profile when it kills a cgroup (v2); by v1 the signals are denied again, which is then told.
  #forceEnd(record: ContainerRecord): void {
    try {
      this.#signal(record, 'SIGKILL');
    } catch (err) {
      if (!isKind(err, 'permission')) throw err;
      this.#cgroupOf(record).killAll();
    }
  }

  #thaw(record: ContainerRecord): void {
    try {
      this.#cgroupOf(record).thaw();
    } catch (err) {
      this.#deps.log.warn(
        { container: record.id, err: describe(err) },
        'it cannot be told whether the container is paused',
      );
    }
  }

  #cgroupOf({ id, sandboxId }: ContainerRecord): ContainerCgroup {
    return this.#deps.cgroups.container(this.#deps.sandboxes.get(sandboxId).spec.cgroupParent, id);
  }

  #signal(record: ContainerRecord, name: string): void {
    if (record.init) this.#send(record.init.pid, record.init.startTime, signalNumber(name));
  }
}
