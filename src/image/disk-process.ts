import { extname } from 'node:path';
import { fileURLToPath } from 'node:url';

import { withDeadline } from '../base/deadline.ts';
import { BerthError } from '../base/errors.ts';
import { faultsForChild } from '../base/fault-points.ts';
import type { Logger } from '../base/log.ts';
import type { ChildProcess } from '../proc/command.ts';
import type { Processes } from '../proc/processes.ts';
import type { DiskJobs, DiskPlace } from './disk-jobs.ts';
import { CANCEL_TIMEOUT_MS, NoDiskProcessError, RunningDiskProcess } from './running-disk-process.ts';

/** It runs as it is from source, and compiled. */
const programPath = fileURLToPath(new URL(`./disk-program${extname(fileURLToPath(import.meta.url))}`, import.meta.url));

/** A pull's next step, or the next image, finds it there. */
const IDLE_MS = 5_000;
/** As its threads have (disk-program.ts): pods do not wait for a pull. */
const SESSION_NICE = 10;
/** On the busiest machine; one that hangs as it starts would keep pulls for ever. */
const START_TIMEOUT_MS = 30_000;
const END_GRACE_MS = 1_000;
/** What bin/berthd has chosen for Node. */
const INHERITED = ['NODE_COMPILE_CACHE', 'PATH'];
/** Threads have limits of their own; the first one only hands over. */
const NODE_OPTIONS = ['--disable-warning=ExperimentalWarning', '--max-semi-space-size=1', '--max-old-space-size=64'];

/** What the process needs. */
interface DiskProcessDeps {
  readonly processes: Pick<Processes, 'start'>;
  readonly log: Logger;
  /** Of this berthd, as it was at its start: what lies on the disk may be another one by now. */
  readonly version: string;
  readonly idleMs?: number | undefined;
  readonly startTimeoutMs?: number | undefined;
  readonly cancelTimeoutMs?: number | undefined;
}

/**
 * Does disk jobs in a process of its own. Threads of berthd that give way to others would keep locks of malloc(3), of V8
 * and of the address space that berthd's first thread waits for; and what unpacks archives of strangers had better not
 * have berthd's memory. It starts with the first job and ends after a while without any; with berthd it ends at once,
 * however that ended.
 */
export class DiskProcess implements DiskPlace {
  readonly #deps: DiskProcessDeps;
  readonly #running = new Set<RunningDiskProcess>();
  readonly #ending = new Set<Promise<unknown>>();
  #current: RunningDiskProcess | undefined;
  #idle: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(deps: DiskProcessDeps) {
    this.#deps = deps;
  }

  /** Starts the process unless it runs: that takes it longer than a manifest takes to come. */
  prepare(): void {
    try {
      this.#take();
    } catch {
      // The job that is meant will tell, or be done without it.
    }
    this.#endLater();
  }

  /**
   * Does a job; with `alone`, in a process that has no other. Throws a `NoDiskProcessError` when there is none that could
   * do it, a `LostJobError` when it ended meanwhile, and `unavailable` when it is not of this berthd's version.
   */
  async ask<K extends keyof DiskJobs>(
    job: K,
    request: DiskJobs[K]['request'],
    signal: AbortSignal,
    alone = false,
  ): Promise<DiskJobs[K]['answer']> {
    const running = alone ? this.#start() : this.#take();
    try {
      const answer = await running.ask(job, request, signal);
      if ('kind' in answer) throw new BerthError(answer.kind, answer.message);
      return answer.answer;
    } finally {
      if (alone) this.#end(running, START_TIMEOUT_MS);
      else if (running.isStuck && running.jobs === 0) this.#end(running, END_GRACE_MS);
      else if (running.jobs === 0) this.#endLater();
    }
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#endCurrent(END_GRACE_MS);
    await Promise.all(this.#ending);
  }

  #take(): RunningDiskProcess {
    clearTimeout(this.#idle);
    if (this.#current?.hasEnded === false && !this.#current.isStuck) return this.#current;
    this.#current = this.#start();
    return this.#current;
  }

  #start(): RunningDiskProcess {
    if (this.#closed) throw new BerthError('cancelled', 'the daemon is stopping');
    if ([...this.#running].some((one) => one.isAwaited)) throw new NoDiskProcessError('still hangs as it starts');
    const { log, version, startTimeoutMs = START_TIMEOUT_MS, cancelTimeoutMs = CANCEL_TIMEOUT_MS } = this.#deps;
    const running = new RunningDiskProcess(this.#startProgram(startTimeoutMs), {
      log,
      version,
      startTimeoutMs,
      cancelTimeoutMs,
    });
    this.#running.add(running);
    void running.gone.then(() => this.#running.delete(running));
    return running;
  }

  async #startProgram(startTimeoutMs: number): Promise<ChildProcess> {
    const inherited = INHERITED.flatMap((name) => {
      const value = process.env[name];
      return value === undefined ? [] : [[name, value] as const];
    });
    using signal = withDeadline('start of the process for work on the disk', startTimeoutMs);
    return await this.#deps.processes.start(
      {
        path: process.execPath,
        args: [...NODE_OPTIONS, programPath],
        env: { ...Object.fromEntries(inherited), ...faultsForChild(process.env) },
        stdin: 'pipe',
        stdout: 'pipe',
        stderr: 'pipe',
        // A terminal's Ctrl-C is berthd's to hear.
        newSession: true,
        sessionNice: SESSION_NICE,
      },
      signal,
    );
  }

  #endLater(): void {
    clearTimeout(this.#idle);
    this.#idle = setTimeout(() => {
      if (this.#current?.jobs === 0) this.#endCurrent(START_TIMEOUT_MS);
    }, this.#deps.idleMs ?? IDLE_MS);
    this.#idle.unref();
  }

  #endCurrent(graceMs: number): void {
    clearTimeout(this.#idle);
    if (this.#current) this.#end(this.#current, graceMs);
    this.#current = undefined;
  }

  #end(running: RunningDiskProcess, graceMs: number): void {
    const ending = running.end(graceMs);
    this.#ending.add(ending);
    void ending.finally(() => this.#ending.delete(ending));
  }
}
