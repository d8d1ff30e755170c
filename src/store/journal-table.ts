import type { Database, Statement } from 'better-sqlite3';

import type { Clock } from '../base/clock.ts';
import type { Journal } from '../base/steps.ts';
import { inStore } from './store-error.ts';

/** A pipeline that was begun and neither finished nor fully undone. */
export interface UnfinishedPipeline {
  readonly pipeline: string;
  readonly subject: string;
  /** Names of the steps that may have left something, in the order in which they were begun. */
  readonly begun: readonly string[];
}

/** One change of the database. */
type Write = () => void;

/** How long a step took, for people. */
export interface StepTime {
  readonly pipeline: string;
  readonly step: string;
  /** `ok`, an error's kind, or `running`. */
  readonly outcome: string;
  readonly durationMs: number;
  readonly startedAtUs: number;
}

/**
 * Which step of which pipeline was begun on what. After a crash it says what must be undone; before that, it says where
 * the time of a pod went. The subject is the id of a sandbox or container.
 */
export class JournalTable {
  readonly #clock: Clock;
  readonly #open: (subject: string, pipeline: string, startedAtUs: number) => void;
  readonly #begin: Statement<[string, string, number, string, number]>;
  readonly #end: Statement<[string, number, string, string, number]>;
  readonly #undone: Statement<[string, string, number]>;
  readonly #finish: Statement<[string, string]>;
  readonly #atOnce: (writes: readonly Write[]) => void;
  readonly #forget: (subject: string) => void;
  readonly #forgetGone: () => void;
  readonly #times: Statement<[string], StepTime>;
  readonly #unfinished: Statement<[], { subject: string; pipeline: string }>;
  readonly #begun: Statement<[string, string], { step: string }>;
  /**
   * What is written together with what the same pipeline notes next: each transaction costs more than what is in it. By
   * subject and pipeline.
   */
  readonly #later = new Map<string, Map<string, Write[]>>();

