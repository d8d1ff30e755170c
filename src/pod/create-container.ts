import { existsSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';

import { withDeadline } from '../base/deadline.ts';
import { BerthError, because, describe, invalid, isKind } from '../base/errors.ts';
import { type ContainerId, newContainerId } from '../base/ids.ts';
import type { Step } from '../base/steps.ts';
import type { SnapshotOwner } from '../image/snapshots.ts';
import type { ContainerCgroup } from '../runtime/cgroups/cgroups.ts';
import { checkLimits } from '../runtime/check-limits.ts';
import type { CreateContainerRequest } from '../runtime/container-runtime.ts';
import type { ContainerSpec } from '../runtime/container-spec.ts';
import type { Handler } from '../runtime/handler.ts';
import { containerLogPath, removeLogFile } from '../runtime/log-path.ts';
import type { OciSpec } from '../runtime/oci-spec.ts';
import type { ProcessIdentity } from '../runtime/process-identity.ts';
import { plainState, stageOf } from '../runtime/runc-state.ts';
import { isSameProcess, killProcess, killProcessGroup } from '../sys/process.ts';
import { checkTrust, chooseImageName, chooseStopSignal, imageOf, requestedImage } from './container-image.ts';
import { buildContainerSpec } from './container-oci-spec.ts';
import { type CreationPipeline, makeUnclaimed } from './creation-pipeline.ts';
import type { Unclaimed } from './creations.ts';
import { mountImageVolumes, requestedImageVolumes } from './image-volumes.ts';
import { mapVolumes, unmountVolumes } from './mapped-volumes.ts';
import { containerName } from './names.ts';
import type { PodDeps } from './pod-deps.ts';
import type { ContainerRecord, SandboxRecord } from './records.ts';
import { diffOf, isArchive, openRestoreSource, type RestoreSource, removeRestoreSource } from './restore-container.ts';
import { sandboxPaths } from './sandbox-files.ts';
import { selinuxLabels } from './selinux-labels.ts';

/** As long as CRI-O gives a creation. */
const CREATE_TIMEOUT_MS = 240_000;
const CLEANUP_TIMEOUT_MS = 30_000;
const LAST_WORDS_MS = 1_000;

/** The name under which a container's first pipeline is journalled. */
export const CREATE_CONTAINER = 'CreateContainer';

/** What each step works with; the record itself is read from the index, so that a restart can build this again. */
export interface ContainerContext {
  readonly deps: PodDeps;
  readonly id: ContainerId;
}

interface CreateContext extends ContainerContext {
  /** Made by one step for the next. */
  rootfs?: string;
  ociSpec?: OciSpec;
  user?: ContainerRecord['user'];
  target?: ProcessIdentity | undefined;
}

/**
 * Creates a container in a ready sandbox, for a client to claim: its root filesystem is mounted, its first process waits
 * for StartContainer. Tells each step that it comes to. See makeUnclaimed() for what becomes of it when it fails.
 */
export async function makeContainer(
  deps: PodDeps,
  sandbox: SandboxRecord,
  spec: ContainerSpec,
  onStep: (step: string) => void,
  shutdown: AbortSignal,
): Promise<Unclaimed<ContainerRecord>> {
  const id = newContainerId();
  using signal = withDeadline(`create container ${spec.name}`, CREATE_TIMEOUT_MS, shutdown);
  const { reference } = spec.image;
  if (isArchive(reference)) onStep('open checkpoint');
  const source = isArchive(reference) ? await openRestoreSource(deps, id, sandbox, reference, signal) : undefined;
  try {
    const record = newRecord(deps, sandbox, spec, id, source);
    deps.cgroups.expectMoves();
    onStep('check trust');
    await checkTrust(deps, sandbox, record, signal);
    return await makeUnclaimed(pipeline, record, { deps, id }, onStep, signal);
  } catch (err) {
    // Without a record nobody else knows of it.
    if (source && !deps.containers.find(id)) await removeRestoreSource(source.folder);
    throw err;
  }
}

/** Drops the record and the journal of a container that has nothing left on the machine. */
export function forgetContainer({ deps, id }: ContainerContext): void {
  deps.containers.delete(id);
  deps.journals.forget(id);
}

const mountSnapshot: Step<CreateContext> = {
  name: 'mount snapshot',
  async run(ctx) {
    const { deps, id } = ctx;
    const { imageId, restoreFrom } = deps.containers.get(id);
    const diff = restoreFrom === undefined ? undefined : diffOf(restoreFrom);
    const { rootfs } = await deps.snapshots.mount(id, imageOf(deps, imageId).layers, {
      owner: snapshotOwner(ctx),
      label: filesLabel(ctx),
      diff,
    });
    ctx.rootfs = rootfs;
  },
  undo: removeSnapshot,
};

/** Whose the files are in a pod with a user namespace. */
function snapshotOwner({ deps, id }: ContainerContext): SnapshotOwner | undefined {
  const { sandboxId } = deps.containers.get(id);
  const { user } = deps.sandboxes.get(sandboxId).spec.security.namespaces;
  return (
    user && {
      userNamespace: join(sandboxPaths(deps, sandboxId).namespaces, 'user'),
      uids: user.uids,
      gids: user.gids,
    }
  );
}

function filesLabel({ deps, id }: ContainerContext): string | undefined {
  const { sandboxId, spec } = deps.containers.get(id);
  return selinuxLabels(deps, deps.sandboxes.get(sandboxId), spec.security)?.files;
}

/** Unmounts the container's root filesystem and removes what it wrote, or was to go on from. Safe to repeat. */
export async function removeSnapshot({ deps, id }: ContainerContext): Promise<void> {
  await deps.snapshots.unmount(id);
  await deps.snapshots.remove(id);
  const { restoreFrom } = deps.containers.get(id);
  if (restoreFrom === undefined) return;
  releaseVolumes({ deps, id });
  await removeRestoreSource(restoreFrom);
}

const writeSpec: Step<CreateContext> = {
  name: 'write spec',
  async run(ctx, signal) {
    const { deps, id, rootfs } = ctx;
    if (rootfs === undefined) throw new BerthError('internal', `container ${id} has no root filesystem`);
    const record = deps.containers.get(id);
    const owner = snapshotOwner(ctx);
    const label = filesLabel(ctx);
    const imageSources = mountImageVolumes(deps, volumesFolder(ctx), record, { owner, label });
    const { spec, user, mapped, target } = await buildContainerSpec(deps, record, { rootfs, imageSources }, signal);
    ctx.target = target;
    ctx.ociSpec = mapVolumes(volumesFolder(ctx), spec, mapped, owner?.userNamespace ?? '');
    ctx.user = user;
  },
  undo: releaseVolumes,
};

/** Lets go of the volumes of a container that has copies of its own, or will never need any. Safe to repeat. */
export function releaseVolumes(ctx: ContainerContext): void {
  unmountVolumes(volumesFolder(ctx));
}

/** Where volumes are mounted that the container takes over when it is created. */
export function volumesFolder({ deps, id }: Pick<ContainerContext, 'deps'> & { readonly id: string }): string {
  return join(deps.stateDir, 'volumes', id);
}

const createUnderMonitor: Step<CreateContext> = {
  name: 'create under monitor',
  async run({ deps, id, ociSpec, user, target }, signal) {
    if (!ociSpec) throw new BerthError('internal', `container ${id} has no spec`);
    if (deps.containers.get(id).restoreFrom !== undefined) {
      // Its processes come back when it is started, and need its volumes then.
      deps.runtime.prepareRestore(id, ociSpec);
      deps.containers.put({ ...deps.containers.get(id), user });
      return;
    }
    const targetEnded = (): boolean => target !== undefined && !isSameProcess(target.pid, target.startTime);
    const problem = 'the container whose PID namespace was to be joined has ended';
    const request = creation({ deps, id }, ociSpec, signal);
    const { init, monitor } = await deps.runtime.create(request, signal).catch((err: unknown) => {
      throw targetEnded() ? because('precondition', problem, err) : err;
    });
    deps.containers.put({
      ...deps.containers.get(id),
      user,
      init,
      monitor,
      // What is trusted later is seen here once.
      runcState: stageOf(init) === 'waiting' ? plainState(request.handler, id) : undefined,
    });
    // The runtime knows a pid only: with the process gone, a stranger's namespace may have been joined.
    if (targetEnded()) throw new BerthError('precondition', problem);
    releaseVolumes({ deps, id });
  },
  async undo(ctx) {
    await endContainer(ctx);
    removeLogFile(ctx.deps.containers.get(ctx.id).logFile);
  },
};

/** What the runtime is asked to make, or to restore. */
export function creation({ deps, id }: ContainerContext, spec: OciSpec, signal: AbortSignal): CreateContainerRequest {
  const record = deps.containers.get(id);
  const { cgroup } = deps.sandboxes.get(record.sandboxId);
  return {
    containerId: id,
    spec,
    handler: deps.handlers.get(record.handler),
    logFile: record.logFile,
    stdin: record.spec.stdin,
    stdinOnce: record.spec.stdinOnce,
    ...(cgroup ? { onMonitorStarted: (pid: number) => deps.cgroups.addProcess(cgroup, pid, signal) } : {}),
  };
}

/** Ends the container's processes and removes what runtime, monitor and kernel keep of it. Safe to repeat. */
export async function endContainer({ deps, id }: ContainerContext): Promise<void> {
  const record = deps.containers.get(id);
  const { spec } = deps.sandboxes.get(record.sandboxId);
  const cgroup = deps.cgroups.container(spec.cgroupParent, id);
  using signal = withDeadline(`end container ${id}`, CLEANUP_TIMEOUT_MS);
  // Before the runtime: one that is only beginning would have it make again what it has deleted.
  if (!record.monitor) await endUnknownMonitors(deps, id, signal);
  const kill = async () => await killContainer(deps, cgroup, record.init, signal);
  let left = await endPlain(deps, record, kill);
  if (left === undefined) {
    const handler = deps.handlers.find(record.handler);
    const isDone = handler !== undefined && (await deleteInRuntime(deps, handler, record, kill, signal));
    if (!isDone) {
      deps.log.warn({ container: id, handler: record.handler }, 'its runtime handler is gone; ending it without');
      left = join(handler?.root ?? join(deps.stateDir, 'runtime', record.handler), id);
    }
    await kill();
  }
  await endProcess(deps, record.monitor, signal);
  await cgroup.remove(signal);
  if (left !== undefined) rmSync(left, { recursive: true, force: true });
  deps.runtime.forget(id);
}

/**
 * Ends the processes of a container whose runtime has nothing else to do: what is left of it there is the folder that is
 * returned. Undefined where the runtime has to be asked: with systemd, whose unit is runc's to stop, and where a process
 * takes no signal from berthd, but may from runc (AppArmor's profiles say of whom).
 */
async function endPlain(
  deps: PodDeps,
  record: ContainerRecord,
  kill: () => Promise<void>,
): Promise<string | undefined> {
  const driver = deps.sandboxes.get(record.sandboxId).cgroup?.driver;
  if (record.runcState === undefined || driver !== 'cgroupfs' || deps.cgroups.driver !== driver) return undefined;
  deps.runtime.endExecs(record.id);
  try {
    await kill();
    await lastWords(deps, record.monitor);
    return record.runcState;
  } catch (err) {
    if (!isKind(err, 'permission')) throw err;
    return undefined;
  }
}

/** A monitor whose container has ended writes down how, and the end of its log, and leaves: it is given a moment for that. */
async function lastWords(deps: PodDeps, monitor: ProcessIdentity | undefined): Promise<void> {
  if (!monitor) return;
  using moment = withDeadline(`end of monitor ${monitor.pid}`, LAST_WORDS_MS);
  try {
    await deps.processes.exitOf(monitor.pid, monitor.startTime, moment);
  } catch {
    // It is ended.
  }
}

/**
 * False when the runtime's program is missing: what it would have done is done without it, and the pod can go. A runtime
 * may be denied to kill (AppArmor knows whose signals a profile takes, and runc may have a profile of its own): what it
 * could not end `kill` ends, and it is asked once more.
 */
async function deleteInRuntime(
  deps: PodDeps,
  handler: Handler,
  { id, init }: ContainerRecord,
  kill: () => Promise<void>,
  signal: AbortSignal,
): Promise<boolean> {
  try {
    await deps.runtime.deleteContainer(handler, id, signal);
    return true;
  } catch (err) {
    if (!existsSync(handler.path)) return false;
    if (signal.aborted || !init || !isSameProcess(init.pid, init.startTime)) throw err;
    deps.log.warn({ container: id, err: describe(err) }, 'the runtime did not end the container; killing it without');
  }
  await kill();
  await deps.runtime.deleteContainer(handler, id, signal);
  return true;
}

/** Kills all that is in a container's cgroup, and waits for the end of its first process. */
async function killContainer(
  deps: PodDeps,
  cgroup: ContainerCgroup,
  init: ProcessIdentity | undefined,
  signal: AbortSignal,
): Promise<void> {
  cgroup.killAll();
  try {
    await endProcess(deps, init, signal);
  } catch (err) {
    // Signals are denied by whoever's profile; that of the kernel, which kills a cgroup of v2, is not.
    if (!init || !isKind(err, 'permission')) throw err;
    await deps.processes.exitOf(init.pid, init.startTime, signal);
  }
}

/**
 * Ends a container's monitors that no record names, also those that are only just beginning, with the runtime that is at
 * work and the hooks that it runs.
 */
export async function endUnknownMonitors(deps: PodDeps, id: string, signal: AbortSignal): Promise<void> {
  const { bundles } = deps.runtime;
  // Again and again: a launcher may have forked meanwhile.
  for (let found = bundles.findMonitors(id); found.length > 0; found = bundles.findMonitors(id)) {
    for (const { pid, startTime } of found) {
      killProcessGroup(pid, startTime);
      await deps.processes.exitOf(pid, startTime, signal);
    }
  }
}

/** Kills a process and waits for its end. One that is gone, or not known, is fine. */
export async function endProcess(
  deps: PodDeps,
  known: ProcessIdentity | undefined,
  signal: AbortSignal,
): Promise<void> {
  if (!known) return;
  killProcess(known.pid, known.startTime, 'SIGKILL');
  await deps.processes.exitOf(known.pid, known.startTime, signal);
}

const markCreated: Step<CreateContext> = {
  name: 'mark created',
  run({ deps, id }) {
    const record = deps.containers.get(id);
    // Its pod may have been stopped meanwhile, and will not look for it again.
    checkReady(deps.sandboxes.get(record.sandboxId));
    deps.containers.put({ ...record, state: 'created' });
    deps.meter.containerCreated(record.handler);
  },
};

/** CreateContainer, in order. The undo of each is also what a restart runs for a container that was half made. */
export const createContainerSteps: readonly Step<CreateContext>[] = [
  mountSnapshot,
  writeSpec,
  createUnderMonitor,
  markCreated,
];

const pipeline: CreationPipeline<ContainerRecord, CreateContext> = {
  name: CREATE_CONTAINER,
  kind: 'container',
  steps: createContainerSteps,
  records: (deps) => deps.containers,
  withState: (record, state) => ({ ...record, state }),
  forget: forgetContainer,
};

function checkOwnNamespace(sandbox: SandboxRecord, { security }: ContainerSpec): void {
  const wanted = security.namespaces.user;
  if (wanted === undefined || isDeepStrictEqual(wanted, sandbox.spec.security.namespaces.user)) return;
  throw invalid('config.linux.security_context.namespace_options.userns_options', "must be the sandbox's");
}

/** Throws `precondition` for a sandbox in which nothing can run any more, or not yet. */
export function checkReady({ id, state }: SandboxRecord): void {
  if (state !== 'ready') throw new BerthError('precondition', `sandbox ${id} is not ready, so nothing is run in it`);
}

function newRecord(
  deps: PodDeps,
  sandbox: SandboxRecord,
  spec: ContainerSpec,
  id: ContainerId,
  source: RestoreSource | undefined,
): ContainerRecord {
  checkReady(sandbox);
  checkOwnNamespace(sandbox, spec);
  // The CRI's own rule: a sandbox is told beforehand, and may count on it.
  if (spec.security.privileged && !sandbox.spec.security.privileged) {
    throw invalid(
      'config.linux.security_context.privileged',
      `sandbox ${sandbox.id} takes no privileged container, since it was not made for one`,
    );
  }
  checkLimits(spec.resources, deps.host, 'config.linux.resources');
  deps.security.selinux.checkDemand(spec.security.selinux, 'config.linux.security_context.selinux_options');
  const image = source?.image ?? requestedImage(deps, spec);
  return {
    id,
    sandboxId: sandbox.id,
    name: containerName(spec, sandbox.spec, sandbox.id),
    state: 'creating',
    createdAtUs: deps.clock.nowUs(),
    startedAtUs: undefined,
    exit: undefined,
    spec,
    handler: sandbox.handler,
    imageId: image.id,
    imageName: chooseImageName(spec, image),
    imageRef: image.repoDigests[0] ?? image.id,
    stopSignal: chooseStopSignal(spec, image),
    logFile: containerLogPath(sandbox.spec.logDirectory, spec.logPath, id),
    user: undefined,
    imageVolumes: requestedImageVolumes(deps, spec),
    resources: spec.resources,
    init: undefined,
    monitor: undefined,
    ...(source ? { restoreFrom: source.folder } : {}),
  };
}
