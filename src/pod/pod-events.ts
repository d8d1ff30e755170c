import type { UnixMicros } from '../base/clock.ts';
import { isVisible } from './filters.ts';
import type { PodDeps } from './pod-deps.ts';
import type { ContainerRecord, SandboxRecord } from './records.ts';

/** As many as CRI-O keeps for a subscriber. */
const MAX_WAITING_EVENTS = 1000;

/** What happened to a sandbox or container. */
export type PodEventType = 'created' | 'started' | 'stopped' | 'deleted';

/** Something happened in a pod, and how the whole pod is since then. */
export interface PodEvent {
  readonly type: PodEventType;
  /** Of the container, or of the sandbox itself. */
  readonly id: string;
  readonly atUs: UnixMicros;
  /** As it was last, when it is the sandbox that was deleted. */
  readonly sandbox: SandboxRecord;
  /** All that are there, newest first. */
  readonly containers: readonly ContainerRecord[];
}

/**
 * Tells subscribers what happens to pods, as it is written to the records. What no list shows has no events. A subscriber
 * that is slow misses the oldest, since the newest say how things are; it delays neither the pods nor other subscribers.
 */
export class PodEvents {
  readonly #deps: Pick<PodDeps, 'sandboxes' | 'containers' | 'clock' | 'meter'>;
  readonly #shutdown: AbortSignal;
  readonly #subscribers = new Set<EventQueue>();

  constructor(deps: Pick<PodDeps, 'sandboxes' | 'containers' | 'clock' | 'meter'>, shutdown: AbortSignal) {
    this.#deps = deps;
    this.#shutdown = shutdown;
    deps.sandboxes.watch((before, after) => this.#emit(sandboxEvents(before, after), after ?? before));
    deps.containers.watch((before, after) => this.#emit(containerEvents(before, after), after ?? before));
  }

  /**
   * What happens from the moment on when the first event is asked for, until `signal` aborts or berthd stops. What a
   * start finds ended comes here too; what happened while no berthd ran comes from a list.
   */
  async *subscribe(signal: AbortSignal): AsyncGenerator<PodEvent, void, undefined> {
    const ended = AbortSignal.any([signal, this.#shutdown]);
    const queue = new EventQueue(ended, () => this.#deps.meter.eventDropped());
    this.#subscribers.add(queue);
    try {
      for (let event = await queue.next(); event; event = await queue.next()) yield event;
    } finally {
      this.#subscribers.delete(queue);
    }
  }

  /** How many are told now. */
  get subscribers(): number {
    return this.#subscribers.size;
  }

  #emit(types: readonly PodEventType[], subject: SandboxRecord | ContainerRecord | undefined): void {
    if (!subject || types.length === 0 || this.#subscribers.size === 0) return;
    const { sandboxes, containers, clock } = this.#deps;
    const sandbox = 'sandboxId' in subject ? sandboxes.find(subject.sandboxId) : subject;
    if (!sandbox) return;
    const own = containers
      .all()
      .filter((container) => container.sandboxId === sandbox.id && isVisible(container))
      .sort((a, b) => b.createdAtUs - a.createdAtUs);
    for (const type of types) {
      const event = { type, id: subject.id, atUs: clock.nowUs(), sandbox, containers: own };
      for (const subscriber of this.#subscribers) subscriber.push(event);
    }
  }
}

/** What waits for one subscriber. */
class EventQueue {
  readonly #ended: AbortSignal;
  readonly #onDrop: () => void;
  readonly #events: PodEvent[] = [];
  #wake: () => void = () => {};

  constructor(ended: AbortSignal, onDrop: () => void) {
    this.#ended = ended;
    this.#onDrop = onDrop;
    ended.addEventListener('abort', () => this.#wake(), { once: true });
  }

  push(event: PodEvent): void {
    if (this.#events.length === MAX_WAITING_EVENTS) {
      this.#events.shift();
      this.#onDrop();
    }
    this.#events.push(event);
    this.#wake();
  }

  /** The oldest event, when there is one; undefined at the end. */
  async next(): Promise<PodEvent | undefined> {
    while (!this.#ended.aborted) {
      const event = this.#events.shift();
      if (event) return event;
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#wake = resolve;
      await promise;
    }
    return undefined;
  }
}

function sandboxEvents(before: SandboxRecord | undefined, after: SandboxRecord | undefined): PodEventType[] {
  const types: PodEventType[] = [];
  if (!isShown(before) && isShown(after)) types.push('created');
  if (before?.state !== 'ready' && after?.state === 'ready') types.push('started');
  if (isUp(before) && !isUp(after)) types.push('stopped');
  if (isShown(before) && !after) types.push('deleted');
  return types;
}

// A pod that is being stopped is not ready from the first moment on, but it has stopped only with its pause, after its
// containers: the kubelet's evented PLEG takes the last event of a pod for how it is.
function isUp(record: SandboxRecord | undefined): boolean {
  return (record?.state === 'ready' || record?.state === 'notReady') && record.pause !== undefined;
}

function containerEvents(before: ContainerRecord | undefined, after: ContainerRecord | undefined): PodEventType[] {
  const types: PodEventType[] = [];
  if (!isShown(before) && isShown(after)) types.push('created');
  if (before?.state !== 'running' && (after?.state === 'running' || hasEndedAtOnce(before, after)))
    types.push('started');
  // A removal by force may be faster than the news of the exit.
  if (before?.state !== 'exited' && (after?.state === 'exited' || (before?.state === 'running' && !after)))
    types.push('stopped');
  if (isShown(before) && !after) types.push('deleted');
  return types;
}

// A short program has ended before the runtime says that it runs.
function hasEndedAtOnce(before: ContainerRecord | undefined, after: ContainerRecord | undefined): boolean {
  if (before?.state !== 'created' || after?.state !== 'exited') return false;
  return after.startedAtUs !== undefined && after.exit?.reason !== 'StartError';
}

function isShown(record: SandboxRecord | ContainerRecord | undefined): boolean {
  return record !== undefined && isVisible(record);
}
