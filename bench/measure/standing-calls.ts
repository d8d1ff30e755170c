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
import type { StandingPod } from './lifecycle.ts';
import { processBusyMs } from './processor-time.ts';
import { type Figures, figuresOf } from './statistics.ts';

/** How a kubelet asks: its pod lifecycle event generator each second, its eviction and summary each ten. */
const STATS_EVERY = 10;
const STATUS_EVERY = 5;

/** How old figures were when they came. */
export class Ages {
  #oldestMs: number | undefined;

  /** Undefined before the first. */
  get oldestMs(): number | undefined {
    return this.#oldestMs;
  }

  /** Notes one of these, which counts nanoseconds since the epoch; 0 and undefined are none. */
  note(timestamps: readonly (bigint | undefined)[]): void {
    const nowMs = Date.now();
    for (const timestamp of timestamps) {
      if (!timestamp) continue;
      const ageMs = nowMs - Number(timestamp / 1_000_000n);
      this.#oldestMs = Math.max(this.#oldestMs ?? ageMs, ageMs);
    }
  }
}

async function containerStats(cri: Connection, ages: Ages): Promise<void> {
  const { stats } = await cri.call(RuntimeServiceService.listContainerStats, ListContainerStatsRequest.create());
  ages.note(stats.flatMap(({ cpu, memory }) => [cpu?.timestamp, memory?.timestamp]));
}

async function sandboxStats(cri: Connection, ages: Ages): Promise<void> {
  const { stats } = await cri.call(RuntimeServiceService.listPodSandboxStats, ListPodSandboxStatsRequest.create());
  ages.note(stats.flatMap(({ linux }) => [linux?.cpu?.timestamp, linux?.memory?.timestamp]));
}

/** Times each list, the statistics and the states of one pod, one call after the other. */
export async function measureCalls(
  cri: Connection,
  { podSandboxId, containerId }: StandingPod,
  times: number,
  ages: Ages,
  signal: AbortSignal,
): Promise<Record<string, Figures>> {
  const runtime = RuntimeServiceService;
  const asks: Readonly<Record<string, () => Promise<unknown>>> = {
    ListPodSandbox: () => cri.call(runtime.listPodSandbox, ListPodSandboxRequest.create()),
    ListContainers: () => cri.call(runtime.listContainers, ListContainersRequest.create()),
    ListContainerStats: () => containerStats(cri, ages),
    ListPodSandboxStats: () => sandboxStats(cri, ages),
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

/** The share of a processor that a daemon takes while a kubelet asks; undefined when it is not to be seen from here. */
export async function measureRest(
  cri: Connection,
  pid: number | undefined,
  pollingMs: number,
  ages: Ages,
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
            sandboxStats(cri, ages),
            containerStats(cri, ages),
            cri.call(ImageServiceService.imageFsInfo, ImageFsInfoRequest.create()),
          ]
        : []),
    ]);
    await setTimeout(1000, undefined, { signal });
  }
  return (processBusyMs(pid) - busyMs) / (performance.now() - startedMs);
}
