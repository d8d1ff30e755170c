import { readdirSync, readFileSync } from 'node:fs';
import { setTimeout } from 'node:timers/promises';

import {
  ContainerStatusRequest,
  ImageFsInfoRequest,
  ImageServiceService,
  ListContainerStatsRequest,
  ListContainersRequest,
  ListPodSandboxRequest,
  ListPodSandboxStatsRequest,
  PodSandboxStatusRequest,
  RuntimeServiceService,
  StatusRequest,
} from '../../proto/gen/cri/api.ts';
import type { Connection } from '../../src/cli/connection.ts';
import { findListener, proportionalSetBytes } from './daemon.ts';
import { type PodWish, raiseOnePod, removeBenchPods, type StandingPod } from './lifecycle.ts';
import { processBusyMs } from './processor-time.ts';
import { type Figures, figuresOf } from './statistics.ts';

/** What is asked of pods that stand. */
export interface StandingPlan extends PodWish {
  readonly pods: number;
  /** How often each list and status is asked for. */
  readonly times: number;
  /** How long a kubelet's way of asking is kept up. */
  readonly pollingMs: number;
  readonly say: (text: string) => void;
}

/** What standing pods cost. */
export interface Standing {
  readonly pods: number;
  /** Milliseconds by call. */
  readonly calls: Readonly<Record<string, Figures>>;
  /** Proportional set sizes; undefined when the daemon is not to be seen from here. */
  readonly daemonBytes: number | undefined;
  /** Of monitors, pauses and shims, by pod: all processes in the pods' cgroups but those of the containers. */
  readonly bytesPerPod: number | undefined;
  /** Of one processor, while a kubelet asks. */
  readonly restShare: number | undefined;
  /** From the start of the daemon to its first answer, with these pods; undefined when it was not started from here. */
  readonly restartMs: number | undefined;
}

const PODS_AT_ONCE = 4;
/** How a kubelet asks: its pod lifecycle event generator each second, its eviction and summary each ten. */
const STATS_EVERY = 10;
const STATUS_EVERY = 5;
/** The programs of the bench's containers. */
const OF_CONTAINERS: readonly string[] = ['sh', 'sleep', 'busybox'];

