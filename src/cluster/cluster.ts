import { extname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';

import { describe } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import type { Notice, Notices } from '../base/notices.ts';
import type { FromThread, RuntimeClass, ThreadSettings, ToThread } from './messages.ts';

/** It runs as it is from source, and compiled. */
const workerUrl = new URL(`./cluster-worker${extname(fileURLToPath(import.meta.url))}`, import.meta.url);

/** What the thread may keep; a list of nodes is not among it, only this node and the RuntimeClasses. */
const HEAP_MIB = 192;
const FIRST_PAUSE_MS = 1_000;
const LONGEST_PAUSE_MS = 5 * 60_000;
/** A thread that lived so long has not failed at once. */
const STEADY_MS = 60_000;
/** Notices of a start, before the thread listens, and while it is started again. */
const WAITING = 100;

/** What Cluster needs. */
export interface ClusterParts extends ThreadSettings {
  readonly log: Logger;
  /** The addresses for pods that the cluster has given this node; at the start and when they change. */
  readonly onPodRanges: (ranges: readonly string[]) => void;
  readonly pauses?: { readonly firstMs: number };
}

/**
 * What Berth has to do with the cluster that its node is in. Pods never need it: while the API server is away, or the
 * kubeconfig is not there yet (kubeadm join writes it), everything else works, and it is tried again.
 */
export class Cluster implements Notices {
  readonly #parts: ClusterParts;
  readonly #waiting: Notice[] = [];
  #worker: Worker | undefined;
  #startedMs = 0;
  #pauseMs: number;
  #timer: NodeJS.Timeout | undefined;
  #isClosed = false;
  #isListening = false;
  /** By what does not work. */
  readonly #problems = new Map<string, string>();
  #classes: readonly RuntimeClass[] | undefined;

  constructor(parts: ClusterParts) {
    this.#parts = parts;
    this.#pauseMs = parts.pauses?.firstMs ?? FIRST_PAUSE_MS;
  }

  /** Begins to talk to the cluster; returns at once. */
  start(): void {
    const { kubeconfig, nodeName, sendEvents } = this.#parts;
    const workerData: ThreadSettings = { kubeconfig, nodeName, sendEvents };
    this.#startedMs = performance.now();
    this.#isListening = false;
    const worker = new Worker(workerUrl, {
      workerData,
      name: 'cluster',
      resourceLimits: { maxOldGenerationSizeMb: HEAP_MIB },
    });
    this.#worker = worker;
    worker.unref();
    worker.on('online', () => this.#listens());
    worker.on('message', (message: FromThread) => this.#received(message));
    worker.on('error', (err: unknown) => this.#ended(worker, describe(err)));
    worker.on('exit', () => this.#ended(worker, 'its thread has ended'));
  }

  /** The RuntimeClasses of the cluster; undefined as long as they are not known. */
  get runtimeClasses(): readonly RuntimeClass[] | undefined {
    return this.#classes;
  }

  /** What is wrong between here and the API server; '' for nothing. */
  get problem(): string {
    return [...this.#problems].map(([what, problem]) => `${what}: ${problem}`).join('; ');
  }

  tell(notice: Notice): void {
    if (!this.#parts.sendEvents || this.#isClosed) return;
    if (this.#isListening) this.#post(notice);
    else if (this.#waiting.length < WAITING) this.#waiting.push(notice);
  }

  /** Ends the thread; what has not been sent is not sent any more. */
  async close(): Promise<void> {
    this.#isClosed = true;
    clearTimeout(this.#timer);
    await this.#worker?.terminate();
  }

  #listens(): void {
    this.#isListening = true;
    for (const notice of this.#waiting.splice(0)) this.#post(notice);
  }

  #post(notice: Notice): void {
    const message: ToThread = { notice };
    this.#worker?.postMessage(message);
  }

  #received(message: FromThread): void {
    const { log, nodeName, onPodRanges } = this.#parts;
    this.#problems.delete(this.#parts.kubeconfig);
    switch (message.kind) {
      case 'podRanges':
        log.info({ node: nodeName, ranges: message.ranges }, 'the cluster has given this node addresses for pods');
        onPodRanges(message.ranges);
        return;
      case 'runtimeClasses':
        this.#classes = message.classes;
        return;
      case 'problem': {
        const { what, problem } = message;
        if (problem === '') this.#problems.delete(what);
        else this.#problems.set(what, problem);
        if (problem === '') log.info({ what }, 'the cluster answers again');
        else log.warn({ what, problem }, 'trouble with the cluster; it is tried again, and pods go on without');
      }
    }
  }

  #ended(worker: Worker, problem: string): void {
    if (this.#isClosed || this.#worker !== worker) return;
    this.#worker = undefined;
    this.#isListening = false;
    const { log, kubeconfig, pauses } = this.#parts;
    if (performance.now() - this.#startedMs > STEADY_MS) this.#pauseMs = pauses?.firstMs ?? FIRST_PAUSE_MS;
    if (problem !== this.#problems.get(kubeconfig))
      log.warn({ kubeconfig, problem }, 'the cluster cannot be used yet; it is tried again, and pods go on without');
    this.#problems.clear();
    this.#problems.set(kubeconfig, problem);
    this.#timer = setTimeout(() => this.start(), this.#pauseMs);
    this.#timer.unref();
    this.#pauseMs = Math.min(this.#pauseMs * 2, LONGEST_PAUSE_MS);
  }
}
