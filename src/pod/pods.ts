import { join } from 'node:path';

import { raceSignal } from '../base/deadline.ts';
import { BerthError, describe } from '../base/errors.ts';
import type { SandboxId } from '../base/ids.ts';
import { InFlight } from '../base/in-flight.ts';
import type { ContainerSpec, LinuxResources } from '../runtime/container-spec.ts';
import type { ExecResult } from '../runtime/exec.ts';
import { removeLeftCopies } from '../runtime/left-copies.ts';
import { readMounts } from '../sys/mount.ts';
import { ContainerExits } from './container-exits.ts';
import { execSync, reopenLog } from './container-operations.ts';
import type { ContainerContext } from './create-container.ts';
import {
  type ContainerFilter,
  matchesContainer,
  matchesSandbox,
  newestFirst,
  type SandboxFilter,
  visible,
} from './filters.ts';
import { POD_INTERFACE } from './names.ts';
import { PodCreations } from './pod-creations.ts';
import type { PodDeps } from './pod-deps.ts';
import type { ContainerRecord, SandboxRecord } from './records.ts';
import { removeContainer } from './remove-container.ts';
import { removeSandbox } from './remove-sandbox.ts';
import { networkProblem } from './run-sandbox.ts';
import type { SandboxSpec } from './sandbox-spec.ts';
import { SandboxWatch } from './sandbox-watch.ts';
import { startContainer } from './start-container.ts';
import { ContainerStops } from './stop-container.ts';
import { stopSandbox } from './stop-sandbox.ts';
import {
  type PodResources,
  podResources,
  updateContainerResources,
  updateSandboxResources,
} from './update-resources.ts';

/**
 * Pods as the server sees them: the lifecycle verbs, and lists. Ids may be given by a unique beginning. Work that was
 * begun goes on when the client that asked for it leaves; `shutdown` ends it.
 */
export class Pods {
  readonly #deps: PodDeps;
  readonly #shutdown: AbortSignal;
  readonly #exits: ContainerExits;
  readonly #stops: ContainerStops;
  readonly #watch: SandboxWatch;
  readonly #work = new InFlight<unknown>();
  readonly #creations: PodCreations;
  #asked = 0;

  constructor(deps: PodDeps, shutdown: AbortSignal) {
    this.#deps = deps;
    this.#shutdown = shutdown;
    this.#exits = new ContainerExits(deps, shutdown);
    this.#stops = new ContainerStops(deps, this.#exits, shutdown);
    this.#watch = new SandboxWatch(deps, shutdown);
    const hooks = {
      onSandbox: ({ id }: SandboxRecord) => this.#watch.follow(id),
      onContainer: ({ id, restoreFrom }: ContainerRecord) => {
        // One that shall be restored has no process yet.
        if (!restoreFrom) this.#exits.follow(id);
      },
      clearSandbox: async ({ id }: SandboxRecord, signal: AbortSignal) => await this.#removeSandbox(id, signal),
    };
    this.#creations = new PodCreations(deps, hooks, shutdown);
  }

  /**
   * Follows the processes of sandboxes and containers that were there before this daemon; reconcile has adopted them.
   * `orphansGone` are sandboxes without a record that could not be ended: what they have of the network stays theirs.
   */
  start(orphansGone: Promise<readonly string[]>): void {
    const { sandboxes, containers, runtime } = this.#deps;
    runtime.exits.onExit = (id, exit) => this.#exits.onExitFile(id, exit);
    for (const sandbox of sandboxes.all()) this.#watch.follow(sandbox.id);
    this.#exits.lookAtGap();
    for (const container of containers.all()) if (!container.restoreFrom) this.#exits.follow(container.id);
    runtime.start();
    // Beside the first requests: a plugin that hangs must not keep berthd from serving.
    void this.#work.join('free networks', this.#shutdown, () => this.#freeNetworks(orphansGone)).catch(() => {});
    void this.#work.join('copies of runtimes', this.#shutdown, () => this.#removeLeftCopies()).catch(() => {});
  }

