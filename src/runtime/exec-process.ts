import { randomBytes } from 'node:crypto';
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { raceSignal, sleep, withDeadline } from '../base/deadline.ts';
import { BerthError, describe, invalid, isKind, wrap } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import type { ChildProcess } from '../proc/command.ts';
import type { Processes } from '../proc/processes.ts';
import { closeFd } from '../sys/at.ts';
import { createSocketPair } from '../sys/pipe.ts';
import { type BundlePaths, EXEC_FILE_PREFIX } from './bundle.ts';
import { canExecute, type Joinable, joinArgs, joinEnv, openInit } from './exec-join.ts';
import type { Handler } from './handler.ts';
import { LineReader } from './line-reader.ts';
import { DAEMON_PATH } from './monitor.ts';
import { processJson } from './oci-json.ts';
import { globalArgs } from './oci-runtime.ts';
import type { OciProcess, OciRlimit } from './oci-spec.ts';
import { killMarked, newMark } from './process-tree.ts';
import { runtimeMessage, saysNoCommand, saysNoContainer } from './runtime-output.ts';
import type { SealedPrograms } from './sealed-programs.ts';

/** One command to run in a running container. */
export interface ExecRequest {
  readonly containerId: string;
  readonly bundle: BundlePaths;
  readonly handler: Handler;
  /** The container's own process section: environment, user, working directory and rights are taken from it. */
  readonly process: OciProcess;
  /** Undefined where only its runtime can bring a command into the container. */
  readonly joinable: Joinable | undefined;
  /** Called when the runtime is about to move a process between cgroups, where that may go fast. */
  expectMoves(): void;
  readonly args: readonly string[];
}

/** What is to run, and where: the request with the process section as it shall be, which execProcess() makes. */
export type ExecTarget = Omit<ExecRequest, 'args'>;

/** The command's own descriptors; they stay the caller's. 'ignore' is /dev/null. */
export interface ExecFds {
  readonly stdin: number | 'ignore';
  readonly stdout: number | 'ignore';
  readonly stderr: number | 'ignore';
  /** Where the runtime connects to hand over the terminal's master; only for a process with a terminal. */
  readonly consoleSocket?: string;
}

/** What an exec works with. */
export interface ExecDeps {
  /** The program of native/exec-monitor.c. */
  readonly execMonitorPath: string;
  /** The program of native/exec-join.c. */
  readonly execJoinPath: string;
  readonly processes: Processes;
  readonly programs: Pick<SealedPrograms, 'pathOf' | 'readonlyPathOf'>;
  readonly log: Logger;
}

/** Two minutes is when the kubelet gives up on a request. */
const START_TIMEOUT_MS = 120_000;
const KILL_TIMEOUT_MS = 30_000;
const KILL_AGAIN_MS = 50;
const LONGEST_LOG_BYTES = 10_000;

/** One command in a container, from its start until it has been reaped. native/exec-monitor.c tells how it is held. */
export class ExecProcess {
  readonly #deps: ExecDeps;
  readonly #target: ExecTarget;
  readonly #mark: number;
  readonly #files: ExecFiles;
  readonly #answers: LineReader;
  readonly #child: ChildProcess;

  private constructor(deps: ExecDeps, target: ExecTarget, held: HeldCommand) {
    this.#deps = deps;
    this.#target = target;
    this.#mark = held.mark;
    this.#files = held.files;
    this.#answers = new LineReader(held.answersFd);
    this.#child = held.child;
  }

