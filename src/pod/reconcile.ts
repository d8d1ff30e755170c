import { sleep, withDeadline } from '../base/deadline.ts';
import { describe } from '../base/errors.ts';
import { forEachLimited } from '../base/limited.ts';
import { type Step, undoSteps } from '../base/steps.ts';
import { settleStart } from '../runtime/runc-state.ts';
import type { UnfinishedPipeline } from '../store/journal-table.ts';
import { isSameProcess } from '../sys/process.ts';
import { CHECKPOINT, undoCheckpoint } from './checkpoint.ts';
import {
  type ContainerContext,
  CREATE_CONTAINER,
  createContainerSteps,
  endContainer,
  forgetContainer,
} from './create-container.ts';
import { endOrphans, findOrphans, removeStrayFiles } from './orphans.ts';
import type { PodDeps } from './pod-deps.ts';
import type { ContainerRecord, SandboxRecord } from './records.ts';
import { REMOVE_CONTAINER, removeContainer } from './remove-container.ts';
import { REMOVE_SANDBOX, removeSandbox } from './remove-sandbox.ts';
import { forgetSandbox, RUN_SANDBOX, runSandboxSteps, type SandboxContext } from './run-sandbox.ts';
import { recordStartError, START_CONTAINER } from './start-container.ts';
import { STOP_SANDBOX } from './stop-sandbox.ts';

const PARALLEL = 16;
const STATE_TIMEOUT_MS = 10_000;
/** How long serving waits for what earlier daemons left half done. */
const SOON_MS = 2_000;

/** What a start found. */
export interface ReconcileReport {
  readonly adoptedSandboxes: number;
  readonly adoptedContainers: number;
  /** Half-made sandboxes and containers that were undone, removals that were ended. */
  readonly finished: number;
  /** Sandboxes and containers that the database does not know. */
  readonly orphans: number;
  /** What could not be cleaned up so far, in words; it is tried again when its client stops and removes it. */
  readonly problems: readonly string[];
  /** Resolves when the orphans are gone, with the sandboxes of which something still runs. */
  readonly orphansGone: Promise<readonly string[]>;
}

/**
 * Makes records and machine agree after a start: adopts what runs, undoes what was half made, ends what was being
 * removed, forgets folders that nothing owns. One bad item never blocks the rest, and nothing that runs is touched.
 */
export async function reconcile(
  deps: PodDeps,
  unfinished: readonly UnfinishedPipeline[],
  signal: AbortSignal,
): Promise<ReconcileReport> {
  const problems: string[] = [];
  const complain = (what: string, err: unknown): void => {
    const problem = `${what}: ${describe(err)}`;
    problems.push(problem);
    deps.log.error({ problem }, 'reconcile: an item could not be settled');
  };
  const settle = async (what: string, work: () => Promise<void> | void): Promise<void> => {
    try {
      await work();
    } catch (err) {
      complain(what, err);
    }
  };
  const of = (...pipelines: string[]): UnfinishedPipeline[] =>
    unfinished.filter(({ pipeline }) => pipelines.includes(pipeline));

  const containers = deps.containers.all();
  // First of all: what is paused can neither be stopped nor removed.
  await forEachLimited(of(CHECKPOINT), PARALLEL, (item) =>
    settle(`checkpoint of ${item.subject}`, () => endCheckpoint(deps, item)),
  );
  const undone = (async () => {
    await forEachLimited(of(CREATE_CONTAINER), PARALLEL, (item) =>
      settle(`half-made container ${item.subject}`, () => undoContainer(deps, item, signal)),
    );
    await forEachLimited(of(RUN_SANDBOX), PARALLEL, (item) =>
      settle(`half-made sandbox ${item.subject}`, () => undoSandbox(deps, item, signal)),
    );
  })();
  await waitAWhile(undone, signal);
  showHalfMade(deps, of(CREATE_CONTAINER, RUN_SANDBOX));
  await forEachLimited(containers, PARALLEL, (record) =>
    settle(`container ${record.id}`, () => adoptContainer(deps, record, signal)),
  );
  await forEachLimited(of(START_CONTAINER), PARALLEL, (item) =>
    settle(`restore of container ${item.subject}`, () => endRestore(deps, item)),
  );
  for (const item of of(STOP_SANDBOX)) await settle(`stop of sandbox ${item.subject}`, () => admitStop(deps, item));
  for (const record of deps.sandboxes.all()) await settle(`sandbox ${record.id}`, () => adoptSandbox(deps, record));
  const removed = (async () => {
    await forEachLimited(of(REMOVE_CONTAINER), PARALLEL, (item) =>
      settle(`removal of container ${item.subject}`, () => finishContainerRemoval(deps, item, signal)),
    );
    await forEachLimited(of(REMOVE_SANDBOX), PARALLEL, (item) =>
      settle(`removal of sandbox ${item.subject}`, () => finishSandboxRemoval(deps, item, signal)),
    );
  })();
  await waitAWhile(removed, signal);
  await waitAWhile(deps.spareNetworks.discardLeft(deps.sandboxes), signal);
  const orphans = findOrphans(deps);
  const orphansGone = endOrphans(deps, orphans, complain, signal).catch((err: unknown) => {
    complain('what the database does not know', err);
    return orphans.sandboxes;
  });
  await waitAWhile(
    orphansGone.then(() => {}),
    signal,
  );
  await settle('files that nothing owns', () => removeStrayFiles(deps));
  return {
    adoptedSandboxes: deps.sandboxes.all().filter(({ state }) => state === 'ready').length,
    adoptedContainers: deps.containers.all().filter(({ state }) => state === 'running' || state === 'created').length,
    finished: of(CREATE_CONTAINER, RUN_SANDBOX, REMOVE_CONTAINER, REMOVE_SANDBOX).length,
    orphans: orphans.sandboxes.length + orphans.containers.length,
    problems,
    orphansGone,
  };
}

