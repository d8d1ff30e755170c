import { join } from 'node:path';
import type { Duplex } from 'node:stream';

import { BerthError, invalid } from '../base/errors.ts';
import type { ContainerId, SandboxId } from '../base/ids.ts';
import type { ClientStreams } from '../runtime/client-streams.ts';
import { type ExecCommandDeps, execCommand } from './exec-command.ts';
import type { PodDeps } from './pod-deps.ts';
import type { ContainerRecord, SandboxRecord } from './records.ts';
import { sandboxPaths } from './sandbox-files.ts';

/** What a client runs in a container. */
export interface ExecOptions {
  readonly command: readonly string[];
  readonly tty: boolean;
}

const LAST_PORT = 65_535;

/** The parts of PodDeps that streams need. */
export interface StreamDeps
  extends ExecCommandDeps,
    Pick<PodDeps, 'stateDir' | 'sandboxDir' | 'sandboxes' | 'containers' | 'runtime'> {
  readonly processes: Pick<PodDeps['processes'], 'exitOf'>;
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
    const command = execCommand(this.#deps, record, options.command);
    return await this.#deps.runtime.exec(command, options.tty, streams, AbortSignal.any([signal, this.#shutdown]));
  }

  /**
   * The container that `id` begins, when its own streams can be joined. Throws `notFound`, `precondition`, and `invalid`
   * when the client believes that it has a terminal and it has none, or the other way round.
   */
  checkAttach(id: string, { tty }: { readonly tty: boolean }): { containerId: ContainerId } {
    return { containerId: this.#getAttachable(id, tty).id };
  }

  /**
   * Joins a client to the container's own streams until the container ends, the client's input ends, or the client
   * leaves: Attaches.attach() in src/runtime/attach.ts has the details and what it throws. The container goes on.
   */
  async attach(
    id: string,
    { tty }: { readonly tty: boolean },
    streams: ClientStreams,
    signal: AbortSignal,
  ): Promise<void> {
    const { id: containerId, spec, init } = this.#getAttachable(id, tty);
    const { stdin, stdinOnce } = spec;
    const ended = async (until: AbortSignal): Promise<void> => {
      if (init) await this.#deps.processes.exitOf(init.pid, init.startTime, until);
    };
    await this.#deps.runtime.attach(
      { containerId, stdin, stdinOnce, tty, ended },
      streams,
      AbortSignal.any([signal, this.#shutdown]),
    );
  }

  /** The sandbox that `id` begins, when its ports can be connected to. Throws `notFound`, `precondition`. */
  checkPortForward(id: string): { sandboxId: SandboxId } {
    return { sandboxId: this.#getReady(id).id };
  }

  /**
   * Connects a client to a port inside of a ready sandbox, on the host for one on the host's network. Returns when both
   * sides have ended. PortForwards.forward() in src/runtime/port-forward.ts tells what it throws and when it destroys
   * the client.
   */
  async portForward(id: string, port: number, client: Duplex, signal: AbortSignal): Promise<void> {
    if (!Number.isInteger(port) || port < 1 || port > LAST_PORT) throw invalid('port', `${port} is no port`);
    const { id: sandboxId, spec } = this.#getReady(id);
    const isOwn = spec.security.namespaces.network === 'pod';
    const netns = isOwn ? join(sandboxPaths(this.#deps, sandboxId).namespaces, 'net') : undefined;
    const either = AbortSignal.any([signal, this.#shutdown]);
    await this.#deps.runtime.forwardPort({ sandboxId, netns, port }, client, either);
  }

  #getAttachable(id: string, tty: boolean): ContainerRecord {
    const record = this.#getInState(id, 'created', 'running');
    if (record.spec.tty === tty) return record;
    throw invalid('tty', `container ${record.id} ${tty ? 'has no terminal' : 'has a terminal'}`);
  }

  #getReady(id: string): SandboxRecord {
    const record = this.#deps.sandboxes.getByPrefix(id);
    if (record.state === 'creating') throw new BerthError('notFound', `sandbox ${record.id} is still being made`);
    if (record.state === 'ready') return record;
    throw new BerthError('precondition', `sandbox ${record.id} is ${record.state}, not ready`);
  }

  #getInState(id: string, ...states: readonly ContainerRecord['state'][]): ContainerRecord {
    const record = this.#deps.containers.getByPrefix(id);
    if (record.state === 'creating') throw new BerthError('notFound', `container ${record.id} is still being made`);
    if (states.includes(record.state)) return record;
    throw new BerthError('precondition', `container ${record.id} is ${record.state}, not ${states.join(' or ')}`);
  }
}
