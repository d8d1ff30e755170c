import { raceSignal, withDeadline } from '../base/deadline.ts';
import { BerthError, describe, kindOf } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import type { ChildProcess } from '../proc/command.ts';
import { followArrival, type SharedArrival } from './blob-arrival.ts';
import { encodeFrame, FrameReader, type FromDisk, type ToDisk } from './disk-channel.ts';
import type { DiskAnswer, DiskJobs } from './disk-jobs.ts';

/** The end of what it said tells why it ended. */
const KEPT_WORDS = 2_000;
const END_GRACE_MS = 1_000;
/** How long a job that nobody wants any more may take to stop, and to take back what it made. A disk may hang. */
export const CANCEL_TIMEOUT_MS = 20_000;

/** A job that was lost because the process that did it has ended. What it made is still there. */
export class LostJobError extends BerthError {
  override readonly name = 'LostJobError';

  constructor(job: string, how: string) {
    super('internal', `${job}: the process for work on the disk ${how}`);
  }
}

/** A job that nobody wanted any more, and that did not stop. What it made is still there, on a disk that may hang. */
export class AbandonedJobError extends BerthError {
  override readonly name = 'AbandonedJobError';

  constructor(job: string, waitedMs: number) {
    super('cancelled', `${job}: it did not stop within ${waitedMs / 1000} s`);
  }
}

/** There is no process that could do a job, which has not been begun. */
export class NoDiskProcessError extends BerthError {
  override readonly name = 'NoDiskProcessError';

  constructor(problem: string, options?: { cause: unknown }) {
    super('unavailable', `the process for work on the disk ${problem}`, options);
  }
}

interface Asked {
  readonly job: string;
  readonly settle: PromiseWithResolvers<DiskAnswer>;
}

/** A process for work on the disk, from its start to its end. */
export class RunningDiskProcess {
  /** Never rejects. */
  readonly #started: Promise<void>;
  #child: ChildProcess | undefined;
  readonly #log: Logger;
  readonly #version: string;
  readonly #cancelTimeoutMs: number;
  /** Settled with its first word. */
  readonly #ready = Promise.withResolvers<void>();
  readonly #asked = new Map<number, Asked>();
  readonly #answers = new FrameReader<FromDisk>();
  readonly #start: NodeJS.Timeout;
  #lastId = 0;
  #words = '';
  #isReady = false;
  #hasGivenUp = false;
  readonly #gone = Promise.withResolvers<void>();
  #hasGone = false;
  hasEnded = false;
  /** A job of it does not stop: it does what it is at, and gets no other. */
  isStuck = false;

  constructor(
    starting: Promise<ChildProcess>,
    options: {
      readonly log: Logger;
      readonly version: string;
      readonly startTimeoutMs: number;
      readonly cancelTimeoutMs: number;
    },
  ) {
    this.#log = options.log;
    this.#version = options.version;
    this.#cancelTimeoutMs = options.cancelTimeoutMs;
    this.#ready.promise.catch(() => {});
    const { startTimeoutMs } = options;
    // Timers come before pipes: after a while without any turn of the event loop its word may be waiting in there.
    this.#start = setTimeout(() => setImmediate(() => this.#giveUp(startTimeoutMs)), startTimeoutMs);
    this.#started = this.#listen(starting);
  }

  /** It was given up before it said a word, and may still come: its program's disk hangs, or is slow. */
  get isAwaited(): boolean {
    return this.#hasGivenUp && !this.#hasGone;
  }

  /** Settles when there is no process, or none any more. */
  get gone(): Promise<void> {
    return this.#gone.promise;
  }

  /** How many jobs it is at. */
  get jobs(): number {
    return this.#asked.size;
  }

