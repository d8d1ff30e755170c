import { readFileSync, statfsSync } from 'node:fs';
import { setTimeout } from 'node:timers/promises';

import {
  ImageServiceService,
  ImageStatusRequest,
  PullImageRequest,
  RemoveImageRequest,
} from '../../proto/gen/cri/api.ts';
import type { Connection } from '../../src/cli/connection.ts';
import { childPids } from '../../test/fakes/process-facts.ts';
import { daemonLoopDelay, firstThreadMs, type LoopDelay, type LoopProbe, OwnLoop } from './event-loop.ts';
import { liveOnePod, type PodWish, SUMS } from './lifecycle.ts';
import { processBusyMs } from './processor-time.ts';

const PULL_TIMEOUT_MS = 600_000;
const MEMORY_EVERY_MS = 200;
/** Pods before each pull that is measured with pods: enough for a median. */
const QUIET_PODS = 5;

/** A daemon that is measured. */
export interface PullingDaemon {
  readonly name: string;
  readonly pid: number;
  readonly connection: Connection;
  /** Where its own metrics are; undefined for peers. */
  readonly metrics: string | undefined;
  /** What it was started with; undefined for peers. */
  readonly probe: LoopProbe | undefined;
  /** A folder on its disk. */
  readonly disk: string;
  readonly pods: PodWish;
}

/** What one pull took. */
export interface Pull {
  readonly wallMs: number;
  readonly cpuMs: number;
  readonly memoryGrowthBytes: number;
  /** Undefined where nobody tells. */
  readonly loop: LoopDelay | undefined;
  /** The longest that its loop was held up by its own thread; undefined where nobody tells. */
  readonly holdUpMs: number | undefined;
  /** Of this process, meanwhile. */
  readonly ownLoop: LoopDelay;
  readonly firstThread: { readonly ran: number; readonly waited: number };
  /** Of the same image once more: by tag, and by digest. */
  readonly againMs: { readonly byTag: number; readonly byDigest: number };
}

/** How long pods took to come up, in milliseconds. */
export interface PodsUp {
  readonly quiet: readonly number[];
  readonly duringPull: readonly number[];
}

/** Pulls an image that is not there. */
export async function measurePull(daemon: PullingDaemon, image: string): Promise<Pull> {
  const { connection, pid, metrics, probe } = daemon;
  await removeImage(daemon, image);
  if (metrics !== undefined) await daemonLoopDelay(metrics);
  using ownLoop = new OwnLoop();
  const before = { memory: residentBytes(pid), cpuMs: busyMs(pid), thread: firstThreadMs(pid) };
  let memoryPeak = 0;
  const startedMs = Date.now();
  const wallMs = await whilePulling(connection, image, async (signal) => {
    while (!signal.aborted) {
      memoryPeak = Math.max(memoryPeak, residentBytes(pid));
      await setTimeout(MEMORY_EVERY_MS, undefined, { signal }).catch(() => undefined);
    }
  });
  const [thread, cpuMs] = [firstThreadMs(pid), busyMs(pid)];
  const late = ownLoop.delay();
  const endedMs = Date.now();
  const loop = metrics === undefined ? undefined : await daemonLoopDelay(metrics);
  return {
    wallMs,
    cpuMs: cpuMs - before.cpuMs,
    memoryGrowthBytes: memoryPeak - before.memory,
    loop,
    holdUpMs: probe?.longestHoldUpMs(startedMs, endedMs),
    ownLoop: late,
    firstThread: { ran: thread.ran - before.thread.ran, waited: thread.waited - before.thread.waited },
    againMs: await measureAgain(connection, image),
  };
}

/** Has pods come up, first alone and then one after the other for as long as the image is pulled. */
export async function measurePodsUp(daemon: PullingDaemon, image: string, signal: AbortSignal): Promise<PodsUp> {
  const { connection, pods } = daemon;
  const up = async (): Promise<number> => {
    const sample = await liveOnePod(connection, pods, signal);
    return SUMS['pod up'].reduce((sum, call) => sum + sample[call], 0);
  };
  await removeImage(daemon, image);
  const quiet: number[] = [];
  for (let left = QUIET_PODS; left > 0; left -= 1) quiet.push(await up());
  const duringPull: number[] = [];
  await whilePulling(connection, image, async (pulled) => {
    while (!pulled.aborted) {
      const upMs = await up();
      // One that the pull has left alone at its end tells nothing.
      if (!pulled.aborted) duringPull.push(upMs);
    }
  });
  return { quiet, duringPull };
}

/** Returns how long the pull took; `meanwhile` is told when it has ended. */
async function whilePulling(
  connection: Connection,
  image: string,
  meanwhile: (pulled: AbortSignal) => Promise<void>,
): Promise<number> {
  const done = new AbortController();
  const startedMs = performance.now();
  const other = meanwhile(done.signal);
  // Awaited below; a pull that fails first is what is told.
  other.catch(() => undefined);
  try {
    await pull(connection, image);
    return performance.now() - startedMs;
  } finally {
    done.abort();
    await other;
  }
}

/** The fastest of some pulls of what is there. */
async function measureAgain(connection: Connection, image: string): Promise<Pull['againMs']> {
  const status = await connection.call(
    ImageServiceService.imageStatus,
    ImageStatusRequest.create({ image: { image } }),
  );
  const [digest = ''] = status.image?.repoDigests ?? [];
  const fastest = async (reference: string): Promise<number> => {
    const took: number[] = [];
    for (let left = 5; left > 0; left -= 1) {
      const startedMs = performance.now();
      await pull(connection, reference);
      took.push(performance.now() - startedMs);
    }
    return Math.min(...took);
  };
  return { byTag: await fastest(image), byDigest: await fastest(digest) };
}

async function pull(connection: Connection, image: string): Promise<void> {
  const request = PullImageRequest.create({ image: { image } });
  await connection.call(ImageServiceService.pullImage, request, PULL_TIMEOUT_MS);
}

/** Peers free the blocks of a removed image when they like: waits until the disk gains no more. */
async function removeImage({ connection, disk }: PullingDaemon, image: string): Promise<void> {
  await connection.call(ImageServiceService.removeImage, RemoveImageRequest.create({ image: { image } }));
  for (let before = -1, free = statfsSync(disk).bfree; free > before + 1000; free = statfsSync(disk).bfree) {
    before = free;
    await setTimeout(3000);
  }
}

/**
 * Memory of a process with the files that it has mapped, and what its disk process has of its own: that runs the same
 * Node, whose file is in memory once. Not its proportional set: to read that holds a lock on the whole address space
 * (mmap_lock), for which the event loop that is measured would wait.
 */
function residentBytes(pid: number): number {
  return kilobytes(pid, 'VmRSS') * 1024 + sum(diskProcesses(pid).map((child) => kilobytes(child, 'RssAnon') * 1024));
}

function kilobytes(pid: number, field: string): number {
  try {
    const [, found = '0'] =
      new RegExp(`^${field}:\\s+(\\d+)`, 'm').exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? [];
    return Number(found);
  } catch {
    return 0;
  }
}

/** Processor time of a process, of those of its children that have ended (peers inflate in children), and of its disk process. */
function busyMs(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const ended = (Number(fields[13]) + Number(fields[14])) * 10;
  return processBusyMs(pid) + ended + sum(diskProcesses(pid).map(processBusyMs));
}

/** Berth unpacks in a process of its own, which outlives the pull by some seconds. */
function diskProcesses(pid: number): number[] {
  return childPids(pid).filter((child) => readFileSync(`/proc/${child}/comm`, 'utf8') === 'berth-disk\n');
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, number) => total + number, 0);
}
