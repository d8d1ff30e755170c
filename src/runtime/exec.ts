import { randomBytes } from 'node:crypto';
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Readable } from 'node:stream';

import { sleep, withDeadline } from '../base/deadline.ts';
import { BerthError, describe, invalid, wrap } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import type { ChildProcess } from '../proc/command.ts';
import { Output } from '../proc/output.ts';
import type { Processes } from '../proc/processes.ts';
import { closeFd } from '../sys/at.ts';
import { createPipe } from '../sys/pipe.ts';
import type { BundlePaths } from './bundle.ts';
import type { Handler } from './handler.ts';
import { LineReader } from './line-reader.ts';
import { DAEMON_PATH, parseAnswer } from './monitor.ts';
import { processJson } from './oci-json.ts';
import { globalArgs } from './oci-runtime.ts';
import type { OciProcess } from './oci-spec.ts';
import { killDescendants } from './process-tree.ts';
import { raceSignal } from './race-signal.ts';
import { runtimeMessage, saysNoCommand, saysNoContainer } from './runtime-output.ts';

/** One command to run in a running container. */
export interface ExecRequest {
  readonly containerId: string;
  readonly bundle: BundlePaths;
  readonly handler: Handler;
  /** The container's own process section: environment, user, working directory and rights are taken from it. */
  readonly process: OciProcess;
  readonly args: readonly string[];
  /** 0: none. */
  readonly timeoutMs: number;
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
/** Output that was written before the command ended is in the pipe already; only a process left behind holds it open. */
const LAST_OUTPUT_MS = 250;
const KILL_TIMEOUT_MS = 30_000;
const KILL_AGAIN_MS = 50;

/**
 * Runs commands in containers and waits for them. Each runs below a conmon of its own that lives as long as it: `runc
 * exec` by itself goes on for as long as anybody holds the command's output open, while conmon answers when the
 * command ends, and tells a command that failed from one that could not be started.
 */
export class Execs {
  readonly #monitorPath: string;
  readonly #processes: Processes;
  readonly #log: Logger;
  readonly #running = new Map<string, Set<AbortController>>();

  constructor(deps: { readonly monitorPath: string; readonly processes: Processes; readonly log: Logger }) {
    this.#monitorPath = deps.monitorPath;
    this.#processes = deps.processes;
    this.#log = deps.log;
  }

  /**
   * Runs a command to its end. Throws `invalid` when it cannot be started, `deadline` after `timeoutMs`, `precondition`
   * when end() was called for its container, the signal's reason when it aborts; in each case with the command and all
   * that it started killed first.
   */
  async run(request: ExecRequest, signal: AbortSignal): Promise<ExecResult> {
    const { containerId, timeoutMs } = request;
    const stopped = new AbortController();
    const running = this.#running.get(containerId) ?? new Set();
    this.#running.set(containerId, running.add(stopped));
    const parent = AbortSignal.any([signal, stopped.signal]);
    try {
      if (timeoutMs === 0) return await this.#run(request, parent);
      using limited = withDeadline(`exec in container ${containerId}`, timeoutMs, parent);
      return await this.#run(request, limited);
    } finally {
      running.delete(stopped);
      if (running.size === 0) this.#running.delete(containerId);
    }
  }

  /** Ends all commands that run in a container; call it when the container has ended. */
  end(containerId: string): void {
    for (const exec of this.#running.get(containerId) ?? []) {
      exec.abort(new BerthError('precondition', `container ${containerId} has ended, and the command in it with it`));
    }
  }

  async #run(request: ExecRequest, signal: AbortSignal): Promise<ExecResult> {
    signal.throwIfAborted();
    const files = writeExecFiles(request);
    const { child, answers } = this.#spawn(request, files);
    const stdout = collect(child.stdout);
    const stderr = collect(child.stderr);
    try {
      const exitCode = await this.#await(request, child, answers, signal);
      await lastOutput([stdout, stderr]);
      if (exitCode === undefined) throw startError(request, stderr.bytes().toString());
      return { exitCode, stdout: stdout.bytes(), stderr: stderr.bytes() };
    } finally {
      answers.close();
      stdout.close();
      stderr.close();
      rmSync(files.process, { force: true });
      rmSync(files.pid, { force: true });
    }
  }

