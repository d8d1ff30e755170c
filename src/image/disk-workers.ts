import { existsSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { availableParallelism } from 'node:os';

import { BerthError } from '../base/errors.ts';
import type { DiskJobs, DiskPlace } from './disk-jobs.ts';
import { DiskThreads } from './disk-threads.ts';
import { Slots } from './parallel.ts';
import { AbandonedJobError, LostJobError, NoDiskProcessError } from './running-disk-process.ts';

/** More at once than this do not make a disk faster. */
const MAX_AT_ONCE = 8;
/**
 * Of threads in this process. No more: they share the locks of malloc(3) and of the address space with the first thread,
 * and one that has such a lock and does not get a processor holds that up, whatever nice value it has.
 */
const NICE = 5;

/** Jobs that take long, or that read what strangers have made. The others are short, and begin without a process. */
const inProcess: ReadonlySet<keyof DiskJobs> = Object.freeze(
  new Set<keyof DiskJobs>(['unpack', 'extract', 'check', 'archive', 'digest', 'discard', 'sync']),
);

/** Work on the disk, away from the event loop: a bounded number of jobs at once, each where it belongs. */
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
  readonly #threads: DiskThreads;
  readonly #process: DiskPlace | undefined;
  readonly #running = new Set<Promise<unknown>>();
  readonly #closing = new AbortController();

  /** Without a `process`, which is closed with this, threads do all of it. */
  constructor(options?: {
    readonly threads?: number | undefined;
    readonly idleMs?: number | undefined;
    readonly process?: DiskPlace | undefined;
  }) {
    this.#slots = new Slots(options?.threads ?? Math.min(MAX_AT_ONCE, availableParallelism()));
    this.#threads = new DiskThreads({ nice: NICE, idleMs: options?.idleMs });
    this.#process = options?.process;
  }

  /** Says that a job will come soon, so that it need not wait for the start of a process. */
  prepare(): void {
    if (!this.#closing.signal.aborted) this.#process?.prepare?.();
  }

  /**
   * Does a job on a thread of its own, as soon as one is free. When the signal aborts, the job stops at its next step,
   * takes back what it made, and then the signal's reason is thrown. What follows a download waits for the network on
   * its thread, so it is refused with `cancelled` where it would take the last one. Throws a `LostJobError` when the
   * process that was at it ends, again and again.
   */
  async run<K extends keyof DiskJobs>(
    job: K,
    request: DiskJobs[K]['request'],
    signal?: AbortSignal,
  ): Promise<DiskJobs[K]['answer']> {
    signal?.throwIfAborted();
    const slots = this.#slotsFor(job);
    if (followsDownload(job, request) && slots.free < 2) {
      throw new BerthError('cancelled', `${job}: no thread is free to follow a download`);
    }
    const both = signal ? AbortSignal.any([signal, this.#closing.signal]) : this.#closing.signal;
    const work = slots.run(signal ?? new AbortController().signal, () => this.#ask(job, request, both));
    this.#running.add(work);
    try {
      return await work;
    } catch (err) {
      // Who has the job's folder must hear that somebody may still be at work in it.
      if (!(err instanceof AbandonedJobError)) signal?.throwIfAborted();
      throw err;
    } finally {
      this.#running.delete(work);
    }
  }

  /** How many jobs are being done, and how many wait. */
  load(): { readonly running: number; readonly waiting: number } {
    const slots = [this.#slots, this.#usageSlot, this.#archiveSlot, this.#checkSlot, this.#discardSlot];
    const waiting = slots.reduce((sum, { waiting }) => sum + waiting, 0);
    return { running: this.#running.size - waiting, waiting };
  }

  /** Cancels what can be cancelled, waits for the rest, and ends threads and process. */
  async close(): Promise<void> {
    this.#closing.abort(new BerthError('cancelled', 'the daemon is stopping'));
    await Promise.allSettled(this.#running);
    await Promise.all([this.#threads.close(), this.#process?.close()]);
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
    signal: AbortSignal,
  ): Promise<DiskJobs[K]['answer']> {
    if (this.#closing.signal.aborted) throw new BerthError('cancelled', `${job}: the daemon is stopping`);
    const process = inProcess.has(job) ? this.#process : undefined;
    if (!process) return await this.#askOne(this.#threads, job, request, signal);
    for (let alone = false; ; alone = true) {
      try {
        return await this.#askOne(process, job, request, signal, alone);
      } catch (err) {
        if (signal.aborted) throw err;
        // Better beside the first thread than not at all.
        if (err instanceof NoDiskProcessError) return await this.#askOne(this.#threads, job, request, signal);
        // What an archive's reader has got of it cannot be taken back. Nor is a job innocent that was alone.
        if (!(err instanceof LostJobError) || job === 'archive' || alone) throw err;
      }
    }
  }

  async #askOne<K extends keyof DiskJobs>(
    place: DiskPlace,
    job: K,
    request: DiskJobs[K]['request'],
    signal: AbortSignal,
    alone = false,
  ): Promise<DiskJobs[K]['answer']> {
    try {
      return await place.ask(job, request, signal, alone);
    } catch (err) {
      // A process that was lost, or a thread that ran out of memory, cannot take back what it made. Of a job that hangs
      // on the disk, whoever tried to would hang too: it is left to the next start.
      if (!(err instanceof AbandonedJobError)) await this.#takeBack(job, request, signal).catch(() => {});
      throw err;
    }
  }

  async #takeBack(
    job: keyof DiskJobs,
    request: DiskJobs[keyof DiskJobs]['request'],
    signal: AbortSignal,
  ): Promise<void> {
    const isUnpack = isOf('unpack', job, request);
    const beside = isUnpack ? [request.frame, request.implied] : [];
    for (const file of beside) if (file !== undefined) await rm(file, { force: true });
    if (!isUnpack && !isOf('extract', job, request)) return;
    if (existsSync(request.target)) await this.#threads.ask('remove', request.target, signal);
  }
}

function isOf<K extends keyof DiskJobs>(
  wanted: K,
  job: keyof DiskJobs,
  request: DiskJobs[keyof DiskJobs]['request'],
): request is DiskJobs[K]['request'] {
  return job === wanted && request !== undefined;
}

function followsDownload(job: keyof DiskJobs, request: DiskJobs[keyof DiskJobs]['request']): boolean {
  return isOf('unpack', job, request) && request.blob.arrival !== undefined;
}