  constructor(db: Database, clock: Clock) {
    this.#clock = clock;
    const dropSteps = db.prepare<[string, string]>('DELETE FROM steps WHERE subject = ? AND pipeline = ?');
    const open = db.prepare<[string, string, number]>(
      'INSERT OR REPLACE INTO pipelines (subject, pipeline, finished, started_at_us) VALUES (?, ?, 0, ?)',
    );
    this.#open = (subject, pipeline, startedAtUs) => {
      dropSteps.run(subject, pipeline);
      open.run(subject, pipeline, startedAtUs);
    };
    this.#begin = db.prepare(
      "INSERT INTO steps (subject, pipeline, position, step, state, outcome, started_at_us) VALUES (?, ?, ?, ?, 'begun', 'running', ?)",
    );
    this.#end = db.prepare(
      "UPDATE steps SET state = 'done', outcome = ?, duration_ms = ? WHERE subject = ? AND pipeline = ? AND position = ?",
    );
    this.#undone = db.prepare("UPDATE steps SET state = 'undone' WHERE subject = ? AND pipeline = ? AND position = ?");
    this.#finish = db.prepare('UPDATE pipelines SET finished = 1 WHERE subject = ? AND pipeline = ?');
    this.#atOnce = db.transaction((writes: readonly Write[]) => {
      for (const write of writes) write();
    });
    const forgetSteps = db.prepare<[string]>('DELETE FROM steps WHERE subject = ?');
    const forgetPipelines = db.prepare<[string]>('DELETE FROM pipelines WHERE subject = ?');
    this.#forget = db.transaction((subject: string) => {
      forgetSteps.run(subject);
      forgetPipelines.run(subject);
    });
    const gone = `finished = 1 AND subject NOT IN (SELECT id FROM sandboxes UNION SELECT id FROM containers)`;
    const dropGoneSteps = db.prepare(
      `DELETE FROM steps WHERE (subject, pipeline) IN (SELECT subject, pipeline FROM pipelines WHERE ${gone})`,
    );
    const dropGone = db.prepare(`DELETE FROM pipelines WHERE ${gone}`);
    this.#forgetGone = db.transaction(() => {
      dropGoneSteps.run();
      dropGone.run();
    });
    this.#times = db.prepare(
      `SELECT s.pipeline, s.step, s.outcome, s.duration_ms AS durationMs, s.started_at_us AS startedAtUs
       FROM steps s JOIN pipelines p USING (subject, pipeline)
       WHERE s.subject = ? ORDER BY p.started_at_us, s.position`,
    );
    this.#unfinished = db.prepare('SELECT subject, pipeline FROM pipelines WHERE finished = 0 ORDER BY started_at_us');
    this.#begun = db.prepare(
      "SELECT step FROM steps WHERE subject = ? AND pipeline = ? AND state <> 'undone' ORDER BY position",
    );
  }

  /**
   * The journal of one run of a pipeline; an earlier run of it on the same subject is forgotten with its first step. That
   * a step went well is kept in memory until the next note: after a crash it counts as begun, which is undone alike.
   */
  open(pipeline: string, subject: string): Journal {
    const startedAtUs = this.#clock.nowUs();
    this.#drop(pipeline, subject);
    this.#note(pipeline, subject, () => this.#open(subject, pipeline, startedAtUs));
    const positions = new Map<string, number>();
    const positionOf = (step: string): number => positions.get(step) ?? -1;
    return {
      begin: (step, mayWait) => {
        const isFirst = positions.size === 0;
        positions.set(step, positions.size);
        const beganAtUs = this.#clock.nowUs();
        const write = () => this.#begin.run(subject, pipeline, positionOf(step), step, beganAtUs);
        // From the first note on the pipeline is known as one that was begun.
        if (mayWait && !isFirst) this.#note(pipeline, subject, write);
        else this.#write(pipeline, subject, write);
      },
      end: (step, outcome, durationMs) => {
        const write = () => this.#end.run(outcome, durationMs, subject, pipeline, positionOf(step));
        if (outcome === 'ok') this.#note(pipeline, subject, write);
        else this.#write(pipeline, subject, write);
      },
      undone: (step) => {
        this.#write(pipeline, subject, () => this.#undone.run(subject, pipeline, positionOf(step)));
      },
    };
  }

  /** The pipeline is through, or fully undone. Its times stay until forget(). */
  finish(pipeline: string, subject: string): void {
    this.#write(pipeline, subject, () => this.#finish.run(subject, pipeline));
  }

  /** Forgets all pipelines of a subject that is gone. */
  forget(subject: string): void {
    inStore(`forget the journal of ${subject}`, () => this.#forget(subject));
    this.#later.delete(subject);
  }

  /** Forgets what is through of subjects without a record: a daemon died before it did, or the disk was full. */
  forgetGone(): void {
    inStore('forget the journals of what is gone', () => this.#forgetGone());
  }

  /** The steps that are kept of a subject, oldest pipeline first. */
  times(subject: string): StepTime[] {
    for (const pipeline of [...(this.#later.get(subject)?.keys() ?? [])]) this.#write(pipeline, subject);
    return inStore(`read the journal of ${subject}`, () => this.#times.all(subject));
  }

  /** What a daemon that died has left half done, oldest first. */
  unfinished(): UnfinishedPipeline[] {
    return inStore('read the journal', () =>
      this.#unfinished.all().map(({ subject, pipeline }) => ({
        subject,
        pipeline,
        begun: this.#begun.all(subject, pipeline).map(({ step }) => step),
      })),
    );
  }

  /** Writes what is due, and what was put off. Throws, and keeps the latter, when the database does not take it. */
  #write(pipeline: string, subject: string, ...writes: readonly Write[]): void {
    const all = [...(this.#later.get(subject)?.get(pipeline) ?? []), ...writes];
    inStore(`write the journal of ${pipeline} on ${subject}`, () => this.#atOnce(all));
    this.#drop(pipeline, subject);
  }

  #note(pipeline: string, subject: string, write: Write): void {
    const ofSubject = this.#later.get(subject) ?? new Map<string, Write[]>();
    this.#later.set(subject, ofSubject.set(pipeline, [...(ofSubject.get(pipeline) ?? []), write]));
  }

  #drop(pipeline: string, subject: string): void {
    const ofSubject = this.#later.get(subject);
    ofSubject?.delete(pipeline);
    if (ofSubject?.size === 0) this.#later.delete(subject);
  }
}
