import { closeSync, openSync, readFileSync } from 'node:fs';

import { raceSignal, withDeadline } from '../base/deadline.ts';
import { BerthError, invalid, wrap } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import type { ChildProcess } from '../proc/command.ts';
import type { Processes } from '../proc/processes.ts';
import { closeFd } from '../sys/at.ts';
import { createPipe } from '../sys/pipe.ts';
import { killProcessGroup } from '../sys/process.ts';
import type { BundlePaths } from './bundle.ts';
import type { Handler } from './handler.ts';
import { LineReader } from './line-reader.ts';
import { globalArgs, OciRuntime } from './oci-runtime.ts';
import { findNamedIn, identify, type ProcessIdentity } from './process-identity.ts';
import { limitAdvice, refusedLimit, runtimeMessage, saysNoCommand } from './runtime-output.ts';
import type { SealedPrograms } from './sealed-programs.ts';

/** What a monitor is started for. The bundle is written, the log file is there. */
export interface MonitorRequest {
  readonly containerId: string;
  readonly bundle: BundlePaths;
  readonly handler: Handler;
  /** Absolute path of the CRI log, '' for none. */
  readonly logFile: string;
  readonly stdin: boolean;
  readonly stdinOnce: boolean;
  readonly tty: boolean;
  /** The folder of a dump that the container shall go on from, in place of a new program; '' for none. */
  readonly restoreFrom: string;
  /** The program to run, for messages. */
  readonly command: string;
  /** Called with the monitor's pid while the runtime works, to move it to the pod's cgroup; it may take its time. */
  onMonitorStarted?(pid: number): Promise<void> | void;
}

/** A created container: its first process waits for `start`, its monitor for its end. */
export interface MonitoredContainer {
  readonly init: ProcessIdentity;
  readonly monitor: ProcessIdentity;
}

/** Two minutes is when the kubelet gives up on a request. */
const CREATE_TIMEOUT_MS = 120_000;
const CLEANUP_TIMEOUT_MS = 10_000;
/** How long a monitor that has failed is given to leave by itself. */
const FAREWELL_MS = 2_000;
/** sockaddr_un's path, less the name that conmon adds to TMPDIR for its console socket. */
const LONGEST_TMPDIR = 107 - '/conmon-term.XXXXXX'.length;

/**
 * Starts conmon, one per container: it holds the container's output and outlives the daemon. conmon(8); the pipes'
 * protocol is in conmon's src/conmon.c and src/parent_pipe_fd.c.
 */
export class Monitor {
  readonly #path: string;
  readonly #exitsDir: string;
  readonly #tmpDir: string;
  readonly #systemdCgroup: boolean;
  readonly #processes: Processes;
  readonly #programs: Pick<SealedPrograms, 'pathOf'>;
  readonly #log: Logger;

  constructor(deps: {
    readonly path: string;
    readonly stateDir: string;
    readonly exitsDir: string;
    readonly systemdCgroup: boolean;
    readonly processes: Processes;
    readonly programs: Pick<SealedPrograms, 'pathOf'>;
    readonly log: Logger;
  }) {
    this.#path = deps.path;
    this.#exitsDir = deps.exitsDir;
    this.#tmpDir = deps.stateDir.length <= LONGEST_TMPDIR ? deps.stateDir : '/tmp';
    this.#systemdCgroup = deps.systemdCgroup;
    this.#processes = deps.processes;
    this.#programs = deps.programs;
    this.#log = deps.log;
  }

  /**
   * Creates a container under a monitor of its own. Throws `invalid` when its program is not in the image, otherwise
   * the runtime's own words; on any error neither process nor runtime state is left, while cgroup, bundle and log stay
   * for the caller to remove.
   */
  async create(request: MonitorRequest, signal: AbortSignal): Promise<MonitoredContainer> {
    using deadline = withDeadline(`create container ${request.containerId}`, CREATE_TIMEOUT_MS, signal);
    const { launcher, answers } = await this.#spawn(request, deadline);
    try {
      const monitor = await this.#awaitMonitor(request, launcher, deadline);
      // Side by side: a move to another cgroup can take as long as the runtime does.
      const [pid] = await Promise.all([
        this.#readAnswer(request, answers, deadline),
        request.onMonitorStarted?.(monitor.pid),
      ]);
      const init = identify(pid);
      if (!init) throw this.#failure(request, 'its first process has ended at once');
      return { init, monitor };
    } catch (err) {
      await this.#cleanUp(request, launcher);
      throw err;
    } finally {
      answers.close();
    }
  }