  /** Waits for the work in flight, which the shutdown signal has told to end. */
  async close(): Promise<void> {
    await Promise.all([this.#work.idle(), this.#creations.close()]);
    await this.#deps.runtime.close();
  }

  /**
   * Brings up a sandbox. A second request for the same one joins the first, or gets what it made; a different one under
   * the same name is `alreadyExists`.
   */
  async runSandbox(spec: SandboxSpec, signal: AbortSignal): Promise<SandboxRecord> {
    return await this.#creations.runSandbox(spec, signal);
  }

  /** Stops a sandbox and all in it. One that is unknown or stopped is fine. */
  async stopSandbox(id: string, signal: AbortSignal): Promise<void> {
    const sandbox = made(this.#deps.sandboxes.findByPrefix(id), 'sandbox');
    if (sandbox) await this.#stopSandbox(sandbox.id, signal);
  }

  /** Removes a sandbox and all in it; what runs is ended by force. An unknown one is fine. */
  async removeSandbox(id: string, signal: AbortSignal): Promise<void> {
    const sandbox = made(this.#deps.sandboxes.findByPrefix(id), 'sandbox');
    if (sandbox) await this.#removeSandbox(sandbox.id, signal);
  }

  /** The sandbox with that id or beginning of one. Throws `notFound`. */
  getSandbox(id: string): SandboxRecord {
    return visible(this.#deps.sandboxes.getByPrefix(id), 'sandbox');
  }

  /** Sandboxes that match, newest first. */
  listSandboxes(filter: SandboxFilter = {}): SandboxRecord[] {
    return newestFirst(this.#deps.sandboxes.all().filter((record) => matchesSandbox(record, filter)));
  }

  /**
   * Creates a container in a sandbox. A second request for the same one joins the first, or gets what it made; a
   * different one under the same name is `alreadyExists`. Throws `notFound` for an unknown sandbox or image.
   */
  async createContainer(sandboxId: string, spec: ContainerSpec, signal: AbortSignal): Promise<ContainerRecord> {
    return await this.#creations.createContainer(this.getSandbox(sandboxId), spec, signal);
  }

  /** Starts a created container. */
  async startContainer(id: string, signal: AbortSignal): Promise<void> {
    const ctx = this.#context(id);
    await this.#work.join(`start ${ctx.id}`, signal, async () => {
      const restored = this.#deps.containers.get(ctx.id).restoreFrom !== undefined;
      await startContainer(ctx, this.#shutdown, (ended) => this.#exits.ended(ctx.id, ended));
      if (restored) this.#exits.follow(ctx.id);
    });
  }

  /** Stops a running container: its stop signal, then SIGKILL after `timeoutMs`. Unknown or ended is fine. */
  async stopContainer(id: string, timeoutMs: number, signal: AbortSignal): Promise<void> {
    const container = this.#deps.containers.findByPrefix(id);
    if (container?.state !== 'running') return;
    await this.#stops.stop(container.id, timeoutMs, signal);
  }

  /** Removes a container; one that runs is killed. An unknown one is fine. */
  async removeContainer(id: string, signal: AbortSignal): Promise<void> {
    const container = made(this.#deps.containers.findByPrefix(id), 'container');
    if (!container) return;
    const ctx = { deps: this.#deps, id: container.id };
    await this.#work.join(`remove ${container.id}`, signal, () => removeContainer(ctx, this.#shutdown));
  }

  /** The container with that id or beginning of one. Throws `notFound`. */
  getContainer(id: string): ContainerRecord {
    return visible(this.#deps.containers.getByPrefix(id), 'container');
  }

  /** Containers that match, newest first. */
  listContainers(filter: ContainerFilter = {}): ContainerRecord[] {
    return newestFirst(this.#deps.containers.all().filter((record) => matchesContainer(record, filter)));
  }

  /** The full id of the sandbox or container that `id` begins. Throws `notFound`. */
  getAnyId(id: string): string {
    const { sandboxes, containers } = this.#deps;
    const found = [sandboxes.findByPrefix(id), containers.findByPrefix(id)].filter((record) => record !== undefined);
    if (found.length > 1) throw new BerthError('invalid', `id ${id} is ambiguous: a sandbox and a container have it`);
    const [record] = found;
    if (!record) throw new BerthError('notFound', `${id}: no sandbox or container has this id`);
    return record.id;
  }

  /** Runs a command in a running container; `timeoutMs` 0 is no limit. Ends with the client's call. */
  async execSync(id: string, command: readonly string[], timeoutMs: number, signal: AbortSignal): Promise<ExecResult> {
    return await execSync(this.#context(id), command, timeoutMs, AbortSignal.any([signal, this.#shutdown]));
  }

  /** Has a running container write to a new log file. */
  async reopenLog(id: string, signal: AbortSignal): Promise<void> {
    await reopenLog(this.#context(id), signal);
  }

  /** Changes a container's limits. */
  async updateContainer(id: string, update: LinuxResources, signal: AbortSignal): Promise<void> {
    const ctx = this.#context(id);
    await this.#each(`update ${ctx.id}`, signal, () => updateContainerResources(ctx, update, this.#shutdown));
  }

  /** Changes what a sandbox may use as a whole. */
  async updateSandbox(id: string, update: PodResources, signal: AbortSignal): Promise<void> {
    const ctx = { deps: this.#deps, id: this.getSandbox(id).id };
    await this.#each(`update ${ctx.id}`, signal, () => updateSandboxResources(ctx, update, this.#shutdown));
  }

  /** What the network plugins find wrong with a sandbox's network, '' for nothing; undefined for one that has none. */
  async networkProblem(id: string, signal: AbortSignal): Promise<string | undefined> {
    const sandbox = this.getSandbox(id);
    return await networkProblem({ deps: this.#deps, id: sandbox.id }, AbortSignal.any([signal, this.#shutdown]));
  }

  /** Facts about a sandbox for a verbose status. */
  sandboxInfo(record: SandboxRecord): Record<string, unknown> {
    const { id, pause, handler, cgroup, spec, hostname } = record;
    return {
      sandboxID: id,
      pid: pause?.pid ?? 0,
      runtimeHandler: handler,
      hostname,
      cgroup: cgroup?.path ?? '',
      networkNamespace:
        spec.security.namespaces.network === 'pod' ? join(this.#deps.stateDir, 'sandboxes', id, 'ns', 'net') : '',
      privileged: spec.security.privileged,
      ...podResources(record),
      config: spec,
    };
  }

  /** Facts about a container for a verbose status; tools read `pid` and `runtimeSpec`. */
  containerInfo(record: ContainerRecord): Record<string, unknown> {
    const { id, sandboxId, init, monitor, handler, spec } = record;
    return {
      sandboxID: sandboxId,
      pid: record.state === 'exited' ? 0 : (init?.pid ?? 0),
      monitorPid: monitor?.pid ?? 0,
      runtimeHandler: handler,
      privileged: spec.security.privileged,
      // Gone after a reboot.
      ...(this.#deps.runtime.bundles.has(id) ? { runtimeSpec: this.#deps.runtime.bundles.readSpec(id) } : {}),
      config: spec,
    };
  }

  async #stopSandbox(id: SandboxId, signal: AbortSignal): Promise<void> {
    const ctx = { deps: this.#deps, id, stops: this.#stops };
    await this.#work.join(`stop ${id}`, signal, async () => {
      await this.#creations.discardIn(id);
      await stopSandbox(ctx, this.#shutdown);
    });
  }

  async #removeSandbox(id: SandboxId, signal: AbortSignal): Promise<void> {
    await this.#stopSandbox(id, signal);
    const ctx = { deps: this.#deps, id };
    await this.#work.join(`remove ${id}`, signal, () => removeSandbox(ctx, this.#shutdown));
  }

  /** Gives back what plugins hold for sandboxes that are gone: an earlier daemon may have died in between. */
  async #freeNetworks(orphansGone: Promise<readonly string[]>): Promise<void> {
    const { sandboxes, cni, spareNetworks, log } = this.#deps;
    try {
      const busy = await raceSignal(orphansGone, this.#shutdown);
      const own = sandboxes
        .all()
        .filter(({ state, hasLostNetwork }) => state !== 'stopped' && !hasLostNetwork)
        .filter(({ spec }) => spec.security.namespaces.network === 'pod');
      const valid = [...own.map(({ id }) => id), ...busy, ...spareNetworks.ids()].map((containerId) => ({
        containerId,
        ifName: POD_INTERFACE,
      }));
      const lost = sandboxes.all().flatMap(({ id, hasLostNetwork }) => (hasLostNetwork ? id : []));
      await cni.gc(valid, this.#shutdown, new Set(lost));
    } catch (err) {
      if (!this.#shutdown.aborted)
        log.warn({ err: describe(err) }, 'addresses of pods that are gone could not all be freed');
    }
  }

  async #removeLeftCopies(): Promise<void> {
    const { handlers, log } = this.#deps;
    const programs = handlers.all().map(({ path }) => path);
    try {
      await removeLeftCopies(programs, readMounts, log, this.#shutdown);
    } catch (err) {
      if (!this.#shutdown.aborted) log.warn({ err: describe(err) }, 'copies of a runtime could not be removed');
    }
  }

  /** Work that goes on when its client leaves, and that is done as often as it is asked for. */
  async #each(what: string, signal: AbortSignal, work: () => Promise<void>): Promise<void> {
    this.#asked += 1;
    await this.#work.join(`${what} (${this.#asked})`, signal, work);
  }

  #context(id: string): ContainerContext {
    return { deps: this.#deps, id: this.getContainer(id).id };
  }
}

/** What can be stopped and removed. What is still being made belongs to the request that makes it. */
function made<R extends { id: string; state: string }>(record: R | undefined, kind: string): R | undefined {
  if (record?.state === 'creating') throw new BerthError('precondition', `${kind} ${record.id} is still being made`);
  return record;
}
