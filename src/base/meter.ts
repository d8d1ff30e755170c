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

/** How a container ended: with 0, with another code, by a signal, for lack of memory, or without anybody's notice. */
export type ExitClass = 'success' | 'error' | 'signal' | 'oom' | 'unseen';

/** What an external process was run for. */
export type Errand =
  | { readonly of: 'runtime'; readonly handler: string; readonly verb: string }
  | { readonly of: 'network'; readonly plugin: string; readonly verb: string };

/** One layer that came from a registry. */
export interface PulledLayer {
  readonly compression: string;
  readonly compressedBytes: number;
  readonly unpackedBytes: number;
  readonly downloadSeconds: number;
  /** As far as it went on after the download. */
  readonly unpackSeconds: number;
}

/** What rooms report to be counted. src/metrics implements it for Prometheus; durations are in seconds. */
export interface Meter {
  /** One gRPC call has come; rpc() follows. */
  rpcBegan(method: string): void;
  /** One gRPC call has been answered. */
  rpc(method: string, outcome: Outcome, seconds: number): void;
  /** One step of a pipeline has ended. */
  step(pipeline: string, step: string, outcome: Outcome, seconds: number): void;
  /** One step has been undone. */
  stepUndone(pipeline: string, step: string): void;
  /** One external process has ended. `program` is its base name. */
  process(program: string, outcome: Outcome, seconds: number): void;
  /** One process has ended that an OCI runtime or a network plugin was run by; process() tells of it as well. */
  errand(errand: Errand, outcome: Outcome, seconds: number): void;
  /** One image pull has ended; `bytes` were transferred from registries. */
  pull(outcome: Outcome, bytes: number, seconds: number): void;
  /** A pull has failed. */
  pullFailed(reason: PullFailure): void;
  /** One step of a pull has ended, well or not. */
  pullStep(step: PullStep, seconds: number): void;
  /** Layers that a pull found on this node, and how many compressed bytes it did not have to transfer for them. */
  layersPresent(count: number, bytes: number): void;
  /** A layer has come from a registry. */
  layerPulled(layer: PulledLayer): void;
  /** One CNI verb (ADD, DEL, CHECK, STATUS, GC) has ended. */
  cni(verb: string, outcome: Outcome, seconds: number): void;
  /** A container has been made for this runtime handler. */
  containerCreated(handler: string): void;
  /** A container has ended. */
  containerExited(how: ExitClass): void;
  /** A client's time was over while what it asked for was still at this step. */
  stalled(pipeline: string, step: string): void;
  /** A subscriber was too slow for an event of a pod, and will not get it. */
  eventDropped(): void;
}

/** A meter that counts nothing. */
export const silentMeter: Meter = {
  rpcBegan() {},
  rpc() {},
  step() {},
  stepUndone() {},
  process() {},
  errand() {},
  pull() {},
  pullFailed() {},
  pullStep() {},
  layersPresent() {},
  layerPulled() {},
  cni() {},
  containerCreated() {},
  containerExited() {},
  stalled() {},
  eventDropped() {},
};
