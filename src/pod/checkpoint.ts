import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { copyFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';

import { withDeadline } from '../base/deadline.ts';
import { BerthError, wrap } from '../base/errors.ts';
import type { ContainerId, SandboxId } from '../base/ids.ts';
import { runSteps, type Step } from '../base/steps.ts';
import { checkCriu } from '../runtime/criu.ts';
import { ARCHIVE_NAMES, checkpointConfig, removeWorkFolder, workFolder } from './checkpoint-archive.ts';
import { getInState } from './container-operations.ts';
import type { PodDeps } from './pod-deps.ts';

/** The name under which the pipeline is journalled: reconcile lets containers go on that a crash left paused. */
export const CHECKPOINT = 'Checkpoint';

/** A dump writes all memory of a container to disk. */
const DEFAULT_TIMEOUT_MS = 600_000;
const RESUME_TIMEOUT_MS = 30_000;
const PACK_NICE = 5;
const PACK_TIMEOUT_MS = 3_600_000;

/** What is to be written where. Kept in the work folder, so that a restart knows what to undo. */
export interface CheckpointRequest {
  /** All of them are paused before the first is dumped. */
  readonly containers: readonly { readonly id: ContainerId; readonly archive: string }[];
  /** One more file beside the archives. */
  readonly extra?: { readonly file: string; readonly text: string };
}

interface CheckpointContext {
  readonly deps: PodDeps;
  /** The container or sandbox that is checkpointed. */
  readonly id: ContainerId | SandboxId;
  readonly request: CheckpointRequest;
  readonly timeoutMs: number;
}

/**
 * Writes the processes and files of running containers into archives (KEP-2008); they go on afterwards, whatever comes.
 * `timeoutMs` 0 is ten minutes. Throws `precondition` when a container does not run, or when its runtime or CRIU cannot
 * do it; then and on any other error nothing new is left.
 */
export async function checkpoint(ctx: CheckpointContext, shutdown: AbortSignal): Promise<void> {
  const { deps, id, request } = ctx;
  for (const container of request.containers) checkAbility(deps, container.id);
  using signal = withDeadline(`checkpoint ${id}`, ctx.timeoutMs || DEFAULT_TIMEOUT_MS, shutdown);
  await withLocks(deps, request.containers.map((container) => container.id).sort(), signal, async () => {
    for (const container of request.containers) getInState({ deps, id: container.id }, 'running');
    try {
      await runSteps(checkpointSteps, ctx, signal, deps.journals.open(CHECKPOINT, id));
    } catch (err) {
      throw wrap(`checkpoint ${id}`, err);
    } finally {
      deps.journals.finish(CHECKPOINT, id);
    }
  });
}

/** Lets containers go on that a daemon left paused when it died, and removes what it had written. Safe to repeat. */
export async function undoCheckpoint(deps: PodDeps, id: ContainerId | SandboxId): Promise<void> {
  const request = readRequest(workFolder(deps, id));
  if (request) {
    const ctx: CheckpointContext = { deps, id, request, timeoutMs: 0 };
    await resumeAll(ctx);
    removePartials(ctx);
  }
  await removeWorkFolder(deps, id);
}

const makeWorkFolder: Step<CheckpointContext> = {
  name: 'make work folder',
  async run({ deps, id, request }) {
    const folder = workFolder(deps, id);
    await removeWorkFolder(deps, id);
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    writeFileSync(join(folder, 'request.json'), JSON.stringify(request), { mode: 0o600 });
  },
  undo: ({ deps, id }) => removeWorkFolder(deps, id),
};

const pauseAll: Step<CheckpointContext> = {
  name: 'pause',
  async run({ deps, request }, signal) {
    for (const { id } of request.containers) await deps.runtime.pauseContainer(handlerOf(deps, id), id, signal);
  },
  undo: resumeAll,
};

async function resumeAll({ deps, request }: CheckpointContext): Promise<void> {
  // A new deadline for each: one that hangs must not keep the others paused.
  const results = await Promise.allSettled(
    request.containers.map(async ({ id }) => {
      if (deps.containers.find(id)?.state !== 'running') return;
      using signal = withDeadline(`resume container ${id}`, RESUME_TIMEOUT_MS);
      await deps.runtime.resumeContainer(handlerOf(deps, id), id, signal);
    }),
  );
  const failed = results.find((result) => result.status === 'rejected');
  if (failed) throw wrap('resume', failed.reason);
}

const dumpAll: Step<CheckpointContext> = {
  name: 'dump processes',
  async run({ deps, id, request, timeoutMs }, signal) {
    for (const container of request.containers) {
      const folder = containerFolder(deps, id, container.id);
      const images = join(folder, ARCHIVE_NAMES.images);
      mkdirSync(images, { recursive: true, mode: 0o700 });
      const dump = { images, work: folder, timeoutMs: timeoutMs || DEFAULT_TIMEOUT_MS };
      await deps.runtime.checkpointContainer(handlerOf(deps, container.id), container.id, dump, signal);
    }
  },
};

const copyFiles: Step<CheckpointContext> = {
  name: 'copy files',
  async run({ deps, id, request }, signal) {
    for (const container of request.containers)
      await describeContainer(deps, container.id, containerFolder(deps, id, container.id), signal);
  },
};

/** All of an archive but the dump itself. */
async function describeContainer(deps: PodDeps, id: ContainerId, folder: string, signal: AbortSignal): Promise<void> {
  const record = deps.containers.get(id);
  const spec = deps.runtime.bundles.readSpec(id);
  const write = (name: string, value: unknown): void =>
    writeFileSync(join(folder, name), JSON.stringify(value), { mode: 0o600 });
  write(ARCHIVE_NAMES.config, checkpointConfig(record, new Date(deps.clock.nowUs() / 1000)));
  write(ARCHIVE_NAMES.spec, spec);
  const binds = spec.mounts.filter(({ type }) => type === 'bind');
  write(
    ARCHIVE_NAMES.binds,
    binds.map(({ source, destination }) => ({ source, destination })),
  );
  if (record.logFile !== '' && existsSync(record.logFile))
    await copyFile(record.logFile, join(folder, ARCHIVE_NAMES.log));
  const list = join(folder, 'files');
  const { deleted, opaque, upper } = await deps.snapshots.changes(id, list);
  write(ARCHIVE_NAMES.deleted, deleted);
  write(ARCHIVE_NAMES.opaque, opaque);
  // Names may be anything, so they come from a list; overlayfs' own attributes stay behind.
  const attributes = ['--sparse', '--xattrs', '--xattrs-include=user.*', '--xattrs-include=security.capability'];
  const files = ['--null', '--verbatim-files-from', '--no-recursion', `--files-from=${list}`];
  const args = [`--file=${join(folder, ARCHIVE_NAMES.diff)}`, ...attributes, '-C', upper, ...files];
  await tar(deps, { args, sessionNice: 0 }, signal);
  rmSync(list);
}

const resume: Step<CheckpointContext> = { name: 'resume', run: resumeAll };

const pack: Step<CheckpointContext> = {
  name: 'pack',
  async run({ deps, id, request }, signal) {
    for (const container of request.containers) {
      const partial = partialOf(container.archive);
      // Made before tar opens it: all memory of the container is in there.
      writeFileSync(partial, '', { mode: 0o600 });
      const args = [`--file=${partial}`, '-C', containerFolder(deps, id, container.id), '.'];
      // Containers run again: gigabytes take minutes of a processor. But whoever wants to remove one of them waits.
      await tar(deps, { args, sessionNice: PACK_NICE }, signal);
      renameSync(partial, container.archive);
    }
    if (request.extra) writeFileSync(request.extra.file, request.extra.text, { mode: 0o600, flag: 'wx' });
  },
  undo: removePartials,
};

function removePartials({ request }: CheckpointContext): void {
  const { extra, containers } = request;
  // Of a pod, half a checkpoint is none. A container's archive is renamed last, and then the step has worked.
  const files = extra ? [extra.file, ...containers.map(({ archive }) => archive)] : [];
  for (const file of [...files, ...containers.map(({ archive }) => partialOf(archive))]) rmSync(file, { force: true });
}

const removeFolder: Step<CheckpointContext> = {
  name: 'remove work folder',
  run: ({ deps, id }) => removeWorkFolder(deps, id),
};

/** A checkpoint, in order. Containers go on as soon as everything of them is on disk, before it is packed. */
export const checkpointSteps: readonly Step<CheckpointContext>[] = [
  makeWorkFolder,
  pauseAll,
  dumpAll,
  copyFiles,
  resume,
  pack,
  removeFolder,
];

/** Throws `precondition` naming what is missing. */
function checkAbility(deps: PodDeps, id: ContainerId): void {
  const record = getInState({ deps, id }, 'running');
  const handler = handlerOf(deps, id);
  const { user } = deps.sandboxes.get(record.sandboxId).spec.security.namespaces;
  if (user)
    throw new BerthError('precondition', `container ${id} is in a user namespace, which cannot be checkpointed`);
  checkCriu(handler.name, deps.handlers);
}

async function tar(
  deps: PodDeps,
  { args, sessionNice }: { readonly args: readonly string[]; readonly sessionNice: number },
  signal: AbortSignal,
): Promise<void> {
  const always = ['--create', '--numeric-owner', '--warning=no-file-changed'];
  const aside = { newSession: true, sessionNice };
  await deps.processes.runOk({ path: 'tar', args: [...always, ...args], timeoutMs: PACK_TIMEOUT_MS, ...aside }, signal);
}

function handlerOf(deps: PodDeps, id: ContainerId) {
  return deps.handlers.get(deps.containers.get(id).handler);
}

function containerFolder(deps: PodDeps, id: string, containerId: string): string {
  return join(workFolder(deps, id), containerId);
}

function partialOf(archive: string): string {
  return join(dirname(archive), `.${archive.slice(dirname(archive).length + 1)}.partial`);
}

function readRequest(folder: string): CheckpointRequest | undefined {
  try {
    return JSON.parse(readFileSync(join(folder, 'request.json'), 'utf8')) as CheckpointRequest;
  } catch {
    // It died before there was anything to undo.
    return undefined;
  }
}

async function withLocks(
  deps: PodDeps,
  ids: readonly ContainerId[],
  signal: AbortSignal,
  work: () => Promise<void>,
): Promise<void> {
  const [first, ...others] = ids;
  if (first === undefined) return await work();
  await deps.locks.withKey(first, signal, () => withLocks(deps, others, signal, work));
}
