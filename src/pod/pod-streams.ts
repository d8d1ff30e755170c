import { BerthError } from '../base/errors.ts';
import type { ContainerId } from '../base/ids.ts';
import type { ClientStreams } from '../runtime/client-streams.ts';
import type { PodDeps } from './pod-deps.ts';
import type { ContainerRecord } from './records.ts';

/** What a client runs in a container. */
export interface ExecOptions {
  readonly command: readonly string[];
  readonly tty: boolean;
}

/** The parts of PodDeps that streams need. */
export interface StreamDeps extends Pick<PodDeps, 'containers' | 'runtime'> {
  readonly handlers: Pick<PodDeps['handlers'], 'get'>;
}

/**
 * What runs in pods with a client's live streams. The checks are for when a client asks for an address to connect to;
 * the rest for when it has connected, and is checked again then. The signal of each aborts when the client leaves.
 */
export class PodStreams {
  readonly #deps: StreamDeps;
  readonly #shutdown: AbortSignal;

  constructor(deps: StreamDeps, shutdown: AbortSignal) {
    this.#deps = deps;
    this.#shutdown = shutdown;
  }

  /** The container that `id` begins, when commands can be run in it. Throws `notFound`, `precondition`. */
  checkExec(id: string): { containerId: ContainerId } {
    return { containerId: this.#getInState(id, 'running').id };
  }

  /**
   * Runs a command and returns its exit code, 128+n for signal n, when the client has taken all its output. Throws
   * `invalid` when there is no such command, `precondition` when the container does not run or ends meanwhile, the
   * signal's reason when the client leaves; the command is then gone, with all that it has started.
   */
  async exec(id: string, options: ExecOptions, streams: ClientStreams, signal: AbortSignal): Promise<number> {
    const record = this.#getInState(id, 'running');
    const handler = this.#deps.handlers.get(record.handler);
    const command = { containerId: record.id, handler, args: options.command };
    return await this.#deps.runtime.exec(command, streams, AbortSignal.any([signal, this.#shutdown]));
  }

  #getInState(id: string, ...states: readonly ContainerRecord['state'][]): ContainerRecord {
    const record = this.#deps.containers.getByPrefix(id);
    if (record.state === 'creating') throw new BerthError('notFound', `container ${record.id} is still being made`);
    if (states.includes(record.state)) return record;
    throw new BerthError('precondition', `container ${record.id} is ${record.state}, not ${states.join(' or ')}`);
  }
}
