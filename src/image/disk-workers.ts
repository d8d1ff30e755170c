import { availableParallelism } from 'node:os';
import { extname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';

import { BerthError } from '../base/errors.ts';
import type { DiskAnswer, DiskJobs, DiskRequest } from './disk-jobs.ts';
import { Slots } from './parallel.ts';

/** It runs as it is from source, and compiled. */
const workerUrl = new URL(`./disk-worker${extname(fileURLToPath(import.meta.url))}`, import.meta.url);

/** More threads than this do not make a disk faster. */
const MAX_THREADS = 8;
const IDLE_MS = 5_000;
/** Layers are streamed: what grows beyond this is an archive that is made to. Its buffers are not counted. */
const HEAP_MB = 256;

interface Idle {
  readonly thread: DiskThread;
  readonly timer: NodeJS.Timeout;
}

/** Threads for work on the disk. They start when there is work, and end when there was none for a while. */
export class DiskWorkers {
  readonly #slots: Slots;
  /** Statistics do not wait for pulls. */
  readonly #usageSlot = new Slots(1);
  /** Pulls do not wait for who takes an archive. */
  readonly #archiveSlot = new Slots(1);
  /** Nor for who has all layers read. */
  readonly #checkSlot = new Slots(1);
  /** Nor for the space of images that are gone. */
  readonly #discardSlot = new Slots(1);
  readonly #idleMs: number;
  readonly #idle: Idle[] = [];
  readonly #running = new Map<Promise<unknown>, Int32Array>();
  #closed = false;

  constructor(options?: { readonly threads?: number; readonly idleMs?: number }) {
    this.#slots = new Slots(options?.threads ?? Math.min(MAX_THREADS, availableParallelism()));
    this.#idleMs = options?.idleMs ?? IDLE_MS;
  }

  /**
   * Does a job on a thread of its own, as soon as one is free. When the signal aborts, the job stops at its next step,
   * takes back what it made, and then the signal's reason is thrown. What follows a download waits for the network on
   * its thread, so it is refused with `cancelled` where it would take the last one.
   */
  async run<K extends keyof DiskJobs>(
    job: K,
    request: DiskJobs[K]['request'],
    signal?: AbortSignal,
  ): Promise<DiskJobs[K]['answer']> {
    const cancelled = new Int32Array(new SharedArrayBuffer(4));
    const cancel = (): void => void Atomics.store(cancelled, 0, 1);
    signal?.throwIfAborted();
    signal?.addEventListener('abort', cancel, { once: true });
    const never = new AbortController().signal;
    const slots = this.#slotsFor(job);
    if (followsDownload(job, request) && slots.free < 2) {
      throw new BerthError('cancelled', `${job}: no thread is free to follow a download`);
    }
    const work = slots.run(signal ?? never, () => this.#ask(job, request, cancelled));
    this.#running.set(work, cancelled);
    try {
      return await work;
    } catch (err) {
      signal?.throwIfAborted();
      throw err;
    } finally {
      this.#running.delete(work);
      signal?.removeEventListener('abort', cancel);
    }
  }

  /** How many jobs threads are at, and how many wait for one. */
  load(): { readonly running: number; readonly waiting: number } {
    const slots = [this.#slots, this.#usageSlot, this.#archiveSlot, this.#checkSlot, this.#discardSlot];
    const waiting = slots.reduce((sum, { waiting }) => sum + waiting, 0);
    return { running: this.#running.size - waiting, waiting };
  }

  /** Cancels what can be cancelled, waits for the rest, and ends the threads. */
  async close(): Promise<void> {
    this.#closed = true;
    for (const cancelled of this.#running.values()) Atomics.store(cancelled, 0, 1);
    await Promise.allSettled(this.#running.keys());
    await Promise.all(
      this.#idle.splice(0).map(({ thread, timer }) => {
        clearTimeout(timer);
        return thread.end();
      }),
    );
  }

  #slotsFor(job: keyof DiskJobs): Slots {
    if (job === 'usage') return this.#usageSlot;
    if (job === 'check') return this.#checkSlot;
    if (job === 'discard') return this.#discardSlot;
    return job === 'archive' ? this.#archiveSlot : this.#slots;
  }

  async #ask<K extends keyof DiskJobs>(
    job: K,
    request: DiskJobs[K]['request'],
    cancelled: Int32Array,
  ): Promise<DiskJobs[K]['answer']> {
    if (this.#closed) throw new BerthError('cancelled', `${job}: the daemon is stopping`);
    const thread = this.#takeIdle() ?? new DiskThread();
    const answer = await thread.ask({ job, request, cancelled } as DiskRequest);
    if (this.#closed) await thread.end();
    else this.#putIdle(thread);
    if ('kind' in answer) throw new BerthError(answer.kind, answer.message);
    return answer.answer;
  }

  #takeIdle(): DiskThread | undefined {
    for (let idle = this.#idle.pop(); idle; idle = this.#idle.pop()) {
      clearTimeout(idle.timer);
      if (!idle.thread.hasEnded) return idle.thread;
    }
    return undefined;
  }

  #putIdle(thread: DiskThread): void {
    const timer = setTimeout(() => {
      const at = this.#idle.findIndex((idle) => idle.thread === thread);
      if (at >= 0) this.#idle.splice(at, 1);
      void thread.end();
    }, this.#idleMs);
    timer.unref();
    this.#idle.push({ thread, timer });
  }
}

function followsDownload(job: keyof DiskJobs, request: DiskJobs[keyof DiskJobs]['request']): boolean {
  return job === 'unpack' && (request as DiskJobs['unpack']['request']).blob.arrival !== undefined;
}

/** One thread and the job that it is at. It keeps the process alive only while there is one. */
class DiskThread {
  readonly #worker: Worker;
  #job: { readonly name: string; readonly settle: PromiseWithResolvers<DiskAnswer> } | undefined;
  hasEnded = false;

  constructor() {
    this.#worker = new Worker(workerUrl, {
      name: 'berth-disk',
      resourceLimits: { maxOldGenerationSizeMb: HEAP_MB, maxYoungGenerationSizeMb: 16 },
    });
    this.#worker.on('message', (answer: DiskAnswer) => this.#job?.settle.resolve(answer));
    this.#worker.on('error', (err: unknown) => this.#fail((job) => threadError(job, err)));
    this.#worker.on('exit', (code) => {
      this.#fail((job) => new BerthError('internal', `${job}: its thread ended with ${code}`));
    });
  }

  /** Does one job; the one before must have ended. Throws when the thread dies of it. */
  async ask(message: DiskRequest): Promise<DiskAnswer> {
    const settle = Promise.withResolvers<DiskAnswer>();
    this.#job = { name: message.job, settle };
    this.#worker.ref();
    this.#worker.postMessage(message);
    try {
      return await settle.promise;
    } finally {
      this.#job = undefined;
      this.#worker.unref();
    }
  }

  async end(): Promise<void> {
    await this.#worker.terminate();
  }

  #fail(reason: (job: string) => BerthError): void {
    this.hasEnded = true;
    if (this.#job) this.#job.settle.reject(reason(this.#job.name));
  }
}

function threadError(job: string, cause: unknown): BerthError {
  const isMemory = cause instanceof Error && 'code' in cause && cause.code === 'ERR_WORKER_OUT_OF_MEMORY';
  return isMemory
    ? new BerthError('exhausted', `${job}: it needs more than ${HEAP_MB} MB of memory`, { cause })
    : new BerthError('internal', `${job}: its thread failed`, { cause });
}
