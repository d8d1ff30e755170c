import { randomBytes } from 'node:crypto';

import {
  type EventsV1Api,
  type EventsV1Event,
  PatchStrategy,
  setHeaderOptions,
  V1MicroTime,
} from '@kubernetes/client-node';

import type { Notice } from '../base/notices.ts';
import { problemOf, statusOf } from './watched.ts';

/** As event objects name whoever reports them: a name that is qualified by a domain. */
const CONTROLLER = 'berth.dev/berthd';
/** The API server takes notes of up to 1 KiB (events.k8s.io/v1, Event). */
const NOTE_BYTES = 1000;
/** How many events may be sent at once, and how often one more may follow: a node in trouble must not fill etcd. */
const BURST = 25;
const REFILL_MS = 12_000;
/** For how long the same again is one event with a higher count, and how often that count is sent. */
const SERIES_MS = 10 * 60_000;
const COUNT_EVERY_MS = 60_000;
const WAITING = 200;
const TRIES = 5;
const RETRY_MS = 2_000;

/** What the recorder needs. */
export interface RecorderParts {
  readonly api: Pick<EventsV1Api, 'createNamespacedEvent' | 'patchNamespacedEvent'>;
  readonly nodeName: string;
  /** What keeps events from the API server; '' when they get there again. */
  readonly onProblem: (problem: string) => void;
  readonly now?: () => number;
  readonly retryMs?: number;
}

interface Sent {
  readonly name: string;
  readonly namespace: string;
  count: number;
  lastMs: number;
  countSentMs: number;
  isCountDue: boolean;
}

/**
 * Makes Kubernetes events of notices. The same notice again within ten minutes raises the count of its event. Events
 * are sent one after the other; when there are too many, or the API server is away for long, they are dropped and the
 * number is told.
 */
export class EventRecorder {
  readonly #parts: RecorderParts;
  readonly #now: () => number;
  readonly #sent = new Map<string, Sent>();
  readonly #waiting: (() => Promise<void>)[] = [];
  readonly #closing = new AbortController();
  #tokens = BURST;
  #refilledMs: number;
  #dropped = 0;
  #problem = '';
  #work: Promise<void> | undefined;

  constructor(parts: RecorderParts) {
    this.#parts = parts;
    this.#now = parts.now ?? Date.now;
    this.#refilledMs = this.#now();
  }

  /** Takes a notice; it is sent as soon as those before it are. */
  record(notice: Notice): void {
    if (this.#closing.signal.aborted) return;
    const nowMs = this.#now();
    this.#forgetOld(nowMs);
    const key = JSON.stringify([notice.reason, notice.pod?.uid ?? '', notice.message]);
    const known = this.#sent.get(key);
    if (known) {
      this.#again(known, nowMs);
      return;
    }
    if (this.#waiting.length >= WAITING || !this.#takeToken(nowMs)) {
      this.#dropped += 1;
      this.#tell(`${this.#dropped} events were dropped: there were too many`);
      return;
    }
    const namespace = notice.pod?.namespace ?? 'default';
    const about = notice.pod?.name ?? this.#parts.nodeName;
    const name = `${about.slice(0, 200)}.${randomBytes(8).toString('hex')}`;
    this.#sent.set(key, { name, namespace, count: 1, lastMs: nowMs, countSentMs: nowMs, isCountDue: false });
    const body = eventOf(notice, { name, namespace, nodeName: this.#parts.nodeName, nowMs });
    this.#enqueue(async () => {
      await this.#parts.api.createNamespacedEvent({ namespace, body });
    });
  }

  /** Resolves when all that was taken has been sent, or given up. */
  async settled(): Promise<void> {
    await this.#work;
  }

  /** Sends nothing more. */
  async close(): Promise<void> {
    this.#closing.abort();
    this.#waiting.length = 0;
    await this.#work;
  }

  #again(sent: Sent, nowMs: number): void {
    sent.count += 1;
    sent.lastMs = nowMs;
    if (sent.isCountDue || nowMs - sent.countSentMs < COUNT_EVERY_MS) return;
    sent.isCountDue = true;
    this.#enqueue(async () => {
      sent.isCountDue = false;
      sent.countSentMs = this.#now();
      const series = { count: sent.count, lastObservedTime: new V1MicroTime(sent.lastMs) };
      await this.#parts.api.patchNamespacedEvent(
        { name: sent.name, namespace: sent.namespace, body: { series } },
        setHeaderOptions('Content-Type', PatchStrategy.MergePatch),
      );
    });
  }

  #enqueue(send: () => Promise<void>): void {
    this.#waiting.push(send);
    this.#work ??= this.#sendAll().finally(() => {
      this.#work = undefined;
    });
  }

  async #sendAll(): Promise<void> {
    for (let send = this.#waiting.shift(); send; send = this.#waiting.shift()) await this.#send(send);
  }

  async #send(send: () => Promise<void>): Promise<void> {
    for (let attempt = 1; ; attempt += 1) {
      try {
        await send();
        this.#tell('');
        return;
      } catch (err) {
        this.#tell(problemOf(err));
        // What is refused once will be refused again.
        const status = statusOf(err);
        const isRefused = status !== undefined && status < 500 && status !== 429;
        if (isRefused || attempt === TRIES || this.#closing.signal.aborted) return;
      }
      await pause((this.#parts.retryMs ?? RETRY_MS) * 2 ** (attempt - 1), this.#closing.signal);
    }
  }

  #takeToken(nowMs: number): boolean {
    const refills = Math.floor((nowMs - this.#refilledMs) / REFILL_MS);
    if (refills > 0) {
      this.#tokens = Math.min(BURST, this.#tokens + refills);
      this.#refilledMs += refills * REFILL_MS;
    }
    if (this.#tokens === 0) return false;
    this.#tokens -= 1;
    return true;
  }

  #forgetOld(nowMs: number): void {
    for (const [key, { lastMs }] of this.#sent) if (nowMs - lastMs > SERIES_MS) this.#sent.delete(key);
  }

  #tell(problem: string): void {
    if (problem === this.#problem) return;
    this.#problem = problem;
    this.#parts.onProblem(problem);
  }
}

function eventOf(
  { reason, message, pod }: Notice,
  { name, namespace, nodeName, nowMs }: { name: string; namespace: string; nodeName: string; nowMs: number },
): EventsV1Event {
  return {
    apiVersion: 'events.k8s.io/v1',
    kind: 'Event',
    metadata: { name, namespace },
    eventTime: new V1MicroTime(nowMs),
    reportingController: CONTROLLER,
    reportingInstance: nodeName.slice(0, 128),
    action: reason,
    reason,
    // Nodes are named by their name in place of their uid, as the kubelet does it: kubectl describe node looks for that.
    regarding: pod
      ? { apiVersion: 'v1', kind: 'Pod', namespace: pod.namespace, name: pod.name, uid: pod.uid }
      : { apiVersion: 'v1', kind: 'Node', name: nodeName, uid: nodeName },
    note: cut(message),
    type: reason === 'StorageRepaired' ? 'Normal' : 'Warning',
  };
}

function cut(message: string): string {
  const bytes = Buffer.from(message);
  return bytes.length <= NOTE_BYTES
    ? message
    : `${bytes
        .subarray(0, NOTE_BYTES)
        .toString()
        .replace(/\uFFFD$/, '')}…`;
}

async function pause(ms: number, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, ms);
  signal.addEventListener('abort', () => resolve(), { once: true });
  await promise;
  clearTimeout(timer);
}
