import { join } from 'node:path';
import type { Duplex } from 'node:stream';

import type { Logger } from '../base/log.ts';
import type { Processes } from '../proc/processes.ts';
import type { NamespaceMaker } from '../sys/namespaces.ts';
import { Attaches, type AttachTarget } from './attach.ts';
import { Bundles } from './bundle.ts';
import type { ClientStreams } from './client-streams.ts';
import { type ExecResult, Execs } from './exec.ts';
import { canJoin, type Joinable, type JoinTarget } from './exec-join.ts';
import type { ExecRequest } from './exec-process.ts';
import { ExitWatch } from './exit-watch.ts';
import type { Handler } from './handler.ts';
import { prepareLogFile } from './log-path.ts';
import { reopenLog } from './log-reopen.ts';
import { Monitor, type MonitoredContainer } from './monitor.ts';
import { type DumpRequest, OciRuntime, type OciState } from './oci-runtime.ts';
import type { OciResources, OciSpec } from './oci-spec.ts';
import { type ForwardTarget, PortForwards } from './port-forward.ts';
import type { ProcessIdentity } from './process-identity.ts';
import { letGo } from './runc-state.ts';
import type { SealedPrograms } from './sealed-programs.ts';
import { SeccompFilters } from './seccomp-filters.ts';
import { ensureWorkingDir } from './working-dir.ts';

/** What the runtime room is built from. */
export interface ContainerRuntimeDeps {
  /** The state folder, on tmpfs. */
  readonly stateDir: string;
  /** conmon. */
  readonly monitorPath: string;
  /** The program of native/exec-monitor.c. */
  readonly execMonitorPath: string;
  /** The program of native/exec-join.c. */
  readonly execJoinPath: string;
  /** The program of native/filter-reader.c. */
  readonly filterReaderPath: string;
  readonly systemdCgroup: boolean;
  readonly processes: Processes;
  readonly programs: Pick<SealedPrograms, 'pathOf' | 'readonlyPathOf'>;
  readonly namespaces: Pick<NamespaceMaker, 'openSocket'>;
  readonly log: Logger;
}

/** A container that shall be made. Its root filesystem is mounted at spec.root.path. */
export interface CreateContainerRequest {
  readonly containerId: string;
  readonly spec: OciSpec;
  readonly handler: Handler;
  /** Absolute, or '' for none. */
  readonly logFile: string;
  readonly stdin: boolean;
  readonly stdinOnce: boolean;
  /** Called with the monitor's pid while the runtime works, to move it to the pod's cgroup; it may take its time. */
  onMonitorStarted?(pid: number): Promise<void> | void;
}

/** A container for startContainer(). */
export interface CreatedContainer {
  readonly id: string;
  readonly init: ProcessIdentity | undefined;
  /** See plainState(). */
  readonly runcState?: string | undefined;
}

/** A command for execSync() or exec(). */
export interface ExecCommand {
  readonly containerId: string;
  readonly handler: Handler;
  readonly args: readonly string[];
  /** How the command can come into the container without its runtime; undefined where it cannot. */
  readonly joinable: JoinTarget | undefined;
  /** Called when the command's process is about to be moved between cgroups, where that may go fast. */
  expectMoves(): void;
}

/** A container for attach(). */
export type AttachRequest = Omit<AttachTarget, 'socket' | 'window'>;

/**
 * Containers as processes: bundle, monitor, OCI runtime, exec and exits put together. It knows no records; ids and
 * handlers come from the caller.
 */
export class ContainerRuntime {
  readonly bundles: Bundles;
  readonly exits: ExitWatch;
  readonly #monitor: Monitor;
  readonly #execs: Execs;
  readonly #filters: SeccompFilters;
  readonly #attaches: Attaches;
  readonly #forwards: PortForwards;
  readonly #processes: Processes;

