import { extname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';

import { BerthError } from '../base/errors.ts';
import type { DiskAnswer, DiskJobs, DiskPlace, DiskRequest } from './disk-jobs.ts';

/** It runs as it is from source, and compiled. */
const workerUrl = new URL(`./disk-worker${extname(fileURLToPath(import.meta.url))}`, import.meta.url);

const IDLE_MS = 5_000;
/** Layers are streamed: what grows beyond this is an archive that is made to. Its buffers are not counted. */
const HEAP_MB = 256;

interface Idle {
  readonly thread: DiskThread;
  readonly timer: NodeJS.Timeout;
}

/** Threads of this process for work on the disk. They start when there is work, and end when there was none for a while. */
export class DiskThreads implements DiskPlace {
  readonly #nice: number | undefined;
  readonly #idleMs: number;
  readonly #idle: Idle[] = [];
  readonly #running = new Set<Promise<unknown>>();
  #closed = false;

  /** `nice` is what the threads give way with; as the process does if it is not said. */
  constructor(options?: { readonly nice?: number | undefined; readonly idleMs?: number | undefined }) {
    this.#nice = options?.nice;
    this.#idleMs = options?.idleMs ?? IDLE_MS;
  }

  async ask<K extends keyof DiskJobs>(
    job: K,
    request: DiskJobs[K]['request'],
    signal: AbortSignal,
  ): Promise<DiskJobs[K]['answer']> {
    if (this.#closed) throw new BerthError('cancelled', `${job}: the daemon is stopping`);
    const cancelled = new Int32Array(new SharedArrayBuffer(4));
    const cancel = (): void => void Atomics.store(cancelled, 0, 1);
    if (signal.aborted) cancel();
    signal.addEventListener('abort', cancel, { once: true });
    const work = this.#ask({ job, request, cancelled } as DiskRequest);
    this.#running.add(work);
    try {
      return await work;
    } finally {
      this.#running.delete(work);
      signal.removeEventListener('abort', cancel);
    }
  }

  /** Waits for the jobs that run, and ends the threads. */
  async close(): Promise<void> {
    this.#closed = true;
    await Promise.allSettled(this.#running);
    await Promise.all(
      this.#idle.splice(0).map(({ thread, timer }) => {
        clearTimeout(timer);
        return thread.end();
      }),
    );
  }

  async #ask(message: DiskRequest): Promise<DiskJobs[keyof DiskJobs]['answer']> {
    const thread = this.#takeIdle() ?? new DiskThread(this.#nice);
    const answer = await thread.ask(message);
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

/** One thread and the job that it is at. It keeps the process alive only while there is one. */
class DiskThread {
  readonly #worker: Worker;
  #job: { readonly name: string; readonly settle: PromiseWithResolvers<DiskAnswer> } | undefined;
  hasEnded = false;

  constructor(nice: number | undefined) {
    this.#worker = new Worker(workerUrl, {
      name: 'berth-disk',
      workerData: nice,
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
