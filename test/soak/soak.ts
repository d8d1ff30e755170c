import assert from 'node:assert/strict';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';

import fc from 'fast-check';

import type { PodLab } from '../harness/pod-lab.ts';
import { soakCommands } from './commands.ts';
import type { NodeModel, SoakCounts } from './model.ts';

/** What a berthd takes after so many pods of its life, when none is there. */
export interface SoakSample {
  readonly lifecycles: number;
  readonly operations: number;
  readonly kills: number;
  readonly memoryBytes: number;
  readonly descriptors: number;
  readonly threads: number;
  readonly databaseBytes: number;
  /** Of the last start; 0 where there was none since the sample before. */
  readonly startMs: number;
}

/** How long and how rough a soak is. */
export interface SoakOptions {
  readonly lifecycles: number;
  /** No round is begun after so long. */
  readonly limitMs: number;
  readonly seed: number;
  /** Whether berthd is killed now and then. */
  readonly kills: boolean;
  readonly onSample?: (sample: SoakSample) => void;
}

/**
 * Runs rounds of random requests until so many pods have lived, and looks after each that nothing is left. Throws at the
 * first disagreement of node and model, with the seed and the commands that led to it.
 */
export async function soak(lab: PodLab, options: SoakOptions): Promise<SoakSample[]> {
  const counts: SoakCounts = { lifecycles: 0, operations: 0, kills: 0 };
  const samples: SoakSample[] = [];
  const endsAtMs = performance.now() + options.limitMs;
  const commands = soakCommands(options.kills);
  for (let round = 0; counts.lifecycles < options.lifecycles && performance.now() < endsAtMs; round += 1) {
    const oneRound = fc.asyncProperty(commands, async (steps) => {
      await fc.asyncModelRun(() => ({ model: { pods: [] } satisfies NodeModel, real: { lab, counts } }), steps);
    });
    // What went wrong cannot be repeated exactly: a smaller case would only hide it.
    await fc.assert(oneRound, { numRuns: 1, seed: options.seed + round, endOnFailure: true });
    counts.lifecycles += await removeAll(lab);
    const startMs = options.kills ? await restart(lab) : 0;
    const sample = { ...counts, ...readUse(lab), startMs };
    samples.push(sample);
    options.onSample?.(sample);
  }
  return samples;
}

/** By what a figure may be more at the end. */
export type GrowthLimits = Readonly<Record<'memoryBytes' | 'descriptors' | 'threads' | 'databaseBytes', number>>;

/**
 * Of a soak of a thousand pods: what its samples differ by in any case. The thread of the database's checkpoints comes and
 * goes, and has six descriptors.
 */
export const LONG_LIMITS: GrowthLimits = { memoryBytes: 1.08, descriptors: 1.15, threads: 1.01, databaseBytes: 1.02 };
/** Of one of a hundred: the daemon learns its code all that time. */
export const SHORT_LIMITS: GrowthLimits = { memoryBytes: 1.25, descriptors: 1.15, threads: 1.01, databaseBytes: 1.05 };

/**
 * Fails when a figure has grown: from the median of the second quarter of a soak without kills to that of its last one.
 * The first quarter is a daemon that still learns its code.
 */
export function assertNoGrowth(samples: readonly SoakSample[], limits: GrowthLimits): void {
  for (const [figure, factor] of Object.entries(limits) as [keyof GrowthLimits, number][]) {
    const [early, late] = [median(samples, 0.25, 0.5, figure), median(samples, 0.75, 1, figure)];
    assert.ok(late <= early * factor + 1, `${figure} grew from ${early} to ${late}`);
  }
}

function median(samples: readonly SoakSample[], from: number, to: number, figure: keyof SoakSample): number {
  const part = samples.slice(Math.floor(samples.length * from), Math.ceil(samples.length * to));
  const sorted = part.map((sample) => sample[figure]).sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? 0;
}

async function removeAll(lab: PodLab): Promise<number> {
  const before = lab.berthd.traces().sandboxes?.length ?? 0;
  await lab.afterTest({});
  return before;
}

async function restart(lab: PodLab): Promise<number> {
  await lab.berthd.end('SIGKILL');
  const startedMs = performance.now();
  await lab.berthd.start();
  return Math.round(performance.now() - startedMs);
}

function readUse({ berthd }: PodLab): Omit<SoakSample, keyof SoakCounts | 'startMs'> {
  const status = readFileSync(`/proc/${berthd.pid}/status`, 'utf8');
  const field = (name: string): number => Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(status)?.[1] ?? 0);
  return {
    memoryBytes: field('VmRSS') * 1024,
    threads: field('Threads'),
    descriptors: readdirSync(`/proc/${berthd.pid}/fd`).length,
    databaseBytes: statSync(join(berthd.root, 'berth.db')).size,
  };
}
