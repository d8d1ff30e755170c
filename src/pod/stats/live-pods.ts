import type { PodDeps } from '../pod-deps.ts';

/** Who has figures: running containers and ready sandboxes, as the records say it at this moment. */
export class LivePods {
  readonly #containers: PodDeps['containers'];
  readonly #containersOf = new Map<string, Set<string>>();
  readonly #ready = new Set<string>();
  /** Told of one that was live and is not any more. */
  onEnd: (id: string) => void = () => {};
  /** Told of a container whose record is gone. */
  onGone: (id: string) => void = () => {};
  #generation = 0;

  constructor({ containers, sandboxes }: Pick<PodDeps, 'containers' | 'sandboxes'>) {
    this.#containers = containers;
    for (const { id, sandboxId, state } of containers.all()) this.#setContainer(id, sandboxId, state === 'running');
    for (const { id, state } of sandboxes.all()) this.#setSandbox(id, state === 'ready');
    containers.watch((before, after) => {
      const record = after ?? before;
      if (!record) return;
      const wasLive = before?.state === 'running';
      const isLive = after?.state === 'running';
      if (wasLive !== isLive) this.#setContainer(record.id, record.sandboxId, isLive);
      if (wasLive && !isLive) this.onEnd(record.id);
      if (!after) this.onGone(record.id);
    });
    sandboxes.watch((before, after) => {
      const id = (after ?? before)?.id;
      const wasLive = before?.state === 'ready';
      const isLive = after?.state === 'ready';
      if (id === undefined || wasLive === isLive) return;
      this.#setSandbox(id, isLive);
      if (!isLive) this.onEnd(id);
    });
  }

  /** The ids of all running containers. */
  *containers(): Iterable<string> {
    for (const ids of this.#containersOf.values()) yield* ids;
  }

  /** The ids of the running containers of a sandbox. */
  containersOf(sandboxId: string): Iterable<string> {
    return this.#containersOf.get(sandboxId) ?? [];
  }

  /** The ids of all ready sandboxes. */
  sandboxes(): Iterable<string> {
    return this.#ready;
  }

  /** Another number whenever a sandbox has come or gone. */
  get generation(): number {
    return this.#generation;
  }

  /** Whether an id is that of a sandbox, or of a container of it, running or not. */
  isPartOf(id: string, sandboxId: string): boolean {
    return id === sandboxId || this.#containers.find(id)?.sandboxId === sandboxId;
  }

  #setContainer(id: string, sandboxId: string, isLive: boolean): void {
    const ids = this.#containersOf.get(sandboxId) ?? new Set();
    if (isLive) ids.add(id);
    else ids.delete(id);
    if (ids.size > 0) this.#containersOf.set(sandboxId, ids);
    else this.#containersOf.delete(sandboxId);
  }

  #setSandbox(id: string, isLive: boolean): void {
    this.#generation += 1;
    if (isLive) this.#ready.add(id);
    else this.#ready.delete(id);
  }
}