async function undoContainer(
  deps: PodDeps,
  { subject, begun }: UnfinishedPipeline,
  signal: AbortSignal,
): Promise<void> {
  const record = deps.containers.find(subject);
  if (record?.state !== 'creating') return forgetUnknown(deps, subject, CREATE_CONTAINER, record !== undefined);
  const ctx: ContainerContext = { deps, id: record.id };
  try {
    await deps.locks.withKey(record.id, signal, () => undoBegun(createContainerSteps, ctx, begun));
  } catch (err) {
    deps.containers.put({ ...deps.containers.get(record.id), state: 'unknown' });
    throw err;
  }
  forgetContainer(ctx);
}

/** Work that takes longer, a plugin that hangs for one, goes on beside the first requests. */
async function waitAWhile(work: Promise<void>, signal: AbortSignal): Promise<void> {
  const pause = new AbortController();
  const awhile = sleep(SOON_MS, AbortSignal.any([signal, pause.signal])).catch(() => signal.throwIfAborted());
  try {
    await Promise.race([work, awhile]);
  } finally {
    pause.abort();
  }
}

/** What is still being undone is there to be stopped and removed, which then waits for it. */
function showHalfMade(deps: PodDeps, items: readonly UnfinishedPipeline[]): void {
  for (const { subject } of items) {
    const container = deps.containers.find(subject);
    if (container?.state === 'creating') deps.containers.put({ ...container, state: 'unknown' });
    const sandbox = deps.sandboxes.find(subject);
    if (sandbox?.state === 'creating') deps.sandboxes.put({ ...sandbox, state: 'unknown' });
  }
}

async function endCheckpoint(deps: PodDeps, { subject }: UnfinishedPipeline): Promise<void> {
  const record = deps.containers.find(subject) ?? deps.sandboxes.find(subject);
  if (record) await undoCheckpoint(deps, record.id);
  deps.journals.finish(CHECKPOINT, subject);
}

// What a daemon that died was bringing back may run or not, without a monitor that is known; the archive is there still,
// and so a client that wants it makes another container from it.
async function endRestore(deps: PodDeps, { subject }: UnfinishedPipeline): Promise<void> {
  const record = deps.containers.find(subject);
  if (record?.state !== 'created' || record.restoreFrom === undefined) return;
  await endContainer({ deps, id: record.id });
  recordStartError({ deps, id: record.id }, 'berthd ended while the container was restored');
  deps.journals.finish(START_CONTAINER, record.id);
}

