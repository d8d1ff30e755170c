import { extname } from 'node:path';
import { fileURLToPath } from 'node:url';

import { BerthError, describe } from '../base/errors.ts';
import { faultsForChild } from '../base/fault-points.ts';
import type { Logger } from '../base/log.ts';
import type { ChildProcess } from '../proc/command.ts';
import type { Processes } from '../proc/processes.ts';
import { followArrival, type SharedArrival } from './blob-arrival.ts';
import { encodeFrame, FrameReader, type FromDisk, type ToDisk } from './disk-channel.ts';
import type { DiskAnswer, DiskJobs, DiskPlace } from './disk-jobs.ts';

/** It runs as it is from source, and compiled. */
const programPath = fileURLToPath(new URL(`./disk-program${extname(fileURLToPath(import.meta.url))}`, import.meta.url));

/** A pull's next step, or the next image, finds it there. */
const IDLE_MS = 5_000;
/** On the busiest machine; one that hangs as it starts would keep pulls for ever. */
const START_TIMEOUT_MS = 30_000;
const END_GRACE_MS = 1_000;
/** The end of what it said tells why it ended. */
const KEPT_WORDS = 2_000;
/** What bin/berthd has chosen for Node. */
const INHERITED = ['NODE_COMPILE_CACHE', 'PATH'];
/** Threads have limits of their own; the first one only hands over. */
const NODE_OPTIONS = ['--disable-warning=ExperimentalWarning', '--max-semi-space-size=1', '--max-old-space-size=64'];

/** A job that was lost because the process that did it has ended. What it made is still there. */
export class LostJobError extends BerthError {
  override readonly name = 'LostJobError';

  constructor(job: string, how: string) {
    super('internal', `${job}: the process for work on the disk ${how}`);
  }
}

/** What the process needs. */
interface DiskProcessDeps {
  readonly processes: Pick<Processes, 'start'>;
  readonly log: Logger;
  readonly idleMs?: number | undefined;
}

/**
 * Does disk jobs in a process of its own. Threads of berthd that give way to others would keep locks of malloc(3), of V8
 * and of the address space that berthd's first thread waits for; and what unpacks archives of strangers had better not
 * have berthd's memory. It starts with the first job and ends after a while without any; with berthd it ends at once,
 * however that ended.
 */
