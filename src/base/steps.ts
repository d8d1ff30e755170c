import { because, kindOf, wrap } from './errors.ts';
import type { Outcome } from './meter.ts';

/**
 * One named step of a pipeline. `run` may have half happened when it throws, and a process may die in it: `undo`
 * therefore tolerates whatever it finds, and may run twice.
 */
export interface Step<C> {
  readonly name: string;
  run(ctx: C, signal: AbortSignal): Promise<void> | void;
  undo?(ctx: C): Promise<void> | void;
}

/** Where a pipeline writes down how far it got, so that a restart can undo it, and where its times are kept. */
export interface Journal {
  /** Called before a step runs. Throws when it cannot be written: nothing would undo the step after a crash. */
  begin(step: string): void;
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
 * step's name. The rollback takes no signal: a caller that gave up must not cut it short. It stops at the first undo
 * that fails, because older resources may be what the failed one still needs, and throws a RollbackError as cause.
 */
export async function runSteps<C>(
  steps: readonly Step<C>[],
  ctx: C,
  signal: AbortSignal,
  journal: Journal,
): Promise<void> {
  const begun: Step<C>[] = [];
  try {
    for (const step of steps) {
      signal.throwIfAborted();
      // Before it runs: a CNI ADD that failed halfway may still hold an address.
      begun.push(step);
      journal.begin(step.name);
      const run = (): Promise<void> | void => step.run(ctx, signal);
      await timed(step.name, journal, () => (journal.around ? journal.around(step.name, run, signal) : run()));
    }
  } catch (cause) {
    const failed = begun.at(-1)?.name ?? 'before the first step';
    await undoSteps(begun, ctx, journal).catch((undoError: unknown) => {
      throw because(
        kindOf(cause),
        `${failed} failed, and so did its rollback`,
        new RollbackError([cause, undoError], both(cause, undoError)),
      );
    });
    throw wrap(failed, cause);
  }
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
