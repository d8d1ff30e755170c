import { withDeadline } from '../base/deadline.ts';
import { BerthError } from '../base/errors.ts';
import { Output } from '../proc/output.ts';
import { closeFd } from '../sys/at.ts';
import { FdStream } from '../sys/fd-stream.ts';
import { createPipe } from '../sys/pipe.ts';
import type { BundlePaths } from './bundle.ts';
import type { ClientStreams } from './client-streams.ts';
import { type ExecDeps, ExecProcess, execProcess } from './exec-process.ts';
import { forwardInput, forwardOutput } from './forward.ts';
import type { Handler } from './handler.ts';
import type { OciProcess } from './oci-spec.ts';
import { raceSignal } from './race-signal.ts';

/** One command to run in a running container. */
export interface ExecRequest {
  readonly containerId: string;
  readonly bundle: BundlePaths;
  readonly handler: Handler;
  /** The container's own process section: environment, user, working directory and rights are taken from it. */
  readonly process: OciProcess;
  readonly args: readonly string[];
}

/** How a command ended. The output is cut at the CRI's cap. */
export interface ExecResult {
  /** 128+n for signal n. */
  readonly exitCode: number;
  readonly stdout: Buffer;
  readonly stderr: Buffer;
}

/** 16 MiB per stream, as the CRI demands of ExecSync; what comes after is read and dropped. */
const OUTPUT_LIMIT_BYTES = 16 * 1024 * 1024;
/** No pipe holds more, unless a privileged process makes it (pipe(7)). */
const LAST_OUTPUT_BYTES = 1024 * 1024;

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

  /**
   * Runs a command without input to its end. Throws `invalid` when it cannot be started, `deadline` after `timeoutMs`
   * (0: none), `precondition` when end() was called for its container, the signal's reason when it aborts; in each case
   * with the command and all that it started killed and reaped first.
   */
  async run(request: ExecRequest, timeoutMs: number, signal: AbortSignal): Promise<ExecResult> {
    return await this.#track(request.containerId, signal, async (parent) => {
      if (timeoutMs === 0) return await this.#collect(request, parent);
      using limited = withDeadline(`exec in container ${request.containerId}`, timeoutMs, parent);
      return await this.#collect(request, limited);
    });
  }

  /**
   * Runs a command with a client's streams to its end, and returns its exit code when the client has taken all that it
   * wrote. Throws as run() does; the signal's abort is the client's leave.
   */
  async stream(request: ExecRequest, streams: ClientStreams, signal: AbortSignal): Promise<number> {
    return await this.#track(request.containerId, signal, (parent) => this.#forward(request, streams, parent));
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

  async #track<T>(containerId: string, signal: AbortSignal, run: (parent: AbortSignal) => Promise<T>): Promise<T> {
    const stopped = new AbortController();
    const running = this.#running.get(containerId) ?? new Set();
    this.#running.set(containerId, running.add(stopped));
    const work = run(AbortSignal.any([signal, stopped.signal]));
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
    const exec = ExecProcess.start(this.#deps, target, { stdin: 'ignore', stdout: stdoutFd, stderr: stderrFd });
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

  async #forward(request: ExecRequest, client: ClientStreams, signal: AbortSignal): Promise<number> {
    signal.throwIfAborted();
    const target = { ...request, process: execProcess(request.process, request.args, false) };
    using pipes = new ExecPipes();
    const [stdin, stdinStream] = client.stdin ? pipes.input() : (['ignore', undefined] as const);
    const [stdout, stdoutStream] = client.stdout ? pipes.output() : (['ignore', undefined] as const);
    const [stderr, stderrStream] = client.stderr ? pipes.output() : (['ignore', undefined] as const);
    const exec = ExecProcess.start(this.#deps, target, { stdin, stdout, stderr });
    pipes.closeTheirs();
    try {
      await exec.started(signal);
      const outputs = [forwardOutput(stdoutStream, client.stdout), forwardOutput(stderrStream, client.stderr)];
      forwardInput(client.stdin, stdinStream);
      const exitCode = await exec.ended(signal);
      stdoutStream?.endWhenEmpty(LAST_OUTPUT_BYTES);
      stderrStream?.endWhenEmpty(LAST_OUTPUT_BYTES);
      await raceSignal(Promise.all(outputs), signal);
      return exitCode;
    } finally {
      exec.close();
    }
  }
}

/** The pipes of one command, and that none of their ends stays open. */
class ExecPipes implements Disposable {
  readonly #streams: FdStream[] = [];
  readonly #theirs: number[] = [];

  /** A pipe for the command's output: its end, and ours. */
  output(): [number, FdStream] {
    const { readFd, writeFd } = createPipe();
    return this.#own(writeFd, new FdStream(readFd, { readable: true }));
  }

  /** A pipe for the command's input: its end, and ours. */
  input(): [number, FdStream] {
    const { readFd, writeFd } = createPipe();
    return this.#own(readFd, new FdStream(writeFd, { writable: true }));
  }

  /** Closes the command's ends in this process; it has them by now. */
  closeTheirs(): void {
    for (let fd = this.#theirs.pop(); fd !== undefined; fd = this.#theirs.pop()) closeFd(fd);
  }

  [Symbol.dispose](): void {
    this.closeTheirs();
    for (const stream of this.#streams) stream.destroy();
  }

  #own(theirs: number, stream: FdStream): [number, FdStream] {
    this.#theirs.push(theirs);
    this.#streams.push(stream);
    return [theirs, stream];
  }
}
