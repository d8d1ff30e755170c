import { existsSync, rmSync } from 'node:fs';
import { join } from 'node:path';

import { BerthError, wrap } from '../base/errors.ts';
import type { CommandResult } from '../proc/command.ts';
import type { Processes } from '../proc/processes.ts';
import type { Handler } from './handler.ts';
import type { OciResources } from './oci-spec.ts';
import { limitAdvice, refusedLimit, runtimeMessage, saysNoContainer } from './runtime-output.ts';

/** A runtime's verbs take milliseconds; on a machine that swaps, seconds. */
const VERB_TIMEOUT_MS = 60_000;

export type OciStatus = 'creating' | 'created' | 'running' | 'paused' | 'stopped';

/** Where a dump goes, and how long it may take. Both folders exist. */
export interface DumpRequest {
  readonly images: string;
  readonly work: string;
  readonly timeoutMs: number;
}

/** What a runtime knows of a container. */
export interface OciState {
  readonly status: OciStatus;
  /** 0 when it has no process. */
  readonly pid: number;
}

/**
 * The command line that the OCI runtime specification gives every runtime, for one handler. Creation and exec are not
 * here: they need a monitor (src/runtime/monitor.ts, exec.ts).
 */
export class OciRuntime {
  readonly #handler: Handler;
  readonly #processes: Pick<Processes, 'run'>;

  constructor(handler: Handler, processes: Pick<Processes, 'run'>) {
    this.#handler = handler;
    this.#processes = processes;
  }

  /** Starts the program of a created container. Throws `notFound` for an unknown one, `precondition` in other states. */
  async start(containerId: string, signal: AbortSignal): Promise<void> {
    const result = await this.#run('start', [containerId], signal);
    if (result.exitCode === 0) return;
    const message = runtimeMessage(result.stderr.toString());
    if (/cannot start|already (running|started)|not running|exec fifo/i.test(message)) {
      throw new BerthError('precondition', this.#text('start', containerId, message));
    }
    throw this.#error('start', containerId, result);
  }

  /** Removes what the runtime keeps of a container; `force` kills it first. An unknown container is fine. */
  async delete(containerId: string, options: { readonly force: boolean }, signal: AbortSignal): Promise<void> {
    const args = options.force ? ['--force', containerId] : [containerId];
    const result = await this.#run('delete', args, signal);
    const isUnknown = result.exitCode !== 0 && saysNoContainer(runtimeMessage(result.stderr.toString()));
    if (result.exitCode !== 0 && !isUnknown) throw this.#error('delete', containerId, result);
    const folder = join(this.#handler.root, containerId);
    if (!existsSync(folder)) return;
    // Whoever believed it would forget the container, and nobody would ask for its end again.
    if (!isUnknown)
      throw new BerthError('internal', this.#text('delete', containerId, 'it said that it has, and has not'));
    // A runtime that was killed had just begun to keep something.
    rmSync(folder, { recursive: true, force: true });
  }

  /** What the runtime knows of a container; undefined when it knows none. */
  async findState(containerId: string, signal: AbortSignal): Promise<OciState | undefined> {
    const result = await this.#run('state', [containerId], signal);
    if (result.exitCode !== 0 && saysNoContainer(runtimeMessage(result.stderr.toString()))) return undefined;
    this.#check('state', containerId, result);
    try {
      return parseState(result.stdout.toString());
    } catch (err) {
      throw wrap(this.#text('state', containerId, 'answer makes no sense'), err);
    }
  }

  /**
   * Changes the limits of a created or running container. Throws `precondition` when the kernel refuses a limit because
   * of what the container uses, `invalid` when it makes no sense of one.
   */
  async update(containerId: string, resources: OciResources, signal: AbortSignal): Promise<void> {
    const stdin = JSON.stringify(resources);
    const result = await this.#run('update', ['--resources', '-', containerId], signal, stdin);
    if (result.exitCode === 0) return;
    const message = runtimeMessage(result.stderr.toString());
    const limit = refusedLimit(message);
    if (limit === undefined) throw this.#error('update', containerId, result);
    const kind = /busy|current usage/i.test(message) ? 'precondition' : 'invalid';
    throw new BerthError(kind, `linux.${limit}: ${this.#text('update', containerId, message)}${limitAdvice(limit)}`);
  }

  /** Stops all processes of a running container until resume(). */
  async pause(containerId: string, signal: AbortSignal): Promise<void> {
    this.#check('pause', containerId, await this.#run('pause', [containerId], signal));
  }

  /** Lets a paused container go on. One that is not paused, or gone, is fine. */
  async resume(containerId: string, signal: AbortSignal): Promise<void> {
    const result = await this.#run('resume', [containerId], signal);
    if (result.exitCode === 0) return;
    const state = await this.findState(containerId, signal);
    if (state?.status === 'paused') throw this.#error('resume', containerId, result);
  }

  /** Dumps a running container's processes into `images` and lets them go on (criu(8)); its logs go to `work`. */
  async checkpoint(containerId: string, { images, work, timeoutMs }: DumpRequest, signal: AbortSignal): Promise<void> {
    const args = ['--image-path', images, '--work-path', work, '--leave-running', containerId];
    this.#check('checkpoint', containerId, await this.#run('checkpoint', args, signal, undefined, timeoutMs));
  }

  async #run(
    verb: string,
    args: readonly string[],
    signal: AbortSignal,
    stdin?: string,
    timeoutMs = VERB_TIMEOUT_MS,
  ): Promise<CommandResult> {
    const { path, name } = this.#handler;
    return await this.#processes.run(
      {
        path,
        args: [...globalArgs(this.#handler), verb, ...args],
        timeoutMs,
        errand: { of: 'runtime', handler: name, verb },
        // Its hooks end with it when it is given up.
        newSession: true,
        ...(stdin !== undefined ? { stdin } : {}),
      },
      signal,
    );
  }

  #check(verb: string, containerId: string, result: CommandResult): void {
    if (result.exitCode !== 0) throw this.#error(verb, containerId, result);
  }

  #error(verb: string, containerId: string, result: CommandResult): BerthError {
    const message = runtimeMessage(result.stderr.toString()) || `exit code ${result.exitCode} and no message`;
    return new BerthError(saysNoContainer(message) ? 'notFound' : 'internal', this.#text(verb, containerId, message));
  }

  #text(verb: string, containerId: string, message: string): string {
    return `${this.#handler.name} ${verb} ${containerId}: ${message}`;
  }
}

/** What comes before the verb on every call of a handler's runtime. */
export function globalArgs(handler: Pick<Handler, 'root'>): string[] {
  return [`--root=${handler.root}`, '--log-format=json'];
}

/** Parses the JSON of the `state` verb. Throws an Error that says what is wrong. */
export function parseState(text: string): OciState {
  const state: unknown = JSON.parse(text);
  if (typeof state !== 'object' || state === null || !('status' in state)) throw new Error('it has no status');
  const pid = 'pid' in state && typeof state.pid === 'number' ? state.pid : 0;
  switch (state.status) {
    case 'creating':
    case 'created':
    case 'running':
    case 'paused':
    case 'stopped':
      return { status: state.status, pid };
    default:
      throw new Error(`unknown status ${JSON.stringify(state.status)}`);
  }
}
