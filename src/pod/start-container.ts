import { sleep, withDeadline } from '../base/deadline.ts';
import { BerthError, describe, wrap } from '../base/errors.ts';
import { runSteps, type Step } from '../base/steps.ts';
import { killProcess } from '../sys/process.ts';
import { type ContainerContext, checkReady, creation, releaseVolumes } from './create-container.ts';
import { imagesOf, removeRestoreSource } from './restore-container.ts';

const START_TIMEOUT_MS = 120_000;
/** For the runtime to answer, and for a killed program to end. */
const SETTLE_TIMEOUT_MS = 20_000;
/** For the runtime to say that it has started a program which has ended already. */
const ANSWER_TIMEOUT_MS = 2_000;
/** The exit code of a container whose program could not be started, as containerd reports it. */
const START_ERROR_CODE = 128;
/** Of a process that was killed. */
const KILLED_CODE = 137;

/** The name under which the pipeline is journalled. */
export const START_CONTAINER = 'StartContainer';

/**
 * Starts the program of a created container. Throws `precondition` in any other state. A program that the runtime
 * cannot start leaves the container `exited` with reason StartError. `ended` waits for the container's end: a runtime
 * that hangs is not waited for any longer, so that a pod which is stopped can go.
 */
export async function startContainer(
  ctx: ContainerContext,
  shutdown: AbortSignal,
  ended: (signal: AbortSignal) => Promise<void>,
): Promise<void> {
  const { deps } = ctx;
  using deadline = withDeadline(`start container ${ctx.id}`, START_TIMEOUT_MS, shutdown);
  using end = abortAfterEnd(ctx.id, ended);
  const signal = AbortSignal.any([deadline, end.signal]);
  await deps.locks.withKey(ctx.id, signal, async () => {
    const { state, sandboxId } = deps.containers.get(ctx.id);
    if (state !== 'created')
      throw new BerthError('precondition', `container ${ctx.id} is ${state}; only a created one can be started`);
    checkReady(deps.sandboxes.get(sandboxId));
    try {
      await runSteps(startContainerSteps, ctx, signal, deps.journals.open(START_CONTAINER, ctx.id));
    } catch (err) {
      // A daemon that is stopping leaves it to the next one, which asks the runtime what came of it.
      if (!shutdown.aborted && (await settleFailure(ctx, err))) return;
      throw wrap(`start container ${ctx.id}`, err);
    } finally {
      deps.journals.finish(START_CONTAINER, ctx.id);
    }
    deps.spareNetworks.noteUp(sandboxId);
  });
}

/** A signal that aborts when a container has ended and the runtime had its time to say something. */
function abortAfterEnd(
  id: string,
  ended: (signal: AbortSignal) => Promise<void>,
): { readonly signal: AbortSignal } & Disposable {
  const [over, done] = [new AbortController(), new AbortController()];
  const watch = async (): Promise<void> => {
    await ended(done.signal);
    await sleep(ANSWER_TIMEOUT_MS, done.signal);
    over.abort(new BerthError('precondition', `container ${id} has ended, and the runtime does not answer`));
  };
  watch().catch(() => {
    // The start is through.
  });
  return { signal: over.signal, [Symbol.dispose]: () => done.abort() };
}

/**
 * Finds out what a start that failed has left. True when the program runs all the same: the runtime had let it go before
 * its answer was lost. Otherwise nothing of it runs any more, and the record says so.
 */
async function settleFailure(ctx: ContainerContext, err: unknown): Promise<boolean> {
  const { deps, id } = ctx;
  using signal = withDeadline(`settle start of container ${id}`, SETTLE_TIMEOUT_MS);
  const { handler, init } = deps.containers.get(id);
  const known = await deps.runtime.findState(deps.handlers.get(handler), id, signal).catch(() => undefined);
  const { state } = deps.containers.get(id);
  if (known?.status === 'running' && (state === 'created' || state === 'running')) {
    deps.log.warn({ container: id, err: describe(err) }, 'the runtime failed to say so, but the container runs');
    recordRunning(ctx);
    return true;
  }
  try {
    let wasKilled = false;
    if (init) {
      wasKilled = killProcess(init.pid, init.startTime, 'SIGKILL');
      await deps.processes.exitOf(init.pid, init.startTime, signal);
    }
    recordStartError(ctx, describe(err), wasKilled);
  } catch (unsettled) {
    // It is recorded when it does end.
    deps.log.error({ container: id, err: describe(unsettled) }, 'a container whose start failed has not ended yet');
  }
  return false;
}

// What it was `created` for has happened: a program that runs must not be taken for one that waits.
function recordRunning({ deps, id }: ContainerContext): void {
  const now = deps.containers.get(id);
  if (now.state === 'created') deps.containers.putFact({ ...now, state: 'running' });
}

/**
 * Notes that a created container's program could not be started, in the words of `message`; with `wasKilled`, its first
 * process was killed for that.
 */
export function recordStartError({ deps, id }: ContainerContext, message: string, wasKilled = false): void {
  const record = deps.containers.find(id);
  if (!record) return;
  // Its first process may have ended by itself meanwhile, and that is known better.
  const endedByUs = record.state === 'running' || (record.exit?.code === KILLED_CODE && record.exit.reason === 'Error');
  if (record.state !== 'created' && !(wasKilled && endedByUs)) return;
  const atUs = deps.clock.nowUs();
  deps.containers.putFact({
    ...record,
    state: 'exited',
    startedAtUs: atUs,
    exit: { code: START_ERROR_CODE, atUs, reason: 'StartError', message },
  });
}

const startInRuntime: Step<ContainerContext> = {
  name: 'start in runtime',
  async run({ deps, id }, signal) {
    const record = deps.containers.get(id);
    // Noted before: a short program may have ended when the runtime answers, and its exit tells whether it ever began.
    deps.containers.put({ ...record, startedAtUs: deps.clock.nowUs() });
    const { restoreFrom } = record;
    if (restoreFrom === undefined) await deps.runtime.startContainer(deps.handlers.get(record.handler), record, signal);
    else await restore({ deps, id }, restoreFrom, signal);
    recordRunning({ deps, id });
    if (restoreFrom !== undefined) await releaseSource({ deps, id }, restoreFrom);
  },
};

/** Has the container's processes go on from a checkpoint. */
async function restore({ deps, id }: ContainerContext, folder: string, signal: AbortSignal): Promise<void> {
  const request = creation({ deps, id }, deps.runtime.bundles.readSpec(id), signal);
  const { init, monitor } = await deps.runtime.restore(request, imagesOf(folder), signal);
  deps.containers.put({ ...deps.containers.get(id), init, monitor, restoreFrom: undefined });
}

/** What a restored container does not need any more. It runs, whatever becomes of this. */
async function releaseSource({ deps, id }: ContainerContext, folder: string): Promise<void> {
  try {
    releaseVolumes({ deps, id });
    await removeRestoreSource(folder);
  } catch (err) {
    deps.log.warn({ container: id, folder, err: describe(err) }, 'what a container was restored from is left');
  }
}

/** StartContainer, in order. */
export const startContainerSteps: readonly Step<ContainerContext>[] = [startInRuntime];
