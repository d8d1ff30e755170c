import { withDeadline } from '../base/deadline.ts';
import { BerthError, describe, findCause, wrap } from '../base/errors.ts';
import { type Journal, RollbackError, runSteps, type Step, undoSteps } from '../base/steps.ts';
import type { Unclaimed } from './creations.ts';
import type { PodDeps } from './pod-deps.ts';
import type { RecordIndex } from './record-index.ts';

/** Showing a record takes one write. */
const CLAIM_TIMEOUT_MS = 10_000;

interface Subject {
  readonly deps: PodDeps;
  readonly id: string;
}

interface Creating {
  readonly id: string;
  readonly name: string;
  readonly state: string;
}

/** How sandboxes, or containers, come to be. */
export interface CreationPipeline<R extends Creating, C extends Subject> {
  /** The name under which it is journalled. */
  readonly name: string;
  readonly kind: 'sandbox' | 'container';
  /** All but the last may be undone; the last one shows the record to clients. */
  readonly steps: readonly Step<C>[];
  readonly records: (deps: PodDeps) => RecordIndex<R>;
  readonly withState: (record: R, state: 'unknown') => R;
  /** Throws when others have what the record claims. From then on others see its claim: nothing comes in between. */
  readonly admit?: (deps: PodDeps, record: R) => void;
  /** Drops the record and the journal of something that has nothing left on the machine. */
  readonly forget: (ctx: C) => void;
}

/**
 * Makes something up to its last step, and returns it for a client to claim. Until then its record is `creating`: no
 * client sees it, and a restart undoes it. Everything is undone when a step fails; when the undoing fails too, it stays
 * listed as `unknown`, so that its client's removal can finish the work.
 */
export async function makeUnclaimed<R extends Creating, C extends Subject>(
  pipeline: CreationPipeline<R, C>,
  record: R,
  ctx: C,
  onStep: (step: string) => void,
  signal: AbortSignal,
): Promise<Unclaimed<R>> {
  const { deps, id } = ctx;
  const records = pipeline.records(deps);
  return await deps.locks.withKey(id, signal, async () => {
    pipeline.admit?.(deps, record);
    // Before the first step: the journal's rows must find their record after a crash.
    records.put(record);
    const journal = deps.journals.open(pipeline.name, id);
    try {
      await runSteps(pipeline.steps.slice(0, -1), ctx, signal, noting(journal, onStep));
    } catch (err) {
      settleFailure(pipeline, ctx, err);
      throw wrap(`${verbOf(pipeline)} ${record.name} (${id})`, err);
    }
    return {
      id,
      claim: () => claim(pipeline, record.name, ctx, journal),
      discard: () => discard(pipeline, ctx, journal),
    };
  });
}

async function claim<R extends Creating, C extends Subject>(
  pipeline: CreationPipeline<R, C>,
  name: string,
  ctx: C,
  journal: Journal,
): Promise<R> {
  const { deps, id } = ctx;
  const records = pipeline.records(deps);
  using signal = withDeadline(`finish ${pipeline.kind} ${name}`, CLAIM_TIMEOUT_MS);
  return await deps.locks.withKey(id, signal, async () => {
    if (records.find(id)?.state !== 'creating')
      throw new BerthError('unavailable', `${pipeline.kind} ${name} was removed while it was made`);
    try {
      await runSteps(pipeline.steps.slice(-1), ctx, signal, journal);
    } catch (err) {
      await undoAll(pipeline, ctx, journal);
      throw wrap(`${verbOf(pipeline)} ${name} (${id})`, err);
    }
    deps.journals.finish(pipeline.name, id);
    return records.get(id);
  });
}

async function discard<R extends Creating, C extends Subject>(
  pipeline: CreationPipeline<R, C>,
  ctx: C,
  journal: Journal,
): Promise<void> {
  const { deps, id } = ctx;
  // No deadline but those of the single steps: what waits for its turn here is removing the same thing.
  await deps.locks.withKey(id, new AbortController().signal, async () => {
    if (pipeline.records(deps).find(id)?.state === 'creating') await undoAll(pipeline, ctx, journal);
  });
}

async function undoAll<R extends Creating, C extends Subject>(
  pipeline: CreationPipeline<R, C>,
  ctx: C,
  journal: Journal,
): Promise<void> {
  try {
    await undoSteps(pipeline.steps, ctx, journal);
  } catch (err) {
    keepAsUnknown(pipeline, ctx, err);
    return;
  }
  forget(pipeline, ctx);
}

/** Ends a pipeline that failed: nothing is left, or it stays as `unknown` with what could not be undone. */
function settleFailure<R extends Creating, C extends Subject>(
  pipeline: CreationPipeline<R, C>,
  ctx: C,
  err: unknown,
): void {
  if (findCause(err, RollbackError)) keepAsUnknown(pipeline, ctx, err);
  else forget(pipeline, ctx);
}

function forget<R extends Creating, C extends Subject>(pipeline: CreationPipeline<R, C>, ctx: C): void {
  try {
    pipeline.forget(ctx);
  } catch (err) {
    keepAsUnknown(pipeline, ctx, err);
  }
}

// The one state in which nobody sees it, and nobody can remove it, must not last: whatever happens, this one is shown.
function keepAsUnknown<R extends Creating, C extends Subject>(
  pipeline: CreationPipeline<R, C>,
  { deps, id }: C,
  err: unknown,
): void {
  const records = pipeline.records(deps);
  const unknown = pipeline.withState(records.get(id), 'unknown');
  const fields = { [pipeline.kind]: id, err: describe(err) };
  deps.log.error(fields, `${pipeline.kind} could not be rolled back; remove it to try again`);
  // While the store has it as `creating`, the journal stays open: after a restart it is undone once more.
  if (records.putFact(unknown)) deps.journals.finish(pipeline.name, id);
}

function noting(journal: Journal, onStep: (step: string) => void): Journal {
  return {
    begin(step, mayWait) {
      onStep(step);
      journal.begin(step, mayWait);
    },
    end: (step, outcome, durationMs) => journal.end(step, outcome, durationMs),
    undone: (step, durationMs) => journal.undone(step, durationMs),
    around: journal.around,
  };
}

function verbOf({ kind }: { readonly kind: 'sandbox' | 'container' }): string {
  return kind === 'sandbox' ? 'run sandbox' : 'create container';
}
