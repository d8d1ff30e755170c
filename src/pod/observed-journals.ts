import { describe } from '../base/errors.ts';
import type { FaultPoints } from '../base/fault-points.ts';
import type { Logger } from '../base/log.ts';
import type { Meter } from '../base/meter.ts';
import type { Around, Journal } from '../base/steps.ts';
import { silentTracing, type Tracing } from '../base/tracing.ts';
import type { Journals } from './pod-deps.ts';

/**
 * Journals that also count each step and write it to the log: what the store keeps is gone with its pod. What the store
 * does not take (another process may hold the database) fails nothing but the beginning of a step: a row too many has
 * something undone or looked at twice, which is harmless.
 */
export class ObservedJournals implements Journals {
  readonly #kept: Journals;
  readonly #meter: Meter;
  readonly #log: Logger;
  readonly #faults: FaultPoints | undefined;
  readonly #tracing: Tracing;
  /** Subjects that are gone, and that the store has not forgotten yet. */
  readonly #gone = new Set<string>();

  /** With `faults`, every step and every undo is a place where a test may disturb it. */
  constructor(
    kept: Journals,
    {
      meter,
      log,
      faults,
      tracing = silentTracing,
    }: { meter: Meter; log: Logger; faults?: FaultPoints | undefined; tracing?: Tracing },
  ) {
    this.#kept = kept;
    this.#meter = meter;
    this.#log = log;
    this.#faults = faults;
    this.#tracing = tracing;
  }

  open(pipeline: string, subject: string): Journal {
    const kept = this.#kept.open(pipeline, subject);
    return {
      around: this.#around(pipeline, subject),
      begin: (step, mayWait) => kept.begin(step, mayWait),
      end: (step, outcome, durationMs) => {
        this.#attempt(subject, () => kept.end(step, outcome, durationMs));
        this.#meter.step(pipeline, step, outcome, durationMs / 1000);
        this.#log.debug({ pipeline, step, subject, outcome, ms: Math.round(durationMs * 100) / 100 }, 'step ended');
      },
      undone: (step, durationMs) => {
        this.#attempt(subject, () => kept.undone(step, durationMs));
        this.#meter.stepUndone(pipeline, step);
        this.#log.info({ pipeline, step, subject, ms: Math.round(durationMs * 100) / 100 }, 'step undone');
      },
    };
  }

  finish(pipeline: string, subject: string): void {
    this.#attempt(subject, () => this.#kept.finish(pipeline, subject));
  }

  forget(subject: string): void {
    this.#gone.add(subject);
    for (const gone of this.#gone) {
      this.#attempt(gone, () => {
        this.#kept.forget(gone);
        this.#gone.delete(gone);
      });
    }
  }

  /** Undefined when nobody disturbs steps or wants to see them: then they run as they are. */
  #around(pipeline: string, subject: string): Around | undefined {
    const [faults, tracing] = [this.#faults, this.#tracing];
    const disturbed: Around | undefined =
      faults && ((name, work, signal) => faults.around(`${pipeline}/${name}`, work, signal));
    if (!tracing.isRecording) return disturbed;
    const facts = { 'berth.pipeline': pipeline, 'berth.subject': subject };
    return (name, work, signal) =>
      tracing.inSpan(name, facts, async () => await (disturbed ? disturbed(name, work, signal) : work()));
  }

  #attempt(subject: string, write: () => void): void {
    try {
      write();
    } catch (err) {
      this.#log.warn({ subject, err: describe(err) }, 'the journal does not take a note');
    }
  }
}
