import { describe } from '../base/errors.ts';
import type { SandboxId } from '../base/ids.ts';
import type { PodDeps } from './pod-deps.ts';

/** Follows the pause processes: a sandbox whose pause has died is no longer ready, and its client must learn of it. */
export class SandboxWatch {
  readonly #deps: PodDeps;
  readonly #shutdown: AbortSignal;

  constructor(deps: PodDeps, shutdown: AbortSignal) {
    this.#deps = deps;
    this.#shutdown = shutdown;
  }

  /** Follows a ready sandbox's pause process until it ends. Call it once per sandbox and daemon. */
  follow(id: SandboxId): void {
    void this.#follow(id).catch((err: unknown) => {
      if (this.#shutdown.aborted) return;
      this.#deps.log.error({ sandbox: id, err: describe(err) }, 'lost sight of a pause process');
    });
  }

  async #follow(id: SandboxId): Promise<void> {
    const { sandboxes, processes, log } = this.#deps;
    const record = sandboxes.find(id);
    if (record?.state !== 'ready' || !record.pause) return;
    await processes.exitOf(record.pause.pid, record.pause.startTime, this.#shutdown);
    const now = sandboxes.find(id);
    // A stop has said so before it ended the pause.
    if (now?.state !== 'ready') return;
    sandboxes.putFact({ ...now, state: 'notReady', pause: undefined });
    this.#deps.runtime.endForwards(id);
    log.warn({ sandbox: id, pid: record.pause.pid }, 'pause process has died; the sandbox is not ready any more');
  }
}