async function undoSandbox(deps: PodDeps, { subject, begun }: UnfinishedPipeline, signal: AbortSignal): Promise<void> {
  const record = deps.sandboxes.find(subject);
  if (record?.state !== 'creating') return forgetUnknown(deps, subject, RUN_SANDBOX, record !== undefined);
  const ctx: SandboxContext = { deps, id: record.id };
  try {
    await deps.locks.withKey(record.id, signal, () => undoBegun(runSandboxSteps, ctx, begun));
  } catch (err) {
    deps.sandboxes.put({ ...deps.sandboxes.get(record.id), state: 'unknown' });
    throw err;
  }
  forgetSandbox(ctx);
}

// The daemon died between the last step and the note that the pipeline was through, or after the record was dropped.
function forgetUnknown(deps: PodDeps, subject: string, pipeline: string, isKnown: boolean): void {
  if (isKnown) deps.journals.finish(pipeline, subject);
  else deps.journals.forget(subject);
}

async function undoBegun<C extends { deps: PodDeps; id: string }>(
  steps: readonly Step<C>[],
  ctx: C,
  begun: readonly string[],
): Promise<void> {
  const names = new Set(begun);
  const { faults } = ctx.deps;
  await undoSteps(
    steps.filter((step) => names.has(step.name)),
    ctx,
    { begin() {}, end() {}, undone() {}, around: faults && ((name, work) => faults.around(`Restart/${name}`, work)) },
  );
}

function adoptSandbox(deps: PodDeps, record: SandboxRecord): void {
  if (record.state === 'creating') {
    // It had begun no step: nothing is on the machine.
    forgetSandbox({ deps, id: record.id });
  } else if (record.state === 'ready' && !isPauseAlive(record)) {
    deps.log.warn({ sandbox: record.id }, 'sandbox is not ready: its pause process ended while no daemon ran');
    deps.sandboxes.put({ ...record, state: 'notReady' });
  }
}

// Part of it may be gone already, its network first: nobody shall take it for ready until its client stops it again.
function admitStop(deps: PodDeps, { subject }: UnfinishedPipeline): void {
  const record = deps.sandboxes.find(subject);
  if (record?.state === 'ready') deps.sandboxes.put({ ...record, state: 'notReady' });
}

function isPauseAlive({ pause }: SandboxRecord): boolean {
  return pause !== undefined && isSameProcess(pause.pid, pause.startTime);
}

async function adoptContainer(deps: PodDeps, old: ContainerRecord, signal: AbortSignal): Promise<void> {
  const record = deps.containers.find(old.id);
  if (!record) return;
  if (record.state === 'creating') return forgetContainer({ deps, id: record.id });
  deps.runtime.bundles.removeExecFiles(record.id);
  // A daemon that died in StartContainer did not come to note that it had worked. Exits are settled when Pods follows
  // the first processes: one that has ended is noticed there like any other.
  if (record.state === 'created' && (await isRunning(deps, record, signal))) {
    deps.containers.put({ ...record, state: 'running', startedAtUs: record.startedAtUs ?? deps.clock.nowUs() });
  }
}

async function isRunning(deps: PodDeps, record: ContainerRecord, signal: AbortSignal): Promise<boolean> {
  if (!record.init || !isSameProcess(record.init.pid, record.init.startTime)) return false;
  // runc would not know of one that was let go by a daemon that was killed in the same moment.
  if (record.runcState !== undefined) return settleStart(record.runcState, record.init) === 'executed';
  using limited = withDeadline(`state of container ${record.id}`, STATE_TIMEOUT_MS, signal);
  const state = await deps.runtime.findState(deps.handlers.get(record.handler), record.id, limited);
  return state?.status === 'running';
}

async function finishContainerRemoval(
  deps: PodDeps,
  { subject }: UnfinishedPipeline,
  signal: AbortSignal,
): Promise<void> {
  const record = deps.containers.find(subject);
  if (record) await removeContainer({ deps, id: record.id }, signal);
  else deps.journals.forget(subject);
}

async function finishSandboxRemoval(
  deps: PodDeps,
  { subject }: UnfinishedPipeline,
  signal: AbortSignal,
): Promise<void> {
  const record = deps.sandboxes.find(subject);
  if (record) await removeSandbox({ deps, id: record.id }, signal);
  else deps.journals.forget(subject);
}