export class DiskProcess implements DiskPlace {
  readonly #deps: DiskProcessDeps;
  readonly #ending = new Set<Promise<unknown>>();
  #current: Running | undefined;
  #idle: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(deps: DiskProcessDeps) {
    this.#deps = deps;
  }

  /** Starts the process unless it runs: that takes it longer than a manifest takes to come. */
  prepare(): void {
    try {
      this.#take();
    } catch (err) {
      this.#deps.log.debug({ err: describe(err) }, 'the process for work on the disk does not start');
    }
    this.#endLater();
  }

  async ask<K extends keyof DiskJobs>(
    job: K,
    request: DiskJobs[K]['request'],
    signal: AbortSignal,
  ): Promise<DiskJobs[K]['answer']> {
    const running = this.#take();
    try {
      const answer = await running.ask(job, request, signal);
      if ('kind' in answer) throw new BerthError(answer.kind, answer.message);
      return answer.answer;
    } finally {
      if (running.jobs === 0) this.#endLater();
    }
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#end(END_GRACE_MS);
    await Promise.all(this.#ending);
  }

  #take(): Running {
    if (this.#closed) throw new BerthError('cancelled', 'the daemon is stopping');
    clearTimeout(this.#idle);
    if (this.#current?.hasEnded === false) return this.#current;
    const { processes, log } = this.#deps;
    const inherited = INHERITED.flatMap((name) => {
      const value = process.env[name];
      return value === undefined ? [] : [[name, value] as const];
    });
    const child = processes.start({
      path: process.execPath,
      args: [...NODE_OPTIONS, programPath],
      env: { ...Object.fromEntries(inherited), ...faultsForChild(process.env) },
      stdin: 'pipe',
      stdout: 'pipe',
      stderr: 'pipe',
      // A terminal's Ctrl-C is berthd's to hear.
      processGroup: true,
    });
    this.#current = new Running(child, log);
    return this.#current;
  }

  #endLater(): void {
    clearTimeout(this.#idle);
    this.#idle = setTimeout(() => {
      if (this.#current?.jobs === 0) this.#end(START_TIMEOUT_MS);
    }, this.#deps.idleMs ?? IDLE_MS);
    this.#idle.unref();
  }

  #end(graceMs: number): void {
    clearTimeout(this.#idle);
    const ending = this.#current?.end(graceMs);
    this.#current = undefined;
    if (!ending) return;
    this.#ending.add(ending);
    void ending.finally(() => this.#ending.delete(ending));
  }
}

interface Asked {
  readonly job: string;
  readonly settle: PromiseWithResolvers<DiskAnswer>;
}

/** A process from its start to its end. */
class Running {
  readonly #child: ChildProcess;
  readonly #log: Logger;
  readonly #asked = new Map<number, Asked>();
  readonly #answers = new FrameReader<FromDisk>();
  readonly #start: NodeJS.Timeout;
  #lastId = 0;
  #words = '';
  hasEnded = false;

  constructor(child: ChildProcess, log: Logger) {
    this.#child = child;
    this.#log = log;
    child.stdin?.on('error', () => {});
    child.stderr?.on('data', (part: Buffer) => {
      this.#words = (this.#words + part.toString('utf8')).slice(-KEPT_WORDS);
    });
    child.stdout?.on('data', (part: Buffer) => this.#hear(part));
    // After the last of its answers, as opposed to its end.
    child.stdout?.on('close', () => void this.#lose());
    this.#start = setTimeout(() => {
      this.#words = `it did not start within ${START_TIMEOUT_MS / 1000} s`;
      child.kill('SIGKILL');
    }, START_TIMEOUT_MS);
  }

  /** How many jobs it is at. */
  get jobs(): number {
    return this.#asked.size;
  }

  /** Throws a `LostJobError` when the process ends before it answers. */
  async ask<K extends keyof DiskJobs>(
    job: K,
    request: DiskJobs[K]['request'],
    signal: AbortSignal,
  ): Promise<DiskAnswer> {
    this.#lastId += 1;
    const id = this.#lastId;
    const settle = Promise.withResolvers<DiskAnswer>();
    this.#asked.set(id, { job, settle });
    const cancel = (): void => this.#say({ cancel: id });
    const { arrival, descriptor, plain } = separate(job, request);
    this.#say({ order: { id, job, request: plain, follows: arrival !== undefined, descriptor } });
    if (signal.aborted) cancel();
    signal.addEventListener('abort', cancel, { once: true });
    if (arrival) void this.#follow(id, arrival);
    try {
      return await settle.promise;
    } finally {
      this.#asked.delete(id);
      signal.removeEventListener('abort', cancel);
    }
  }

  /** Ends a process that has no jobs. Never rejects. */
  async end(graceMs: number): Promise<void> {
    this.hasEnded = true;
    this.#child.stdin?.end();
    const timer = setTimeout(() => void this.#child.terminate(END_GRACE_MS).catch(() => {}), graceMs);
    await this.#child.exited.catch(() => {});
    clearTimeout(timer);
  }

  async #follow(id: number, arrival: SharedArrival): Promise<void> {
    for await (const arrived of followArrival(arrival)) {
      if (!this.#asked.has(id)) return;
      this.#say({ id, arrived });
    }
  }

  #say(message: ToDisk): void {
    if (!this.hasEnded) this.#child.stdin?.write(encodeFrame(message));
  }

  #hear(part: Buffer): void {
    clearTimeout(this.#start);
    try {
      for (const { id, answer } of this.#answers.add(part)) this.#asked.get(id)?.settle.resolve(answer);
    } catch (err) {
      this.#words = describe(err);
      this.#child.kill('SIGKILL');
    }
  }

  async #lose(): Promise<void> {
    clearTimeout(this.#start);
    const wasEnding = this.hasEnded;
    this.hasEnded = true;
    const status = await this.#child.exited.catch(() => undefined);
    if (wasEnding && this.#asked.size === 0) return;
    const how = status?.signal ? `was ended by ${status.signal}` : `ended with ${status?.exitCode ?? 'no exit code'}`;
    const jobs = [...this.#asked.values()].map(({ job }) => job);
    this.#log.warn({ jobs, how, words: this.#words.trim() }, 'the process for work on the disk has ended');
    for (const { job, settle } of this.#asked.values()) settle.reject(new LostJobError(job, how));
  }
}

/** A request without what another process cannot have. */
function separate<K extends keyof DiskJobs>(
  job: K,
  request: DiskJobs[K]['request'],
): {
  readonly arrival: SharedArrival | undefined;
  readonly descriptor: string | undefined;
  readonly plain: DiskJobs[keyof DiskJobs]['request'];
} {
  if (job === 'unpack') {
    const { blob, ...rest } = request as DiskJobs['unpack']['request'];
    const { arrival, ...plain } = blob;
    return { arrival, descriptor: undefined, plain: { ...rest, blob: plain } };
  }
  if (job === 'archive') {
    const { fd } = request as DiskJobs['archive']['request'];
    return { arrival: undefined, descriptor: `/proc/${process.pid}/fd/${fd}`, plain: request };
  }
  return { arrival: undefined, descriptor: undefined, plain: request };
}
