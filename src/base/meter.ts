import type { ErrorKind } from './errors.ts';

/** How an operation ended: `ok`, or the kind of its error. */
export type Outcome = 'ok' | ErrorKind;

/** Why a pull failed, in few words that alerts can be made of. */
export type PullFailure =
  | 'registry-unavailable'
  | 'rate-limited'
  | 'permission'
  | 'not-found'
  | 'untrusted'
  | 'bad-image'
  | 'no-space'
  | 'deadline'
  | 'cancelled'
  | 'internal';

/** The steps of a pull: `layers` is all downloads and unpacks, side by side. */
export type PullStep = 'resolve' | 'trust' | 'layers' | 'commit';

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
  /** A pull has failed. */
  pullFailed(reason: PullFailure): void;
  /** One step of a pull has ended, well or not. */
  pullStep(step: PullStep, seconds: number): void;
  /** Layers that a pull found on this node. */
  layersPresent(count: number): void;
  /** A layer has come from a registry: so many bytes there, and on disk; unpacking as far as it went on after the download. */
  layerPulled(bytes: { compressed: number; unpacked: number }, seconds: { download: number; unpack: number }): void;
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
  pullFailed() {},
  pullStep() {},
  layersPresent() {},
  layerPulled() {},
  cni() {},
  oomKilled() {},
  stalled() {},
  eventDropped() {},
};
