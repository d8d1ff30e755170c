import type { Profile } from '../profile/profile.ts';
import type { Memory } from './daemon.ts';
import type { Floors } from './floors.ts';
import { CALLS, type Call, type Sample, SUMS } from './lifecycle.ts';
import type { LoopOfLives } from './loop-of-lives.ts';
import type { Level, Measured, Measurement, Round } from './rounds.ts';
import type { Standing } from './standing.ts';
import { type Figures, figuresOf, median } from './statistics.ts';

/** The figures of one endpoint at one number at a time. Times in milliseconds. */
export interface LevelFigures {
  readonly parallel: number;
  readonly calls: Readonly<Record<string, Figures>>;
  /** Median of the rounds, like those below. */
  readonly lifecyclesPerSecond: number;
  readonly machineMsPerLifecycle: number;
  readonly daemonMsPerLifecycle: number;
  readonly clientMsPerLifecycle: number;
}

/** What streams carried, medians of the rounds. */
export interface StreamFigures {
  readonly bytesPerSecond: number;
  readonly daemonMsPerMegabyte: number | undefined;
}

/** What a bench found, for programs. */
export interface Results {
  readonly startedAt: string;
  readonly machine: Readonly<Record<string, string | number>>;
  readonly idleMsPerSecond: number;
  readonly floors: Floors | undefined;
  /** Of the first endpoint, where it is a berthd that was started for it. */
  readonly loop: LoopOfLives | undefined;
  readonly profiles: readonly Profile[];
  readonly endpoints: readonly {
    readonly name: string;
    readonly runtime: string;
    readonly memoryBefore: Memory | undefined;
    readonly memoryAfter: Memory | undefined;
    readonly memoryRested: Memory | undefined;
    /** How many lives the memory after them is of. */
    readonly lives: number;
    readonly levels: readonly LevelFigures[];
    /** Undefined when none were asked for. */
    readonly streams: Readonly<Record<'exec' | 'portForward', StreamFigures>> | undefined;
    /** In the order of their numbers; empty when no pods were to stand. */
    readonly standing: readonly Standing[];
  }[];
}

export type EndpointResults = Results['endpoints'][number];

/** Brings measurements into the form in which they are kept. */
export function summarise(
  { idleMsPerSecond, endpoints }: Measurement,
  about: Pick<Results, 'startedAt' | 'machine' | 'floors' | 'loop' | 'profiles'>,
): Results {
  return {
    ...about,
    idleMsPerSecond,
    endpoints: endpoints.map(({ levels, streams, ...rest }: Measured) => ({
      ...rest,
      levels: levels.map(levelFigures),
      streams:
        streams.length === 0
          ? undefined
          : {
              exec: streamFigures(streams.map(({ exec }) => exec)),
              portForward: streamFigures(streams.map(({ portForward }) => portForward)),
            },
    })),
  };
}

function streamFigures(runs: readonly StreamFigures[]): StreamFigures {
  const shares = runs.flatMap(({ daemonMsPerMegabyte }) => daemonMsPerMegabyte ?? []);
  return {
    bytesPerSecond: median(runs.map(({ bytesPerSecond }) => bytesPerSecond)),
    daemonMsPerMegabyte: shares.length === 0 ? undefined : median(shares),
  };
}

function levelFigures({ parallel, rounds }: Level): LevelFigures {
  const samples = rounds.flatMap((round) => round.samples);
  const sumOf = (sample: Sample, calls: readonly Call[]): number => calls.reduce((sum, call) => sum + sample[call], 0);
  const perRound = (value: (round: Round) => number): number =>
    median(rounds.map((round) => value(round) / round.samples.length));
  return {
    parallel,
    calls: Object.fromEntries([
      ...CALLS.map((call) => [call, figuresOf(samples.map((sample) => sample[call]))]),
      ...Object.entries(SUMS).map(([name, calls]) => [name, figuresOf(samples.map((sample) => sumOf(sample, calls)))]),
    ]),
    lifecyclesPerSecond: median(rounds.map((round) => (round.samples.length * 1000) / round.wallMs)),
    machineMsPerLifecycle: perRound((round) => round.machineMs),
    daemonMsPerLifecycle: perRound((round) => round.daemonMs),
    clientMsPerLifecycle: perRound((round) => round.clientMs),
  };
}