  /**
   * Throws a `LostJobError` when the process ends before it answers, a `NoDiskProcessError` when it ends before it has
   * begun, `unavailable` when it is of another version, an `AbandonedJobError` some time after the signal's abort.
   */
  async ask<K extends keyof DiskJobs>(
    job: K,
    request: DiskJobs[K]['request'],
    signal: AbortSignal,
  ): Promise<DiskAnswer> {
    this.#lastId += 1;
    const id = this.#lastId;
    const settle = Promise.withResolvers<DiskAnswer>();
    this.#asked.set(id, { job, settle });
    let tooLate: NodeJS.Timeout | undefined;
    const cancel = (): void => {
      this.#say({ cancel: id });
      tooLate = setTimeout(() => {
        this.isStuck = true;
        this.#log.warn(
          { job, waitedMs: this.#cancelTimeoutMs, others: this.#asked.size - 1 },
          'work on the disk does not stop, and is given up; the disk may hang (dmesg tells)',
        );
        settle.reject(new AbandonedJobError(job, this.#cancelTimeoutMs));
      }, this.#cancelTimeoutMs).unref();
    };
    try {
      await raceSignal(this.#ready.promise, signal);
      // Nobody would tell the process of a signal that was given in between.
      signal.throwIfAborted();
      const { arrival, descriptor, plain } = separate(job, request);
      this.#say({ order: { id, job, request: plain, follows: arrival !== undefined, descriptor } });
      signal.addEventListener('abort', cancel, { once: true });
      if (arrival) void this.#follow(id, arrival);
      return await settle.promise;
    } finally {
      this.#asked.delete(id);
      clearTimeout(tooLate);
      signal.removeEventListener('abort', cancel);
    }
  }

  /** Ends a process that has no jobs; one that is still to come, from a disk that hangs, once it is there. Never rejects. */
  async end(graceMs: number): Promise<void> {
    this.hasEnded = true;
    using patience = withDeadline('start of the process for work on the disk', graceMs);
    await raceSignal(this.#started, patience).catch(() => {
      this.#hasGivenUp = true;
    });
    const child = this.#child;
    if (!child) return;
    child.stdin?.end();
    const { promise: killed, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(() => void child.terminate(END_GRACE_MS).then(resolve, resolve), graceMs);
    await Promise.race([child.exited.catch(() => {}), killed]);
    clearTimeout(timer);
  }

  async #listen(starting: Promise<ChildProcess>): Promise<void> {
    try {
      const child = await starting;
      this.#child = child;
      const go = (): void => this.#go();
      child.exited.then(go, go);
      if (this.#hasGivenUp) child.kill('SIGKILL');
      child.stdin?.on('error', () => {});
      child.stderr?.on('data', (part: Buffer) => {
        this.#words = (this.#words + part.toString('utf8')).slice(-KEPT_WORDS);
      });
      child.stdout?.on('data', (part: Buffer) => this.#hear(part));
      // After the last of its answers, as opposed to its end.
      child.stdout?.on('close', () => void this.#lose(child));
    } catch (err) {
      clearTimeout(this.#start);
      this.hasEnded = true;
      this.#go();
      if (kindOf(err) !== 'cancelled')
        this.#log.warn({ err: describe(err) }, 'the process for work on the disk does not start');
      this.#ready.reject(new NoDiskProcessError('cannot be started', { cause: err }));
    }
  }

  #go(): void {
    this.#hasGone = true;
    this.#gone.resolve();
  }

  async #follow(id: number, arrival: SharedArrival): Promise<void> {
    for await (const arrived of followArrival(arrival)) {
      if (!this.#asked.has(id)) return;
      this.#say({ id, arrived });
    }
  }

  #say(message: ToDisk): void {
    if (!this.hasEnded) this.#child?.stdin?.write(encodeFrame(message));
  }

  #hear(part: Buffer): void {
    clearTimeout(this.#start);
    try {
      for (const message of this.#answers.add(part)) {
        if ('version' in message) this.#meet(message.version);
        else if (this.#isReady) this.#asked.get(message.id)?.settle.resolve(message.answer);
        else this.#meet('an older version');
      }
    } catch (err) {
      this.#words = describe(err);
      this.#child?.kill('SIGKILL');
    }
  }

  /** Its messages are those of its own version. */
  #meet(version: string): void {
    if (version === this.#version) {
      this.#isReady = true;
      this.#ready.resolve();
      return;
    }
    const problem = `berth on the disk is ${version}, and the berthd that runs ${this.#version}: it must be restarted`;
    this.#ready.reject(new BerthError('unavailable', problem));
    this.#words = problem;
    this.hasEnded = true;
    this.#child?.kill('SIGKILL');
  }

  #giveUp(startTimeoutMs: number): void {
    if (this.#isReady || this.hasEnded) return;
    this.#words = `it did not start within ${startTimeoutMs / 1000} s`;
    // Its program cannot be had, from a disk that hangs: now or when it comes it is killed, and nobody waits for that.
    this.#hasGivenUp = true;
    this.hasEnded = true;
    this.#child?.kill('SIGKILL');
    this.#log.warn({ problem: this.#words }, 'the process for work on the disk does not start');
    this.#ready.reject(new NoDiskProcessError(this.#words));
  }

  async #lose(child: ChildProcess): Promise<void> {
    clearTimeout(this.#start);
    const wasEnding = this.hasEnded;
    this.hasEnded = true;
    const status = await child.exited.catch(() => undefined);
    if (wasEnding && this.#asked.size === 0) return;
    const how = status?.signal ? `was ended by ${status.signal}` : `ended with ${status?.exitCode ?? 'no exit code'}`;
    const jobs = [...this.#asked.values()].map(({ job }) => job);
    const words = this.#words.trim();
    this.#log.warn({ jobs, how, words }, 'the process for work on the disk has ended');
    if (!this.#isReady) this.#ready.reject(new NoDiskProcessError(`${how} as it started${words && `: ${words}`}`));
    else for (const { job, settle } of this.#asked.values()) settle.reject(new LostJobError(job, how));
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
