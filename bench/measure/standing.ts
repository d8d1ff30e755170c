import { readdirSync, readFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { setTimeout } from 'node:timers/promises';

import { RuntimeServiceService, VersionRequest } from '../../proto/gen/cri/api.ts';
import type { Connection } from '../../src/cli/connection.ts';
import { findListener, type Memory, memoryOf } from './daemon.ts';
import { type PodWish, raiseOnePod, removeBenchPods, type StandingPod } from './lifecycle.ts';
import { Ages, measureCalls, measureRest } from './standing-calls.ts';
import { type Figures, median } from './statistics.ts';

/** What is asked of pods that stand. */
export interface StandingPlan extends PodWish {
  readonly pods: number;
  /** How often each list and status is asked for. */
  readonly times: number;
  /** How long a kubelet's way of asking is kept up. */
  readonly pollingMs: number;
  /** How often it is started without pods, and with them. */
  readonly restarts: number;
  readonly say: (text: string) => void;
}

/** What standing pods cost. */
export interface Standing {
  readonly pods: number;
  /** Milliseconds by call. */
  readonly calls: Readonly<Record<string, Figures>>;
  /** How old the oldest figure of any list of statistics was when it came, in milliseconds; undefined when none had one. */
  readonly oldestFigureMs: number | undefined;
  /** Undefined when the daemon is not to be seen from here. */
  readonly daemon: Memory | undefined;
  /** Proportional set size of monitors, pauses and shims, by pod: of all its processes but those of the container. */
  readonly bytesPerPod: number | undefined;
  /** Of one processor, while a kubelet asks. */
  readonly restShare: number | undefined;
  /**
   * From the start of the daemon to its first answer, with no pods and with these, median; undefined when it was not
   * started from here.
   */
  readonly emptyStartMs: number | undefined;
  readonly startMs: number | undefined;
}

const PODS_AT_ONCE = 4;
const REACH_TRIES = 50;
const REACH_PAUSE_MS = 100;
/** The programs of the bench's containers. */
const OF_CONTAINERS: readonly string[] = ['sh', 'sleep', 'busybox'];

/** Brings up pods, measures what they cost while they stand, and removes them. */
export async function measureStanding(
  { address, restart }: { readonly address: string; readonly restart?: () => Promise<number> },
  cri: Connection,
  plan: StandingPlan,
  signal: AbortSignal,
): Promise<Standing> {
  plan.say('starting it without pods');
  const emptyStartMs = await medianStart(restart, plan.restarts, signal);
  await untilReached(cri);
  const pid = findListener(address);
  const ages = new Ages();
  try {
    const pods = await raise(cri, plan, signal);
    const [one] = pods;
    if (!one) throw new Error('no pods to measure');
    plan.say('asking for lists, statistics and states');
    const calls = await measureCalls(cri, one, plan.times, ages, signal);
    plan.say(`asking as a kubelet does for ${plan.pollingMs / 1000} s`);
    const restShare = await measureRest(cri, pid, plan.pollingMs, ages, signal);
    const facts = {
      pods: pods.length,
      calls,
      restShare,
      oldestFigureMs: ages.oldestMs,
      daemon: pid === undefined ? undefined : memoryOf(pid),
      bytesPerPod: bytesBeside(address, pid, plan.cgroupParent, pods.length),
    };
    plan.say('starting it with them');
    return { ...facts, emptyStartMs, startMs: await medianStart(restart, plan.restarts, signal) };
  } finally {
    await untilReached(cri);
    await removeBenchPods(cri);
  }
}

async function medianStart(
  restart: (() => Promise<number>) | undefined,
  times: number,
  signal: AbortSignal,
): Promise<number | undefined> {
  if (!restart) return undefined;
  const took: number[] = [];
  for (let time = 0; time < times; time++) {
    signal.throwIfAborted();
    took.push(await restart());
  }
  return median(took);
}

/** A client of gRPC notices late that its daemon was started anew. */
async function untilReached(cri: Connection): Promise<void> {
  for (let tries = REACH_TRIES; ; tries--) {
    try {
      await cri.call(RuntimeServiceService.version, VersionRequest.create());
      return;
    } catch (err) {
      if (tries === 0) throw err;
      await setTimeout(REACH_PAUSE_MS);
    }
  }
}

async function raise(cri: Connection, plan: StandingPlan, signal: AbortSignal): Promise<StandingPod[]> {
  plan.say(`bringing up ${plan.pods} pods`);
  const pods: StandingPod[] = [];
  let left = plan.pods;
  const worker = async (): Promise<void> => {
    for (; left > 0; ) {
      left -= 1;
      pods.push(await raiseOnePod(cri, plan, signal));
    }
  };
  await Promise.all(Array.from({ length: PODS_AT_ONCE }, worker));
  return pods;
}

/** Undefined where it is not known which processes belong to the pods. */
function bytesBeside(
  address: string,
  daemon: number | undefined,
  cgroupParent: string,
  pods: number,
): number | undefined {
  if (cgroupParent === '' || daemon === undefined) return undefined;
  const folder = dirname(address.replace(/^unix:(\/\/)?/, ''));
  const own = readdirSync('/proc').filter(
    (name) => /^\d+$/.test(name) && Number(name) !== daemon && isPodProcess(name, cgroupParent, folder),
  );
  return own.reduce((sum, name) => sum + (memoryOf(Number(name))?.bytes ?? 0), 0) / pods;
}

/** Below the pods' control group, or, as shims are, beside it and called with a path of the daemon's folder. */
function isPodProcess(pid: string, cgroupParent: string, folder: string): boolean {
  try {
    const name = readFileSync(`/proc/${pid}/comm`, 'utf8').trim();
    if (OF_CONTAINERS.includes(name)) return false;
    const cgroups = readFileSync(`/proc/${pid}/cgroup`, 'utf8');
    return cgroups.includes(`${cgroupParent}/`) || readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(`${folder}/`);
  } catch {
    // It has ended.
    return false;
  }
}
