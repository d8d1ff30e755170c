import { mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

import { Connection } from '../../src/cli/connection.ts';
import { liveOnePod, type PodWish } from '../measure/lifecycle.ts';
import type { BenchLab } from '../peers/bench-lab.ts';
import { startBerthd } from '../peers/berthd.ts';
import { type CpuShares, readCpuProfile, type Share } from './cpu-profile.ts';
import { type ProgramCalls, readSystemCalls, sum, threadsOf, watchSystemCalls } from './system-calls.ts';

/** What the lives of some pods, one at a time, were made of. */
export interface Profile {
  /** Of the berthd that was profiled. */
  readonly name: string;
  readonly lives: number;
  /** Of berthd's main thread, its start left out. */
  readonly cpu: CpuShares;
  readonly programs: readonly ProgramCalls[];
}

/** What to profile. */
export interface ProfilePlan extends Pick<PodWish, 'runtimeHandler' | 'cgroupParent' | 'logDirectory' | 'image'> {
  readonly name: string;
  /** Where its berthd is. */
  readonly checkout: string;
  readonly lives: number;
  readonly warmUp: number;
  readonly runtime: string;
}

const LONGEST_LISTS = 15;

/**
 * Profiles a berthd of its own, twice: V8's samples of its main thread, then the system calls of it and of all that it
 * starts, which strace(1) makes several times slower.
 */
export async function profile(lab: BenchLab, layout: string, plan: ProfilePlan, signal: AbortSignal): Promise<Profile> {
  const folder = join(lab.root, `profile-${plan.name}`);
  mkdirSync(folder, { recursive: true });
  const cpu = await profileProcessor(lab, layout, plan, folder, signal);
  const programs = await profileCalls(lab, layout, plan, join(folder, 'calls'), signal);
  return { name: plan.name, lives: plan.lives, cpu, programs };
}

async function profileProcessor(
  lab: BenchLab,
  layout: string,
  plan: ProfilePlan,
  folder: string,
  signal: AbortSignal,
): Promise<CpuShares> {
  const options = `--cpu-prof --cpu-prof-dir=${folder} --cpu-prof-interval=200`;
  const env = { NODE_OPTIONS: options };
  const { daemon, endpoint } = await startBerthd(lab, layout, plan.runtime, signal, {
    name: `${plan.name}-profiled`,
    checkout: plan.checkout,
    env,
  });
  try {
    await live(endpoint.address, plan, plan.lives, signal);
  } finally {
    await daemon.stop();
  }
  // Its threads have profiles of their own; the main thread's is by far the largest.
  const [largest] = readdirSync(folder)
    .filter((name) => name.endsWith('.cpuprofile'))
    .map((name) => readFileSync(join(folder, name), 'utf8'))
    .sort((one, other) => other.length - one.length);
  if (largest === undefined) throw new Error('berthd wrote no CPU profile');
  return readCpuProfile(largest);
}

async function profileCalls(
  lab: BenchLab,
  layout: string,
  plan: ProfilePlan,
  file: string,
  signal: AbortSignal,
): Promise<ProgramCalls[]> {
  const { daemon, endpoint } = await startBerthd(lab, layout, plan.runtime, signal, {
    name: `${plan.name}-traced`,
    checkout: plan.checkout,
  });
  try {
    await live(endpoint.address, plan, plan.warmUp, signal);
    const names = threadsOf(daemon.pid, 'berthd');
    const watch = await watchSystemCalls(daemon.pid, file);
    try {
      await live(endpoint.address, plan, plan.lives, signal);
    } finally {
      await watch.stop();
    }
    return await readSystemCalls(file, names);
  } finally {
    await daemon.stop();
  }
}

async function live(address: string, plan: ProfilePlan, lives: number, signal: AbortSignal): Promise<void> {
  const cri = new Connection(address);
  try {
    for (let life = 0; life < lives; life++) await liveOnePod(cri, plan, signal);
  } finally {
    cri.close();
  }
}

/** The profile as Markdown; all figures are of one pod's life. */
export function profileToMarkdown({ name, lives, cpu, programs }: Profile): string {
  const perLife = (count: number): string => (count / lives).toFixed(1);
  const shares = (head: string, all: readonly Share[]): string =>
    table(
      [head, 'ms'],
      all.slice(0, LONGEST_LISTS).map(({ name, ms }) => [name, (ms / lives).toFixed(2)]),
    );
  const calls = programs.flatMap((found) => (found.program === 'berthd' ? Object.entries(found.calls) : []));
  return [
    `### One life at ${name}: programs that are executed, and system calls\n`,
    table(
      ['', 'executed', 'system calls'],
      programs.map((found) => [found.program, perLife(found.executed), perLife(sum(found.calls))]),
    ),
    `### One life at ${name}: system calls of berthd\n`,
    table(
      ['', 'calls'],
      calls
        .sort(([, one], [, other]) => other - one)
        .slice(0, 2 * LONGEST_LISTS)
        .map(([call, count]) => [call, perLife(count)]),
    ),
    `### One life at ${name}: processor time of berthd's main thread, its start among it; ${(cpu.busyMs / lives).toFixed(1)} ms\n`,
    shares('by file', cpu.places),
    shares('by function', cpu.functions),
  ].join('\n');
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |\n`;
  return `${line(head)}${line(head.map((_, index) => (index === 0 ? '---' : '---:')))}${rows.map(line).join('')}`;
}
