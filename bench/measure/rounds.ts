import { setTimeout } from 'node:timers/promises';

import {
  ImageServiceService,
  ImageStatusRequest,
  RuntimeServiceService,
  VersionRequest,
} from '../../proto/gen/cri/api.ts';
import { Connection } from '../../src/cli/connection.ts';
import { findListener, type Memory, memoryOf } from './daemon.ts';
import { liveOnePod, type PodWish, removeBenchPods, type Sample } from './lifecycle.ts';
import { machineBusyMs, ownBusyMs, processBusyMs } from './processor-time.ts';
import { measureStanding, type Standing, type StandingPlan } from './standing.ts';
import { measureStreams, type StreamRun } from './streams.ts';

/** How often lists of standing pods are asked for, and how often their daemon is started. */
const STANDING_TIMES = 60;
const RESTARTS = 3;

/** A CRI server to measure. */
export interface Endpoint {
  readonly name: string;
  /** `unix:///path`. */
  readonly address: string;
  /** Where it was started from here: stops the daemon and starts it anew; how long the start took, in milliseconds. */
  readonly restart?: () => Promise<number>;
}

/** What to measure, the same at every endpoint. */
export interface Plan extends PodWish {
  /** Lifecycles that count, at each endpoint and for each number at a time. */
  readonly lifecycles: number;
  /** How many turns each endpoint gets: A B A B. */
  readonly rounds: number;
  /** Lifecycles at each endpoint that do not count, before the first round. */
  readonly warmUp: number;
  /** How many at a time, one after the other. */
  readonly parallel: readonly number[];
  /** How long the idle machine is watched before the first round. */
  readonly idleMs: number;
  /** How long each daemon at least rests after its last life, until what it keeps is looked at. */
  readonly settleMs: number;
  /** How many bytes each stream carries; 0 for no streams. */
  readonly streamBytes: number;
  /** How many pods to measure while they stand; 0 for none. */
  readonly standing: number;
  /** The same at the first endpoint alone, besides. */
  readonly standingFirst: number;
  /** How long to ask as a kubelet does while they stand. */
  readonly restMs: number;
  /** Is told what goes on, for people who wait. */
  readonly say: (text: string) => void;
}

/** One turn of one endpoint. Processor times in milliseconds. */
export interface Round {
  readonly samples: readonly Sample[];
  readonly wallMs: number;
  /** Of the whole machine, without what it uses when idle. */
  readonly machineMs: number;
  readonly daemonMs: number;
  readonly clientMs: number;
}

/** All turns of one endpoint at one number at a time. */
export interface Level {
  readonly parallel: number;
  readonly rounds: readonly Round[];
}

/** What was measured at one endpoint. */
export interface Measured {
  readonly name: string;
  readonly runtime: string;
  /** Of the process that listens on the socket; undefined when it is not to be seen from here. */
  readonly memoryBefore: Memory | undefined;
  /** Right after the last life of the last round. */
  readonly memoryAfter: Memory | undefined;
  /** When it had rested since. */
  readonly memoryRested: Memory | undefined;
  /** How many lives it had seen by then. */
  readonly lives: number;
  readonly levels: readonly Level[];
  readonly streams: readonly StreamRun[];
  readonly standing: readonly Standing[];
}

export interface Measurement {
  /** Processor time that the idle machine used per second of wall time, in milliseconds. */
  readonly idleMsPerSecond: number;
  readonly endpoints: readonly Measured[];
}

/** An endpoint while it is measured. */
interface Subject extends Endpoint {
  readonly cri: Connection;
  readonly runtime: string;
  readonly wish: PodWish;
  readonly pid: number | undefined;
  readonly memoryBefore: Memory | undefined;
  /** Right after its newest turn. */
  memoryAfter: Memory | undefined;
  readonly levels: Map<number, Round[]>;
}

/**
 * Measures endpoints in turns, so that what else happens on the machine meets all of them alike. Pods of this and of
 * earlier benches are removed before and after, also when something fails or `signal` says to stop; then it throws.
 */
export async function measure(endpoints: readonly Endpoint[], plan: Plan, signal: AbortSignal): Promise<Measurement> {
  const subjects: Subject[] = [];
  const connections = endpoints.map(({ address }) => new Connection(address));
  try {
    for (const [index, cri] of connections.entries()) {
      const endpoint = endpoints[index];
      if (endpoint) subjects.push(await prepare(endpoint, cri, plan));
    }
    for (const subject of subjects) {
      plan.say(`warming up ${subject.name}`);
      await takeTurn(subject, plan.warmUp, Math.min(plan.warmUp, Math.max(...plan.parallel)), 0, signal);
    }
    const idleMsPerSecond = await watchIdle(plan.idleMs, signal);
    for (const parallel of plan.parallel) {
      for (let round = 0; round < plan.rounds; round++) {
        plan.say(`round ${round + 1} of ${plan.rounds} at ${parallel} at a time`);
        for (const subject of subjects) {
          const rounds = subject.levels.get(parallel) ?? [];
          subject.levels.set(parallel, rounds);
          const due = shareOf(plan.lifecycles, plan.rounds, round);
          rounds.push(await takeTurn(subject, due, parallel, idleMsPerSecond, signal));
          subject.memoryAfter = memoryAt(subject);
        }
      }
    }
    plan.say(`${plan.settleMs / 1000} s of rest`);
    await setTimeout(plan.settleMs, undefined, { signal });
    const measured = subjects.map((subject) => conclude(subject, plan));
    const streams = await streamInTurns(subjects, plan, signal);
    const standing = await standInTurns(subjects, plan, signal);
    const found = measured.map((one, index) => ({
      ...one,
      streams: streams[index] ?? [],
      standing: standing[index] ?? [],
    }));
    return { idleMsPerSecond, endpoints: found };
  } finally {
    await cleanUp(connections);
  }
}