  constructor(deps: ContainerRuntimeDeps) {
    const exitsDir = join(deps.stateDir, 'exits');
    this.bundles = new Bundles(deps.stateDir);
    this.exits = new ExitWatch(exitsDir, deps.log);
    this.#monitor = new Monitor({ ...deps, path: deps.monitorPath, exitsDir });
    this.#execs = new Execs(deps);
    this.#filters = new SeccompFilters(deps);
    this.#attaches = new Attaches(deps);
    this.#forwards = new PortForwards(deps.namespaces);
    this.#processes = deps.processes;
  }

  /** Begins to watch for exits. Set exits.onExit first. */
  start(): void {
    this.exits.start();
  }

  /** Stops watching, and waits for the commands' ends: whoever began them has aborted them. Containers go on. */
  async close(): Promise<void> {
    this.exits.close();
    this.#attaches.close();
    await this.#execs.idle();
  }

  /**
   * Makes a container's bundle, log file and working directory, and creates it under a monitor. On an error nothing is
   * left but the log file, its cgroup, and the working directory.
   */
  async create(request: CreateContainerRequest, signal: AbortSignal): Promise<MonitoredContainer> {
    this.#execs.prepare();
    const { containerId, spec, handler, logFile } = request;
    const bundle = this.bundles.write(containerId, spec);
    try {
      ensureWorkingDir(spec.root.path, spec.process.cwd, rootOnHost(spec));
      if (logFile !== '') prepareLogFile(logFile);
      const tty = spec.process.terminal;
      const command = spec.process.args[0] ?? '';
      const wanted = canJoin(handler, spec) ? this.#filters.missing(spec, handler) : undefined;
      const made = await this.#monitor.create({ ...request, bundle, tty, command, restoreFrom: '' }, signal);
      if (wanted) await this.#filters.learn(wanted, made.init, signal);
      return made;
    } catch (err) {
      this.forget(containerId);
      throw err;
    }
  }

  /** Makes a container's bundle, for restore(). On an error nothing is left. */
  prepareRestore(containerId: string, spec: OciSpec): void {
    try {
      this.bundles.write(containerId, spec);
    } catch (err) {
      this.forget(containerId);
      throw err;
    }
  }

  /** Has a prepared container go on from a dump under a monitor: it runs when this returns. */
  async restore(
    request: CreateContainerRequest,
    restoreFrom: string,
    signal: AbortSignal,
  ): Promise<MonitoredContainer> {
    const { containerId, spec, logFile } = request;
    if (logFile !== '') prepareLogFile(logFile);
    const monitored = { ...request, bundle: this.bundles.paths(containerId), tty: spec.process.terminal, restoreFrom };
    return await this.#monitor.create({ ...monitored, command: spec.process.args[0] ?? '' }, signal);
  }

  /** Stops all processes of a running container until resumeContainer(). */
  async pauseContainer(handler: Handler, containerId: string, signal: AbortSignal): Promise<void> {
    await this.#oci(handler).pause(containerId, signal);
  }

  /** Lets a paused container go on. One that is not paused, or gone, is fine. */
  async resumeContainer(handler: Handler, containerId: string, signal: AbortSignal): Promise<void> {
    await this.#oci(handler).resume(containerId, signal);
  }

  /** Dumps a running container's processes, which go on. */
  async checkpointContainer(
    handler: Handler,
    containerId: string,
    dump: DumpRequest,
    signal: AbortSignal,
  ): Promise<void> {
    await this.#oci(handler).checkpoint(containerId, dump, signal);
  }

  /** Starts a created container's program; a plain one's (plainState()) without a program of the runtime's. */
  async startContainer(handler: Handler, container: CreatedContainer, signal: AbortSignal): Promise<void> {
    const { id, init, runcState } = container;
    if (runcState !== undefined && init && (await letGo(runcState, init, signal))) return;
    await this.#oci(handler).start(id, signal);
  }

  /** Changes the limits of a created or running container; toOciResources() makes them. */
  async updateContainer(
    handler: Handler,
    containerId: string,
    resources: OciResources,
    signal: AbortSignal,
  ): Promise<void> {
    await this.#oci(handler).update(containerId, resources, signal);
  }