  /**
   * Starts a command; also when the signal aborts meanwhile: started() tells of it then. Throws the signal's reason when
   * the monitor's disk hangs.
   */
  static async start(deps: ExecDeps, target: ExecTarget, fds: ExecFds, signal: AbortSignal): Promise<ExecProcess> {
    using limited = withDeadline(`start of a command in container ${target.containerId}`, START_TIMEOUT_MS, signal);
    const mark = newMark();
    const files = execFilesOf(target);
    const { ownFd, otherFd } = createSocketPair();
    try {
      using starter = joinStarter(deps, target, files) ?? runtimeStarter(deps, target, files, fds);
      const child = await deps.processes.start(
        {
          path: deps.execMonitorPath,
          args: [String(mark), String(target.process.oomScoreAdj ?? ''), files.pid, ...starter.command],
          env: starter.env,
          cwd: target.bundle.folder,
          stdin: fds.stdin,
          stdout: fds.stdout,
          stderr: fds.stderr,
          extraFds: [otherFd, ...starter.fds],
          newSession: true,
        },
        limited,
      );
      return new ExecProcess(deps, target, { mark, files, child, answersFd: ownFd });
    } catch (err) {
      closeFd(ownFd);
      removeExecFiles(files);
      throw isKind(err, 'precondition')
        ? err
        : wrap(`start a command in container ${target.containerId} by ${deps.execMonitorPath}`, err);
    } finally {
      closeFd(otherFd);
    }
  }

  /**
   * Waits until the command runs. Throws `invalid` when there is no such program, `precondition` when the container
   * does not run, the signal's reason; then the command, and all that it has started, has been killed.
   */
  async started(signal: AbortSignal): Promise<void> {
    using limited = withDeadline(`start of ${this.#name()}`, START_TIMEOUT_MS, signal);
    const { what } = await this.#answer(limited);
    if (what !== 'started') throw this.#startError();
  }

  /**
   * The exit code once the command has ended, 128+n for signal n; call it after started(). Throws the signal's reason;
   * then the command, and all that it has started, has been killed.
   */
  async ended(signal: AbortSignal): Promise<number> {
    const { what, value } = await this.#answer(signal);
    if (what === 'ended' && value >= 0) return value;
    throw new BerthError('internal', `${this.#name()}: its exit code is lost`);
  }