/** How many of `total` fall to one round, so that all rounds together make the total. */
function shareOf(total: number, rounds: number, round: number): number {
  return Math.floor(((round + 1) * total) / rounds) - Math.floor((round * total) / rounds);
}

async function streamInTurns(subjects: readonly Subject[], plan: Plan, signal: AbortSignal): Promise<StreamRun[][]> {
  const runs = subjects.map((): StreamRun[] => []);
  for (let round = 0; plan.streamBytes > 0 && round < plan.rounds; round++) {
    plan.say(`round ${round + 1} of ${plan.rounds} of streams`);
    for (const [index, { cri, wish, pid }] of subjects.entries()) {
      runs[index]?.push(await measureStreams(cri, wish, { bytes: plan.streamBytes, pid }, signal));
    }
  }
  return runs;
}

async function standInTurns(subjects: readonly Subject[], plan: Plan, signal: AbortSignal): Promise<Standing[][]> {
  const standing = subjects.map((): Standing[] => []);
  for (const [index, subject] of subjects.entries()) {
    for (const pods of [plan.standing, index === 0 ? plan.standingFirst : 0].filter((count) => count > 0)) {
      plan.say(`${pods} pods that stand at ${subject.name}`);
      standing[index]?.push(await measureStanding(subject, subject.cri, standingPlan(plan, subject, pods), signal));
    }
  }
  return standing;
}

function standingPlan({ restMs, say }: Plan, { wish }: Subject, pods: number): StandingPlan {
  return { ...wish, pods, times: STANDING_TIMES, pollingMs: restMs, restarts: RESTARTS, say };
}

async function prepare(endpoint: Endpoint, cri: Connection, plan: Plan): Promise<Subject> {
  const version = await cri.call(RuntimeServiceService.version, VersionRequest.create());
  await removeBenchPods(cri);
  const request = ImageStatusRequest.create({ image: { image: plan.image } });
  const { image } = await cri.call(ImageServiceService.imageStatus, request);
  if (!image) throw new Error(`${endpoint.name} does not have the image ${plan.image}; pull or load it first`);
  const pid = findListener(endpoint.address);
  return {
    ...endpoint,
    cri,
    runtime: `${version.runtimeName} ${version.runtimeVersion}`,
    wish: { ...plan, image: image.id, imageReference: plan.image },
    pid,
    memoryBefore: memoryAt({ pid }),
    memoryAfter: undefined,
    levels: new Map(),
  };
}

/** Processor time per second of wall time while nobody asks for anything. */
async function watchIdle(idleMs: number, signal: AbortSignal): Promise<number> {
  const before = machineBusyMs();
  const startedMs = performance.now();
  await setTimeout(idleMs, undefined, { signal });
  return ((machineBusyMs() - before) * 1000) / (performance.now() - startedMs);
}

async function takeTurn(
  { cri, wish, pid }: Subject,
  lifecycles: number,
  parallel: number,
  idleMsPerSecond: number,
  signal: AbortSignal,
): Promise<Round> {
  const samples: Sample[] = [];
  const failed = new AbortController();
  const stop = AbortSignal.any([signal, failed.signal]);
  let left = lifecycles;
  const worker = async (): Promise<void> => {
    for (; left > 0; ) {
      left -= 1;
      try {
        samples.push(await liveOnePod(cri, wish, stop));
      } catch (err) {
        failed.abort(err);
        throw err;
      }
    }
  };
  const before = readCounters(pid);
  const ends = await Promise.allSettled(Array.from({ length: parallel }, worker));
  const after = readCounters(pid);
  const [failure] = ends.filter((end) => end.status === 'rejected');
  if (failure) throw stop.reason;
  const wallMs = after.nowMs - before.nowMs;
  return {
    samples,
    wallMs,
    machineMs: after.machineMs - before.machineMs - (idleMsPerSecond * wallMs) / 1000,
    daemonMs: after.daemonMs - before.daemonMs,
    clientMs: after.clientMs - before.clientMs,
  };
}

function readCounters(pid: number | undefined): {
  nowMs: number;
  machineMs: number;
  daemonMs: number;
  clientMs: number;
} {
  return {
    nowMs: performance.now(),
    machineMs: machineBusyMs(),
    daemonMs: pid === undefined ? 0 : processBusyMs(pid),
    clientMs: ownBusyMs(),
  };
}

function memoryAt({ pid }: Pick<Subject, 'pid'>): Memory | undefined {
  return pid === undefined ? undefined : memoryOf(pid);
}

function conclude(subject: Subject, { warmUp, lifecycles, parallel }: Plan): Omit<Measured, 'streams' | 'standing'> {
  const { name, runtime, memoryBefore, memoryAfter, levels } = subject;
  return {
    name,
    runtime,
    memoryBefore,
    memoryAfter,
    memoryRested: memoryAt(subject),
    lives: warmUp + lifecycles * parallel.length,
    levels: [...levels].map(([parallel, rounds]) => ({ parallel, rounds })),
  };
}

/** Removes what is left at each endpoint, the others' too when one fails, and closes the connections. */
async function cleanUp(connections: readonly Connection[]): Promise<void> {
  const ends = await Promise.allSettled(connections.map((cri) => removeBenchPods(cri)));
  for (const cri of connections) cri.close();
  const errors = ends.flatMap((end) => (end.status === 'rejected' ? [end.reason] : []));
  if (errors.length > 0) console.error(`bench: pods may be left: ${errors.map(String).join('; ')}`);
}
