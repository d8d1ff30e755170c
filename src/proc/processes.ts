import { basename } from 'node:path';

import { raceSignal, withDeadline } from '../base/deadline.ts';
import { BerthError, kindOf } from '../base/errors.ts';
import type { FaultPoints } from '../base/fault-points.ts';
import type { Logger } from '../base/log.ts';
import type { Meter, Outcome } from '../base/meter.ts';
import { type Notices, silentNotices } from '../base/notices.ts';
import { silentTracing, type Tracing } from '../base/tracing.ts';
import { closeFd } from '../sys/at.ts';
import { type ExitStatus, pidfdExited, waitPidfd } from '../sys/pidfd.ts';
import { openProcess } from '../sys/process.ts';
import { type Child, startChild } from './child.ts';
import { type ChildProcess, type Command, type CommandResult, ExitError, type StartCommand } from './command.ts';
import { Output } from './output.ts';
import { Reaper } from './reaper.ts';

const OUTPUT_LIMIT_BYTES = 1024 * 1024;
const KILL_GRACE_MS = 1000;
/** How long a start is waited for that nobody wants any more: its program's disk may hang. */
const HANGING_START_MS = 10_000;
/** A descendant may hold the pipes open for ever; what the program itself wrote is in them when it ends. */
const LAST_OUTPUT_MS = 250;

/**
 * Starts all external processes of the daemon: each with a deadline, capped output and an end by SIGTERM, then
 * SIGKILL, after a while of its own where the command asks for one. Every child is reaped, whatever happens to the
 * caller.
 */
export class Processes {
  readonly #log: Logger;
  readonly #meter: Meter;
  readonly #notices: Notices;
  readonly #faults: FaultPoints | undefined;
  readonly #tracing: Tracing;
  readonly #onWork: () => void;
  readonly #children = new Map<number, Child>();
  readonly #starts = new Set<Promise<Child>>();
  /** Starts that are not done after ten seconds, with their programs. */
  readonly #hanging = new Map<Promise<Child>, string>();
  readonly #reaper = new Reaper();
  readonly #closing = new AbortController();

  /**
   * With `faults`, every process is a place where a test may disturb it: `process NAME`. `onWork` is told of the
   * beginning and the end of each; it must not throw.
   */
  constructor({
    log,
    meter,
    notices = silentNotices,
    faults,
    tracing = silentTracing,
    onWork = () => {},
  }: {
    log: Logger;
    meter: Meter;
    notices?: Notices;
    faults?: FaultPoints | undefined;
    tracing?: Tracing;
    onWork?: () => void;
  }) {
    this.#onWork = onWork;
    this.#tracing = tracing;
    this.#log = log;
    this.#meter = meter;
    this.#notices = notices;
    this.#faults = faults;
  }

  /**
   * Runs a command to its end; any exit code is a result. Throws `notFound` when the program is missing, `deadline`
   * after `timeoutMs`, the signal's reason when it aborts: the last two only when the process is gone, which with
   * `letFinishMs` takes that much longer. One that has not even started ten seconds later is killed as it starts; until
   * then further calls for its program throw `unavailable`.
   */
  async run(cmd: Command, signal: AbortSignal): Promise<CommandResult> {
    if (!this.#tracing.isRecording) return await this.#measured(cmd, signal);
    const program = basename(cmd.path);
    const name = cmd.errand ? `${program} ${cmd.errand.verb}` : program;
    return await this.#tracing.inSpan(name, { 'process.executable.name': program }, () => this.#measured(cmd, signal));
  }

  async #measured(cmd: Command, signal: AbortSignal): Promise<CommandResult> {
    const startedMs = performance.now();
    let outcome: Outcome = 'internal';
    let status: ExitStatus | undefined;
    try {
      const result = await this.#disturbed(cmd, signal, (program) => this.#run(program, signal, startedMs));
      status = result;
      if (result.exitCode === 0) outcome = 'ok';
      return result;
    } catch (err) {
      outcome = kindOf(err);
      // When a caller has lost patience earlier, that tells nothing about the program.
      if (outcome === 'deadline' && !signal.aborted) this.#tellHanging(cmd);
      throw err;
    } finally {
      this.#record(cmd, outcome, status, performance.now() - startedMs);
    }
  }