  /** Kills the command and all that it has started, and waits until they have been reaped. Ended already is fine. */
  async kill(): Promise<void> {
    using signal = withDeadline(`end of ${this.#name()}`, KILL_TIMEOUT_MS);
    const hasExited = this.#child.exited.then(() => true);
    try {
      // Again and again: it may have been about to start something, and ends by itself when nothing is left.
      for (;;) {
        await killMarked(this.#mark, this.#child.pid, this.#deps.processes, signal);
        if (await raceSignal(Promise.race([hasExited, sleep(KILL_AGAIN_MS, signal)]), signal)) return;
      }
    } catch (err) {
      this.#deps.log.error(
        { container: this.#target.containerId, err: describe(err) },
        isKind(err, 'permission')
          ? 'a command takes no signal from berthd and goes on: does its AppArmor profile allow any?'
          : 'a command survives SIGKILL: is it waiting for a disk?',
      );
      this.#child.kill('SIGKILL');
    }
  }

  /** Lets go of it; a command that still runs is killed by its monitor, without waiting. */
  close(): void {
    this.#answers.close();
    removeExecFiles(this.#files);
  }

  async #answer(signal: AbortSignal): Promise<{ what: string; value: number }> {
    try {
      const line = await this.#answers.next(signal);
      if (line === undefined) throw new BerthError('internal', `${this.#name()}: its monitor has died`);
      return parseExecAnswer(line);
    } catch (err) {
      await this.kill();
      throw err;
    }
  }

  #startError(): BerthError {
    const { containerId, handler, process } = this.#target;
    const silence = existsSync(handler.path) ? 'the runtime gave no reason' : `${handler.path} is not there any more`;
    const message = runtimeMessage(readLog(this.#files.log)) || silence;
    if (saysNoCommand(message)) return invalid('cmd', `${process.args[0]} cannot be run in the container: ${message}`);
    if (saysNoContainer(message) || /not running|stopped|paused/.test(message)) {
      return new BerthError('precondition', `container ${containerId} does not run: ${message}`);
    }
    return new BerthError('internal', `${handler.name} exec ${containerId}: ${message}`);
  }

  #name(): string {
    return `command in container ${this.#target.containerId}`;
  }
}

interface ExecFiles {
  readonly process: string;
  readonly pid: string;
  readonly log: string;
}

/** A command whose monitor runs. */
interface HeldCommand {
  readonly mark: number;
  readonly files: ExecFiles;
  readonly child: ChildProcess;
  readonly answersFd: number;
}

/** The process section for a command in a container. Throws `invalid` for an empty command. */
export function execProcess(own: OciProcess, args: readonly string[], terminal: boolean): OciProcess {
  if (args.length === 0 || args[0] === '') throw invalid('cmd', 'is empty');
  if (args.some((arg) => arg.includes('\0'))) throw invalid('cmd', 'has a NUL byte in it');
  const env = terminal && !own.env.some((entry) => entry.startsWith('TERM=')) ? [...own.env, 'TERM=xterm'] : own.env;
  return { ...own, args, env, terminal };
}

/** Parses a line of the exec monitor. Throws `internal` for anything that it does not say. */
export function parseExecAnswer(line: string): { what: string; value: number } {
  const [, what = '', value = ''] = /^([a-z]+) (-?\d{1,10})$/.exec(line) ?? [];
  if (what === '') throw new BerthError('internal', `exec monitor answered ${JSON.stringify(line.slice(0, 200))}`);
  return { what, value: Number(value) };
}

/** What brings a command into the container, below the monitor. */
interface Starter extends Disposable {
  readonly command: readonly string[];
  readonly env: Record<string, string>;
  /** From number 4 on. */
  readonly fds: readonly number[];
}

function execFilesOf({ bundle }: ExecTarget): ExecFiles {
  const name = join(bundle.folder, `${EXEC_FILE_PREFIX}${randomBytes(8).toString('hex')}`);
  return { process: `${name}.json`, pid: `${name}.pid`, log: `${name}.log` };
}

/** Undefined where the runtime has to do it. */
function joinStarter(deps: ExecDeps, target: ExecTarget, files: ExecFiles): Starter | undefined {
  const { containerId, joinable, process } = target;
  if (!joinable || !canExecute(process)) return undefined;
  // Not its own file: the container could write to it.
  const program = deps.programs.readonlyPathOf(deps.execJoinPath);
  if (program === undefined) return undefined;
  const pidfd = openInit(containerId, joinable.init);
  return {
    command: [program, ...joinArgs(containerId, joinable, process, files)],
    env: joinEnv(process),
    fds: [pidfd],
    [Symbol.dispose]: () => closeFd(pidfd),
  };
}

function runtimeStarter(deps: ExecDeps, target: ExecTarget, files: ExecFiles, fds: ExecFds): Starter {
  const { handler, process } = target;
  if (!process.rlimits.some(mayComeTooEarly)) target.expectMoves();
  writeFileSync(files.process, processJson(process), { mode: 0o600, flag: 'wx' });
  return {
    command: [deps.programs.pathOf(handler), ...runtimeArgs(target, files, fds)],
    env: { PATH: DAEMON_PATH },
    fds: [],
    [Symbol.dispose]: () => {},
  };
}

/**
 * True for a limit that is lost when the move between cgroups goes fast. `runc exec` of before 1.1.13 sets the limits of
 * the new process right after the move; if that is before Go starts in there, Go raises the soft limit on open files to
 * the hard one, and leaves it so (runc issue 4195).
 */
function mayComeTooEarly({ type, soft, hard }: OciRlimit): boolean {
  return type === 'RLIMIT_NOFILE' && soft < hard;
}

function removeExecFiles(files: ExecFiles): void {
  for (const file of [files.process, files.pid, files.log]) rmSync(file, { force: true });
}

function runtimeArgs({ containerId, handler }: ExecTarget, files: ExecFiles, { consoleSocket }: ExecFds): string[] {
  return [
    ...globalArgs(handler),
    // Its own words stay out of the command's stderr.
    `--log=${files.log}`,
    ...['exec', '--detach', '--pid-file', files.pid, '--process', files.process],
    ...(consoleSocket === undefined ? [] : ['--console-socket', consoleSocket]),
    containerId,
  ];
}

function readLog(file: string): string {
  try {
    return readFileSync(file, 'utf8').slice(0, LONGEST_LOG_BYTES);
  } catch {
    return '';
  }
}
