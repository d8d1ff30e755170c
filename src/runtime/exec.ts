import { withDeadline } from '../base/deadline.ts';
import { BerthError } from '../base/errors.ts';
import { Output } from '../proc/output.ts';
import type { ClientStreams } from './client-streams.ts';
import { ExecPipes, LAST_OUTPUT_BYTES } from './exec-pipes.ts';
import { type ExecDeps, ExecProcess, type ExecRequest, execProcess } from './exec-process.ts';
import { streamPipes, streamTerminal } from './exec-stream.ts';

/** How a command ended. The output is cut at the CRI's cap. */
export interface ExecResult {
  /** 128+n for signal n. */
  readonly exitCode: number;
  readonly stdout: Buffer;
  readonly stderr: Buffer;
}

/** 16 MiB per stream, as the CRI demands of ExecSync; what comes after is read and dropped. */
const OUTPUT_LIMIT_BYTES = 16 * 1024 * 1024;

/**
 * Runs commands in containers and waits for them. A command writes to our pipes itself, and its end is its own: whatever
 * it leaves running may keep them open, and is not waited for.
 */
export class Execs {
  readonly #deps: ExecDeps;
  readonly #running = new Map<string, Set<AbortController>>();
  readonly #work = new Set<Promise<unknown>>();

  constructor(deps: ExecDeps) {
    this.#deps = deps;
  }

  /** Has made ready what commands start by, beside other work. */
  prepare(): void {
    this.#deps.programs.readonlyPathOf(this.#deps.execJoinPath);
  }

  /**
   * Runs a command without input to its end. Throws `invalid` when it cannot be started, `deadline` after `timeoutMs`
   * (0: none), `precondition` when end() was called for its container, the signal's reason when it aborts; in each case
   * with the command and all that it started killed and reaped first.
   */
  async run(request: ExecRequest, timeoutMs: number, signal: AbortSignal): Promise<ExecResult> {
    return await this.#track(request.containerId, async (stopped) => {
      const parent = AbortSignal.any([signal, stopped]);
      if (timeoutMs === 0) return await this.#collect(request, parent);
      using limited = withDeadline(`exec in container ${request.containerId}`, timeoutMs, parent);
      try {
        return await this.#collect(request, limited);
      } catch (err) {
        throw limited.aborted && !parent.aborted ? killedInTime(request, timeoutMs) : err;
      }
    });
  }

  /**
   * Runs a command with a client's streams, with a terminal between them if `tty` is set, and returns its exit code
   * when the client has taken all that it wrote. Throws as run() does; the signal's abort is the client's leave.
   */
  async stream(request: ExecRequest, tty: boolean, streams: ClientStreams, signal: AbortSignal): Promise<number> {
    return await this.#track(request.containerId, (stopped) => {
      const run = tty ? streamTerminal : streamPipes;
      return run(this.#deps, request, streams, { client: signal, stopped });
    });
  }

  /** Ends all commands that run in a container; call it when the container has ended. */
  end(containerId: string): void {
    for (const exec of this.#running.get(containerId) ?? []) {
      exec.abort(new BerthError('precondition', `container ${containerId} has ended, and the command in it with it`));
    }
  }

  /** Resolves when no command is left; whoever calls it has aborted their signals. */
  async idle(): Promise<void> {
    await Promise.allSettled(this.#work);
  }

  async #track<T>(containerId: string, run: (stopped: AbortSignal) => Promise<T>): Promise<T> {
    const stopped = new AbortController();
    const running = this.#running.get(containerId) ?? new Set();
    this.#running.set(containerId, running.add(stopped));
    const work = run(stopped.signal);
    this.#work.add(work);
    try {
      return await work;
    } finally {
      this.#work.delete(work);
      running.delete(stopped);
      if (running.size === 0) this.#running.delete(containerId);
    }
  }

  async #collect(request: ExecRequest, signal: AbortSignal): Promise<ExecResult> {
    signal.throwIfAborted();
    const target = { ...request, process: execProcess(request.process, request.args, false) };
    using pipes = new ExecPipes();
    const [stdoutFd, stdoutStream] = pipes.output();
    const [stderrFd, stderrStream] = pipes.output();
    const fds = { stdin: 'ignore', stdout: stdoutFd, stderr: stderrFd } as const;
    const exec = await ExecProcess.start(this.#deps, target, fds, signal);
    pipes.closeTheirs();
    try {
      const stdout = new Output(stdoutStream, OUTPUT_LIMIT_BYTES);
      const stderr = new Output(stderrStream, OUTPUT_LIMIT_BYTES);
      await exec.started(signal);
      const exitCode = await exec.ended(signal);
      for (const stream of [stdoutStream, stderrStream]) stream.endWhenEmpty(LAST_OUTPUT_BYTES);
      await Promise.all([stdout.ended, stderr.ended]);
      return { exitCode, stdout: stdout.bytes(), stderr: stderr.bytes() };
    } finally {
      exec.close();
    }
  }
}

/** In place of the deadline's own words, which do not say what became of the command. */
function killedInTime({ containerId }: ExecRequest, timeoutMs: number): BerthError {
  return new BerthError(
    'deadline',
    `exec in container ${containerId}: the command was killed after ${timeoutMs / 1000} s`,
  );
}