  async #spawn(request: MonitorRequest, signal: AbortSignal): Promise<{ launcher: ChildProcess; answers: LineReader }> {
    const sync = createPipe();
    let output: number | undefined;
    try {
      output = openSync(request.bundle.monitorLog, 'a', 0o600);
      const launcher = await this.#processes.start(
        {
          path: this.#path,
          args: this.#args(request),
          env: { PATH: DAEMON_PATH, TMPDIR: this.#tmpDir, _OCI_SYNCPIPE: '3' },
          cwd: request.bundle.folder,
          stdin: 'ignore',
          stdout: output,
          stderr: output,
          extraFds: [sync.writeFd],
        },
        signal,
      );
      return { launcher, answers: new LineReader(sync.readFd) };
    } catch (err) {
      closeFd(sync.readFd);
      throw wrap(`start monitor ${this.#path}`, err);
    } finally {
      closeFd(sync.writeFd);
      if (output !== undefined) closeSync(output);
    }
  }

  #args({ containerId, bundle, handler, logFile, stdin, stdinOnce, tty, restoreFrom }: MonitorRequest): string[] {
    return [
      ...['--cid', containerId, '--cuuid', containerId],
      ...['--runtime', this.#programs.pathOf(handler), '--bundle', bundle.folder, '--persist-dir', bundle.folder],
      ...['--container-pidfile', bundle.pidFile, '--conmon-pidfile', bundle.monitorPidFile],
      ...['--log-path', logFile === '' ? 'null' : `k8s-file:${logFile}`],
      ...['--exit-dir', this.#exitsDir],
      // Its sockets lie in the bundle, however long that path is: conmon binds them through /proc/self/fd.
      '--full-attach',
      // fsync at the end of each container would delay the news of its exit; no other runtime syncs logs.
      '--no-sync-log',
      ...(tty ? ['--terminal'] : []),
      ...(stdin ? ['--stdin'] : []),
      ...(stdin && !stdinOnce ? ['--leave-stdin-open'] : []),
      ...(restoreFrom !== '' ? ['--restore', restoreFrom] : []),
      ...(this.#systemdCgroup ? ['--systemd-cgroup'] : []),
      ...globalArgs(handler).map((arg) => `--runtime-arg=${arg}`),
    ];
  }

  /** The launcher forks the monitor, writes down its pid, and leaves. */
  async #awaitMonitor(request: MonitorRequest, launcher: ChildProcess, signal: AbortSignal): Promise<ProcessIdentity> {
    const { exitCode } = await raceSignal(launcher.exited, signal);
    if (exitCode !== 0) throw this.#failure(request, '');
    const monitor = findNamedIn(request.bundle.monitorPidFile, request.containerId);
    if (!monitor) throw this.#failure(request, '');
    return monitor;
  }

  async #readAnswer(request: MonitorRequest, answers: LineReader, signal: AbortSignal): Promise<number> {
    const line = await answers.next(signal);
    const { value, message } = line === undefined ? { value: -1, message: '' } : parseAnswer(line);
    if (value > 0) return value;
    throw this.#failure(request, runtimeMessage(message));
  }

  #failure({ containerId, bundle, handler, command }: MonitorRequest, message: string): BerthError {
    const what = message || readMonitorLog(bundle.monitorLog) || 'it gave no reason';
    if (saysNoCommand(what)) return invalid('config.command', `${command} cannot be run in the image: ${what}`);
    const limit = refusedLimit(what);
    if (limit !== undefined) return invalid(`config.linux.resources.${limit}`, what + limitAdvice(limit));
    return new BerthError('internal', `${handler.name} create ${containerId}: ${what}`);
  }

  async #cleanUp(request: MonitorRequest, launcher: ChildProcess): Promise<void> {
    const { containerId, bundle, handler } = request;
    using signal = withDeadline(`clean up after container ${containerId}`, CLEANUP_TIMEOUT_MS);
    try {
      await this.#endLauncher(launcher, signal);
      const monitor = findNamedIn(bundle.monitorPidFile, containerId);
      if (monitor) {
        // With it goes the runtime that is creating, and its hooks, which nobody would end.
        killProcessGroup(monitor.pid, monitor.startTime);
        await this.#processes.exitOf(monitor.pid, monitor.startTime, signal);
      }
      await new OciRuntime(handler, this.#processes).delete(containerId, { force: true }, signal);
    } catch (err) {
      throw wrap(`clean up after failed creation of container ${containerId}`, err);
    }
  }

  // Left alone first: killed between its fork and its last write, it would hide the monitor that it has forked.
  async #endLauncher(launcher: ChildProcess, signal: AbortSignal): Promise<void> {
    using farewell = withDeadline(`end of ${this.#path}`, FAREWELL_MS, signal);
    try {
      await raceSignal(launcher.exited, farewell);
    } catch {
      this.#log.warn({ pid: launcher.pid }, 'monitor hangs before it has started anything; killing it');
      launcher.kill('SIGKILL');
      await raceSignal(launcher.exited, signal);
    }
  }
}

/** What monitors find their programs in: Berth's own environment is not theirs. */
export const DAEMON_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/**
 * Parses one line of conmon's answer: `{"pid": 42}` for a creation, `{"data": 0}` for an exec of API version 1, with
 * `"message"` when something went wrong. Throws `internal` for anything else.
 */
export function parseAnswer(line: string): { value: number; message: string } {
  try {
    const answer: unknown = JSON.parse(line);
    if (typeof answer === 'object' && answer !== null) {
      const { pid, data }: { pid?: unknown; data?: unknown } = answer;
      const value = pid ?? data;
      const message = 'message' in answer && typeof answer.message === 'string' ? answer.message : '';
      if (typeof value === 'number' && Number.isInteger(value)) return { value, message };
    }
  } catch {
    // Told below, with what it was.
  }
  throw new BerthError('internal', `monitor answered ${JSON.stringify(line.slice(0, 200))}`);
}

function readMonitorLog(file: string): string {
  try {
    return runtimeMessage(readFileSync(file, 'utf8').slice(0, 10_000));
  } catch {
    return '';
  }
}
