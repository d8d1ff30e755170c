import { because, kindOf, wrap } from './errors.ts';
import type { Outcome } from './meter.ts';

/**
 * One named step of a pipeline. `run` may have half happened when it throws, and a process may die in it: `undo`
 * therefore tolerates whatever it finds, and may run twice.
 */
export interface Step<C> {
  readonly name: string;
  /** True for one that needs nothing of the step before it: both run side by side. It is undone before that one. */
  readonly isBeside?: boolean;
  run(ctx: C, signal: AbortSignal): Promise<void> | void;
  undo?(ctx: C): Promise<void> | void;
}

/** Where a pipeline writes down how far it got, so that a restart can undo it, and where its times are kept. */
export interface Journal {
  /**
   * Called before a step runs. Throws when it cannot be written: nothing would undo the step after a crash. With
   * `mayWait` that may be put off until the next note, but for the first step: there is nothing to undo in it, or the
   * next one begins at once.
   */
  begin(step: string, mayWait: boolean): void;
  /** Called after a step ran or failed, with its duration in milliseconds. Never throws. */
  end(step: string, outcome: Outcome, durationMs: number): void;
  /** Called after a step's undo succeeded. Never throws: an undo may run twice, and a rollback must not stop here. */
  undone(step: string, durationMs: number): void;
  /** Set where a test disturbs steps: does the work of one, or of its undo, as FaultPoints.around() does. */
  readonly around?: Around | undefined;
}

/** Does the work of the step or undo of that name, disturbed or not. */
export type Around = (name: string, work: () => Promise<void> | void, signal?: AbortSignal) => Promise<void>;

/** Thrown when a step failed and its rollback failed too: what is left needs another try (stop, remove, reconcile). */
export class RollbackError extends AggregateError {
  override readonly name = 'RollbackError';
}

/**
 * Runs steps in order. When one fails, undoes those begun, newest first, and throws the failure wrapped with the
 * step's name; what runs beside it is aborted and has ended by then. The rollback takes no signal: a caller that gave up
 * must not cut it short. It stops at the first undo that fails, because older resources may be what the failed one still
 * needs, and throws a RollbackError as cause.
 */
export async function runSteps<C>(
  steps: readonly Step<C>[],
  ctx: C,
  signal: AbortSignal,
  journal: Journal,
): Promise<void> {
  const begun: Step<C>[] = [];
  const failed = new Map<unknown, string>();
  const runOne = async (step: Step<C>, limited: AbortSignal): Promise<void> => {
    const run = (): Promise<void> | void => step.run(ctx, limited);
    try {
      await timed(step.name, journal, () => (journal.around ? journal.around(step.name, run, limited) : run()));
    } catch (err) {
      if (!failed.has(err)) failed.set(err, step.name);
      throw err;
    }
  };
  try {
    for (const group of groupsOf(steps)) {
      signal.throwIfAborted();
      for (const [index, step] of group.entries()) {
        // Before it runs: a CNI ADD that failed halfway may still hold an address.
        begun.push(step);
        const isLast = index === group.length - 1;
        journal.begin(step.name, !isLast || group.every(({ undo }) => undo === undefined));
      }
      const [first, ...others] = group;
      if (first && others.length === 0) await runOne(first, signal);
      else await allOf(group, signal, runOne);
    }
  } catch (cause) {
    const what = failed.get(cause) ?? begun.at(-1)?.name ?? 'before the first step';
    await undoSteps(begun, ctx, journal).catch((undoError: unknown) => {
      throw because(
        kindOf(cause),
        `${what} failed, and so did its rollback`,
        new RollbackError([cause, undoError], both(cause, undoError)),
      );
    });
    throw wrap(what, cause);
  }
}

/** Steps that run side by side, in the order of the steps. */
function groupsOf<C>(steps: readonly Step<C>[]): Step<C>[][] {
  const groups: Step<C>[][] = [];
  for (const step of steps) {
    const group = groups.at(-1);
    if (step.isBeside === true && group) group.push(step);
    else groups.push([step]);
  }
  return groups;
}

/**
 * Runs steps side by side until all have ended; the first that fails aborts the others. What is thrown is the failure of
 * the first step in order that did not fail because of that: what a later one met may have come of it.
 */
async function allOf<C>(
  group: readonly Step<C>[],
  signal: AbortSignal,
  run: (step: Step<C>, limited: AbortSignal) => Promise<void>,
): Promise<void> {
  const failed = new AbortController();
  const limited = AbortSignal.any([signal, failed.signal]);
  let first: { readonly err: unknown } | undefined;
  const own = await Promise.all(
    group.map(async (step) => {
      try {
        await run(step, limited);
        return undefined;
      } catch (err) {
        const isOwn = !first || (kindOf(err) !== 'cancelled' && !hasCause(err, limited.reason));
        first ??= { err };
        failed.abort(err);
        return isOwn ? { err } : undefined;
      }
    }),
  );
  if (first) throw (own.find((failure) => failure !== undefined) ?? first).err;
}

function hasCause(err: unknown, cause: unknown): boolean {
  for (let at = err; at !== undefined; at = at instanceof Error ? at.cause : undefined) if (at === cause) return true;
  return false;
}

/** Undoes steps newest first; used by the rollback, and by reconcile for pipelines that a crash cut short. */
export async function undoSteps<C>(begun: readonly Step<C>[], ctx: C, journal: Journal): Promise<void> {
  for (const step of begun.toReversed()) {
    const startedMs = performance.now();
    try {
      if (step.undo) await undo(step, ctx, journal);
    } catch (err) {
      throw wrap(`undo ${step.name}`, err);
    }
    journal.undone(step.name, performance.now() - startedMs);
  }
}

async function undo<C>(step: Step<C>, ctx: C, journal: Journal): Promise<void> {
  const run = (): Promise<void> | void => step.undo?.(ctx);
  await (journal.around ? journal.around(`undo ${step.name}`, run) : run());
}

async function timed(name: string, journal: Journal, run: () => Promise<void> | void): Promise<void> {
  const startedMs = performance.now();
  try {
    await run();
    journal.end(name, 'ok', performance.now() - startedMs);
  } catch (err) {
    journal.end(name, kindOf(err), performance.now() - startedMs);
    throw err;
  }
}

function both(first: unknown, second: unknown): string {
  return [first, second].map((err) => (err instanceof Error ? err.message : String(err))).join('; ');
}