/** Brings up pods, measures what they cost while they stand, and removes them. */
export async function measureStanding(
  { address, restart }: { readonly address: string; readonly restart?: () => Promise<number> },
  cri: Connection,
  plan: StandingPlan,
  signal: AbortSignal,
): Promise<Standing> {
  const pid = findListener(address);
  try {
    const pods = await raise(cri, plan, signal);
    const [one] = pods;
    if (!one) throw new Error('no pods to measure');
    plan.say('asking for lists, statistics and states');
    const calls = await measureCalls(cri, one, plan.times, signal);
    plan.say(`asking as a kubelet does for ${plan.pollingMs / 1000} s`);
    const restShare = await measureRest(cri, pid, plan.pollingMs, signal);
    const facts = {
      pods: pods.length,
      calls,
      restShare,
      daemonBytes: pid === undefined ? undefined : proportionalSetBytes(pid),
      bytesPerPod: bytesBelow(plan.cgroupParent, pods.length),
    };
    return { ...facts, restartMs: await restart?.() };
  } finally {
    await removeBenchPods(cri);
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

async function measureCalls(
  cri: Connection,
  { podSandboxId, containerId }: StandingPod,
  times: number,
  signal: AbortSignal,
): Promise<Record<string, Figures>> {
  const runtime = RuntimeServiceService;
  const asks: Readonly<Record<string, () => Promise<unknown>>> = {
    ListPodSandbox: () => cri.call(runtime.listPodSandbox, ListPodSandboxRequest.create()),
    ListContainers: () => cri.call(runtime.listContainers, ListContainersRequest.create()),
    ListContainerStats: () => cri.call(runtime.listContainerStats, ListContainerStatsRequest.create()),
    ListPodSandboxStats: () => cri.call(runtime.listPodSandboxStats, ListPodSandboxStatsRequest.create()),
    PodSandboxStatus: () => cri.call(runtime.podSandboxStatus, PodSandboxStatusRequest.create({ podSandboxId })),
    ContainerStatus: () => cri.call(runtime.containerStatus, ContainerStatusRequest.create({ containerId })),
  };
  const figures: Record<string, Figures> = {};
  for (const [name, ask] of Object.entries(asks)) {
    // The first may begin to sample.
    await ask();
    const took: number[] = [];
    for (let time = 0; time < times; time++) {
      signal.throwIfAborted();
      const startedMs = performance.now();
      await ask();
      took.push(performance.now() - startedMs);
    }
    figures[name] = figuresOf(took);
  }
  return figures;
}

async function measureRest(
  cri: Connection,
  pid: number | undefined,
  pollingMs: number,
  signal: AbortSignal,
): Promise<number | undefined> {
  if (pid === undefined) return undefined;
  const [startedMs, busyMs] = [performance.now(), processBusyMs(pid)];
  for (let second = 0; performance.now() - startedMs < pollingMs; second++) {
    await Promise.all([
      cri.call(RuntimeServiceService.listPodSandbox, ListPodSandboxRequest.create()),
      cri.call(RuntimeServiceService.listContainers, ListContainersRequest.create()),
      ...(second % STATUS_EVERY === 0 ? [cri.call(RuntimeServiceService.status, StatusRequest.create())] : []),
      ...(second % STATS_EVERY === 0
        ? [
            cri.call(RuntimeServiceService.listPodSandboxStats, ListPodSandboxStatsRequest.create()),
            cri.call(RuntimeServiceService.listContainerStats, ListContainerStatsRequest.create()),
            cri.call(ImageServiceService.imageFsInfo, ImageFsInfoRequest.create()),
          ]
        : []),
    ]);
    await setTimeout(1000, undefined, { signal });
  }
  return (processBusyMs(pid) - busyMs) / (performance.now() - startedMs);
}

/** Undefined where it is not known which processes belong to the pods. */
function bytesBelow(cgroupParent: string, pods: number): number | undefined {
  if (cgroupParent === '') return undefined;
  const own = readdirSync('/proc').filter((name) => /^\d+$/.test(name) && isPodProcess(name, cgroupParent));
  return own.reduce((sum, name) => sum + (proportionalSetBytes(Number(name)) ?? 0), 0) / pods;
}

function isPodProcess(pid: string, cgroupParent: string): boolean {
  try {
    const cgroups = readFileSync(`/proc/${pid}/cgroup`, 'utf8');
    const name = readFileSync(`/proc/${pid}/comm`, 'utf8').trim();
    return cgroups.includes(`${cgroupParent}/`) && !OF_CONTAINERS.includes(name);
  } catch {
    // It has ended.
    return false;
  }
}

/** The figures of all endpoints as Markdown. */
export function standingToMarkdown(
  endpoints: readonly { readonly name: string; readonly standing: Standing }[],
): string {
  const [first] = endpoints;
  if (!first) return '';
  const names = endpoints.map(({ name }) => name);
  const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |\n`;
  const rows = Object.keys(first.standing.calls).map((call) => [
    `${call}, ms`,
    ...endpoints.flatMap(({ standing }) => [standing.calls[call]?.p50, standing.calls[call]?.p99].map(fixed(2))),
  ]);
  const facts: readonly (readonly [string, (standing: Standing) => string])[] = [
    ['daemon, PSS in MB', ({ daemonBytes }) => fixed(1)(scaled(daemonBytes, 1e-6))],
    ['each pod besides, PSS in MB', ({ bytesPerPod }) => fixed(2)(scaled(bytesPerPod, 1e-6))],
    ['daemon while a kubelet asks, % of a processor', ({ restShare }) => fixed(1)(scaled(restShare, 100))],
    ['start to serving, ms', ({ restartMs }) => fixed(0)(restartMs)],
  ];
  const more = facts.map(([name, read]) => [name, ...endpoints.flatMap(({ standing }) => [read(standing), ''])]);
  const head = ['', ...names.flatMap((name) => [`${name} p50`, 'p99'])];
  const rule = line(head.map((_, index) => (index === 0 ? '---' : '---:')));
  return `### ${first.standing.pods} pods standing\n\n${line(head)}${rule}${[...rows, ...more].map(line).join('')}`;
}

function scaled(value: number | undefined, factor: number): number | undefined {
  return value === undefined ? undefined : value * factor;
}

function fixed(digits: number): (value: number | undefined) => string {
  return (value) => (value === undefined ? 'not seen' : value.toFixed(digits));
}