  /**
   * Kills what is left of a container and removes all that the OCI runtime keeps of it. An unknown one is fine, and so
   * is a second time. forget() removes the rest, once the monitor has ended.
   */
  async deleteContainer(handler: Handler, containerId: string, signal: AbortSignal): Promise<void> {
    this.endExecs(containerId);
    await this.#oci(handler).delete(containerId, { force: true }, signal);
  }

  /**
   * Removes a container's bundle and exit; the log stays. Call it when the monitor has ended, which writes to both.
   * Safe to repeat.
   */
  forget(containerId: string): void {
    this.bundles.remove(containerId);
    this.exits.remove(containerId);
  }

  /** What the OCI runtime itself says about a container; undefined when it knows none. */
  async findState(handler: Handler, containerId: string, signal: AbortSignal): Promise<OciState | undefined> {
    return await this.#oci(handler).findState(containerId, signal);
  }

  /** Runs a command in a running container to its end, `timeoutMs` 0 is no limit; see Execs.run() for what it throws. */
  async execSync(command: ExecCommand, timeoutMs: number, signal: AbortSignal): Promise<ExecResult> {
    return await this.#execs.run(this.#execRequest(command), timeoutMs, signal);
  }

  /** Runs a command with a client's streams and returns its exit code; see Execs.stream() for what it throws. */
  async exec(command: ExecCommand, tty: boolean, streams: ClientStreams, signal: AbortSignal): Promise<number> {
    return await this.#execs.stream(this.#execRequest(command), tty, streams, signal);
  }

  /** Connects a client with a created or running container's own streams; see Attaches.attach() for what it throws. */
  async attach(request: AttachRequest, streams: ClientStreams, signal: AbortSignal): Promise<void> {
    const { attach: socket, window } = this.bundles.paths(request.containerId);
    await this.#attaches.attach({ ...request, socket, window }, streams, signal);
  }

  /** Connects a client with a port inside of a sandbox; see PortForwards.forward() for what it throws. */
  async forwardPort(target: ForwardTarget, client: Duplex, signal: AbortSignal): Promise<void> {
    await this.#forwards.forward(target, client, signal);
  }

  /** Ends all commands that still run in a container; call it when the container has ended. */
  endExecs(containerId: string): void {
    this.#execs.end(containerId);
    this.#attaches.end(containerId);
  }

  /** Breaks all connections into a sandbox; call it when it stops. */
  endForwards(sandboxId: string): void {
    this.#forwards.end(sandboxId);
  }

  /** Has the container's output go to a new file after the old one was renamed; returns when it does. */
  async reopenLog(containerId: string, logFile: string, monitorPid: number, signal: AbortSignal): Promise<void> {
    const { control } = this.bundles.paths(containerId);
    await reopenLog({ containerId, control, logFile, monitorPid }, signal);
  }

  #execRequest(command: ExecCommand): ExecRequest {
    const { containerId, handler } = command;
    const spec = this.bundles.readSpec(containerId);
    const joinable = command.joinable && canJoin(handler, spec) && this.#withFilter(command.joinable, handler, spec);
    return {
      ...command,
      process: spec.process,
      joinable: joinable || undefined,
      bundle: this.bundles.paths(containerId),
    };
  }

  /** Undefined while the filter that commands are held to is not known. */
  #withFilter(target: JoinTarget, handler: Handler, { linux }: OciSpec): Joinable | undefined {
    const filter = linux.seccomp ? this.#filters.find(linux.seccomp, handler) : 'none';
    return filter && { ...target, filter };
  }

  #oci(handler: Handler): OciRuntime {
    return new OciRuntime(handler, this.#processes);
  }
}

/** Whom the container's root is on the host. */
function rootOnHost({ linux }: OciSpec): { uid: number; gid: number } {
  const hostIdOf = (mappings: OciSpec['linux']['uidMappings']): number =>
    mappings?.find(({ containerID }) => containerID === 0)?.hostID ?? 0;
  return { uid: hostIdOf(linux.uidMappings), gid: hostIdOf(linux.gidMappings) };
}