  /** As `run`, but throws an `ExitError` when the exit code is not 0. */
  async runOk(cmd: Command, signal: AbortSignal): Promise<CommandResult> {
    const result = await this.run(cmd, signal);
    if (result.exitCode !== 0) throw new ExitError(cmd.path, result);
    return result;
  }

  /**
   * Starts a process and leaves its streams to the caller, who ends it; also when the signal aborts as it starts. Throws
   * `notFound` when the program is missing. A program whose disk hangs is waited for until ten seconds after the abort:
   * then this throws the signal's reason, and as `run` until the program comes, and is killed.
   */
  async start(cmd: StartCommand, signal: AbortSignal): Promise<ChildProcess> {
    signal.throwIfAborted();
    const startedMs = performance.now();
    const child = await untilStarted(this.#startDisturbed(cmd, signal), signal);
    const record = (status: ExitStatus | undefined): void => {
      this.#record(cmd, status?.exitCode === 0 ? 'ok' : 'internal', status, performance.now() - startedMs);
    };
    child.exited.then(record, () => record(undefined));
    return child;
  }

  /**
   * Resolves when that very process has ended, at once when it is gone already. It need not be our child; one that came
   * to us when its parent died is reaped, what we started has its reaper. Throws the signal's reason.
   */
  async exitOf(pid: number, startTime: number, signal: AbortSignal): Promise<void> {
    const pidfd = openProcess(pid, startTime);
    if (pidfd === undefined) return;
    const child = this.#children.get(pid);
    try {
      await pidfdExited(pidfd, AbortSignal.any([signal, this.#closing.signal]));
      // Its exit code is wanted elsewhere; once that has been read, it does not matter who reaps it.
      if (child) await child.exited;
      else waitPidfd(pidfd);
    } finally {
      closeFd(pidfd);
    }
  }

  /** How many children run. */
  get running(): number {
    return this.#children.size;
  }

  /**
   * Ends all waits and what `run` and `start` have running, or are about to have; who has `letFinishMs` gets that long
   * to end by itself, and a start whose program's disk hangs is waited for ten seconds. Processes that they left behind
   * live on.
   */
  async close(): Promise<void> {
    this.#closing.abort(new BerthError('cancelled', 'the daemon is stopping'));
    const end = (child: Child): Promise<void> => child.abandon(KILL_GRACE_MS);
    // Whoever has asked for a start hears why there is none.
    using limited = withDeadline('programs that are being started', HANGING_START_MS);
    const starts = [...this.#starts].map(async (start) => {
      const child = await raceSignal(start, limited).catch(() => {
        void start.then((late) => late.discard()).catch(() => {});
        return undefined;
      });
      if (child) await end(child);
    });
    await Promise.allSettled([...starts, ...[...this.#children.values()].map(end)]);
    this.#reaper.close();
  }

  async #disturbed<T>(cmd: Command, signal: AbortSignal, run: (cmd: Command) => Promise<T>): Promise<T> {
    const faults = this.#faults;
    if (!faults) return await run(cmd);
    return await faults.around(placeOf(cmd), () => run(standIn(cmd, faults)), signal);
  }

  async #startDisturbed(cmd: StartCommand, signal: AbortSignal): Promise<Child> {
    const faults = this.#faults;
    if (!faults) return await this.#startOwned(cmd);
    const ended = AbortSignal.any([signal, this.#closing.signal]);
    return await faults.around(placeOf(cmd), () => this.#startOwned(standIn(cmd, faults)), ended);
  }

  async #run(cmd: Command, signal: AbortSignal, startedMs: number): Promise<CommandResult> {
    using limited = withDeadline(cmd.path, cmd.timeoutMs, AbortSignal.any([signal, this.#closing.signal]));
    limited.throwIfAborted();
    const input = typeof cmd.stdin === 'string' ? Buffer.from(cmd.stdin) : cmd.stdin;
    const { outputLimitBytes = OUTPUT_LIMIT_BYTES, killGraceMs = KILL_GRACE_MS, endAtLimit = false } = cmd;
    const starting = this.#startOwned({ ...cmd, stdin: 'ignore', stdout: 'pipe', stderr: 'pipe' }, input);
    const child = await untilStarted(starting, limited);
    const onLimit = endAtLimit ? () => void child.terminate(killGraceMs).catch(() => {}) : undefined;
    const outputs = [child.stdout, child.stderr].flatMap((stream) =>
      stream ? [new Output(stream, outputLimitBytes, stream === child.stdout ? onLimit : undefined)] : [],
    );
    try {
      const status = await untilExit(child, limited, killGraceMs);
      await allEnded(outputs, LAST_OUTPUT_MS);
      const [stdout = Buffer.alloc(0), stderr = Buffer.alloc(0)] = outputs.map((output) => output.bytes());
      const truncated = outputs.some((output) => output.truncated);
      return { ...status, stdout, stderr, truncated, durationMs: performance.now() - startedMs };
    } finally {
      child.stdin?.destroy();
      for (const output of outputs) output.close();
    }
  }

  /** Nobody calls a start off, so that whatever becomes of the caller its child is known here. */
  async #startOwned(cmd: StartCommand, input?: Uint8Array): Promise<Child> {
    this.#closing.signal.throwIfAborted();
    this.#refuseHanging(cmd.path);
    const start = startChild(cmd, this.#reaper, input);
    this.#starts.add(start);
    const hanging = setTimeout(() => this.#hanging.set(start, cmd.path), HANGING_START_MS).unref();
    try {
      const child = await start;
      this.#children.set(child.pid, child);
      this.#onWork();
      const disown = (): void => {
        this.#children.delete(child.pid);
        this.#onWork();
      };
      child.exited.then(disown, disown);
      return child;
    } finally {
      clearTimeout(hanging);
      this.#hanging.delete(start);
      this.#starts.delete(start);
    }
  }

  /** Each start that hangs keeps a thread of libuv's pool, of which berthd has eight for all that it does with files. */
  #refuseHanging(path: string): void {
    if (![...this.#hanging.values()].includes(path)) return;
    const problem = `${path} is not started: an earlier start of it hangs; does its disk answer (dmesg tells)? A restart of berthd tries again`;
    throw new BerthError('unavailable', problem);
  }

  #tellHanging({ path, timeoutMs }: Command): void {
    const message = `${path} did not end within ${timeoutMs / 1000} s`;
    this.#notices.tell({ reason: 'ProgramHanging', message });
  }

  #record(
    cmd: Pick<Command, 'path' | 'args' | 'errand'>,
    outcome: Outcome,
    status: ExitStatus | undefined,
    ms: number,
  ): void {
    const program = basename(cmd.path);
    this.#meter.process(program, outcome, ms / 1000);
    if (cmd.errand) this.#meter.errand(cmd.errand, outcome, ms / 1000);
    const exit = status ? { exitCode: status.exitCode } : {};
    this.#log.debug({ program, argCount: cmd.args.length, ...exit, outcome, ms: Math.round(ms) }, 'process ended');
  }
}

function placeOf({ path }: { readonly path: string }): string {
  return `process ${basename(path)}`;
}

/** The command, or what a test has run in its place. */
function standIn<C extends { readonly path: string; readonly args: readonly string[] }>(
  cmd: C,
  faults: FaultPoints,
): C {
  const script = faults.standIn(placeOf(cmd));
  return script === undefined ? cmd : { ...cmd, path: '/bin/sh', args: ['-c', script, 'sh', cmd.path, ...cmd.args] };
}

/**
 * The child, also when the signal has aborted meanwhile: its caller has it to end then. Throws the signal's reason when
 * it does not start at all.
 */
async function untilStarted(starting: Promise<Child>, signal: AbortSignal): Promise<Child> {
  try {
    return await raceSignal(starting, signal);
  } catch (err) {
    if (!signal.aborted) throw err;
    using patience = withDeadline('start of a process that nobody waits for', HANGING_START_MS);
    return await raceSignal(starting, patience).catch(() => {
      // What undoes its work may have run by then: it must not begin with it.
      void starting.then((child) => child.discard()).catch(() => {});
      throw err;
    });
  }
}

async function untilExit(child: Child, signal: AbortSignal, killGraceMs: number): Promise<ExitStatus> {
  try {
    return await raceSignal(child.exited, signal);
  } catch (err) {
    await child.abandon(killGraceMs);
    throw err;
  }
}

async function allEnded(outputs: readonly Output[], atMostMs: number): Promise<void> {
  const { promise: expired, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, atMostMs);
  await Promise.race([Promise.all(outputs.map((output) => output.ended)), expired]);
  clearTimeout(timer);
}
