import type { ErrorKind } from './errors.ts';

/** How an operation ended: `ok`, or the kind of its error. */
export type Outcome = 'ok' | ErrorKind;

/** What rooms report to be counted. src/metrics implements it for Prometheus; durations are in seconds. */
export interface Meter {
  /** One gRPC call has been answered. */
  rpc(method: string, outcome: Outcome, seconds: number): void;
  /** One step of a pipeline (or its undo) has ended. */
  step(pipeline: string, step: string, outcome: Outcome, seconds: number): void;
  /** One external process has ended. `program` is its base name. */
  process(program: string, outcome: Outcome, seconds: number): void;
  /** One image pull has ended; `bytes` were transferred from registries. */
  pull(outcome: Outcome, bytes: number, seconds: number): void;
  /** One CNI verb (ADD, DEL, CHECK, STATUS, GC) has ended. */
  cni(verb: string, outcome: Outcome, seconds: number): void;
  /** A container was found killed for lack of memory. */
  oomKilled(): void;
  /** A client's time was over while what it asked for was still at this step. */
  stalled(pipeline: string, step: string): void;
  /** A subscriber was too slow for an event of a pod, and will not get it. */
  eventDropped(): void;
}

/** A meter that counts nothing. */
export const silentMeter: Meter = {
  rpc() {},
  step() {},
  process() {},
  pull() {},
  cni() {},
  oomKilled() {},
  stalled() {},
  eventDropped() {},
};