  #spawn(request: ExecRequest, files: ExecFiles): { child: ChildProcess; answers: LineReader } {
    const sync = createPipe();
    try {
      const child = this.#processes.start({
        path: this.#monitorPath,
        args: execArgs(request, files),
        env: { PATH: DAEMON_PATH, _OCI_SYNCPIPE: '3' },
        cwd: request.bundle.folder,
        stdin: 'ignore',
        stdout: 'pipe',
        stderr: 'pipe',
        extraFds: [sync.writeFd],
      });
      return { child, answers: new LineReader(sync.readFd) };
    } catch (err) {
      closeFd(sync.readFd);
      throw wrap(`start monitor ${this.#monitorPath}`, err);
    } finally {
      closeFd(sync.writeFd);
    }
  }

  /** The command's exit code; undefined when it was never started. */
  async #await(
    request: ExecRequest,
    child: ChildProcess,
    answers: LineReader,
    signal: AbortSignal,
  ): Promise<number | undefined> {
    try {
      const first = await answers.next(signal);
      const wasStarted = first !== undefined && parseAnswer(first).value > 0;
      const last = wasStarted ? await answers.next(signal) : undefined;
      const { exitCode } = await raceSignal(child.exited, signal);
      if (!wasStarted) return undefined;
      return last === undefined ? exitCode : parseAnswer(last).value;
    } catch (err) {
      await this.#kill(request, child);
      throw err;
    }
  }

  async #kill({ containerId }: ExecRequest, child: ChildProcess): Promise<void> {
    using signal = withDeadline(`end of the command in container ${containerId}`, KILL_TIMEOUT_MS);
    try {
      // Again and again: it may have been about to start something, and ends by itself when nothing is left.
      for (;;) {
        await killDescendants(child.pid, this.#processes, signal);
        if (await raceSignal(Promise.race([child.exited.then(() => true), sleep(KILL_AGAIN_MS, signal)]), signal))
          return;
      }
    } catch (err) {
      this.#log.error(
        { container: containerId, err: describe(err) },
        'a command survives SIGKILL: is it waiting for a disk?',
      );
      child.kill('SIGKILL');
    }
  }
}

interface ExecFiles {
  readonly process: string;
  readonly pid: string;
}

/** The process section for a command in a container. Throws `invalid` for an empty command. */
export function execProcess(own: OciProcess, args: readonly string[], terminal: boolean): OciProcess {
  if (args.length === 0 || args[0] === '') throw invalid('cmd', 'is empty');
  if (args.some((arg) => arg.includes('\0'))) throw invalid('cmd', 'has a NUL byte in it');
  const env = terminal && !own.env.some((entry) => entry.startsWith('TERM=')) ? [...own.env, 'TERM=xterm'] : own.env;
  return { ...own, args, env, terminal };
}

function writeExecFiles({ bundle, process, args }: ExecRequest): ExecFiles {
  const id = randomBytes(8).toString('hex');
  const files = { process: join(bundle.folder, `exec-${id}.json`), pid: join(bundle.folder, `exec-${id}.pid`) };
  writeFileSync(files.process, processJson(execProcess(process, args, false)), { mode: 0o600, flag: 'wx' });
  return files;
}

function execArgs({ containerId, handler }: ExecRequest, files: ExecFiles): string[] {
  return [
    ...['--exec', '--exec-process-spec', files.process, '--api-version'],
    ...['--cid', containerId, '--cuuid', containerId],
    ...['--runtime', handler.path, '--container-pidfile', files.pid],
    // The command writes to our pipes itself, and conmon stays our child, so that nothing outlives the call.
    ...['--log-path', 'passthrough', '--sync', '--no-sync-log'],
    ...globalArgs(handler).map((arg) => `--runtime-arg=${arg}`),
  ];
}

function startError({ containerId, handler, args }: ExecRequest, output: string): BerthError {
  const message = runtimeMessage(output) || 'the runtime gave no reason';
  if (saysNoCommand(message)) return invalid('cmd', `${args[0]} cannot be run in the container: ${message}`);
  if (saysNoContainer(message) || /not running|stopped/.test(message)) {
    return new BerthError('precondition', `container ${containerId} does not run: ${message}`);
  }
  return new BerthError('internal', `${handler.name} exec ${containerId}: ${message}`);
}

/** What the command has written; of what a process that it left behind goes on to write, only the beginning. */
async function lastOutput(outputs: readonly Output[]): Promise<void> {
  const { promise: patienceOver, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, LAST_OUTPUT_MS);
  await Promise.race([Promise.all(outputs.map((output) => output.ended)), patienceOver]);
  clearTimeout(timer);
}

function collect(stream: Readable | undefined): Output {
  if (!stream) throw new BerthError('internal', 'a process was started without the pipes that were asked for');
  return new Output(stream, OUTPUT_LIMIT_BYTES);
}
