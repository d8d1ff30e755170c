/** Runs the official conformance suite: images, registry and runtime first, then critest, then the counts. */

import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { describe } from '../../src/base/errors.ts';
import { startRegistry } from '../fakes/images.ts';
import { pushImages } from './images.ts';
import { readSegments, removeSegments, unmountBelow } from './leftovers.ts';
import { type Options, parseOptions, USAGE, type Variant } from './options.ts';
import type { Outcome } from './report.ts';
import { skippedSpecs } from './skips.ts';
import { findSuite, runSuite, type Suite } from './suite.ts';
import { startTarget } from './target.ts';

/** Exit code where the suite cannot be had: neither good nor bad. */
const MISSING = 77;

async function main(): Promise<number> {
  let options: Options | undefined;
  try {
    options = parseOptions(process.argv.slice(2));
  } catch (err) {
    process.stderr.write(`critest: ${describe(err)}\n${USAGE}`);
    return 2;
  }
  if (!options) {
    process.stdout.write(USAGE);
    return 0;
  }
  const suite = await findSuite();
  if ('missing' in suite) {
    say(`NOT RUN: ${suite.missing}`);
    return MISSING;
  }
  const stop = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.once(name, () => {
      say(`${name}: stopping the suite and taking pods down`);
      stop.abort(new Error(`stopped by ${name}`));
    });
  }
  const outcomes: Outcome[] = [];
  let failed = false;
  try {
    await runAll(suite, options, outcomes, stop.signal);
  } catch (err) {
    say(`FAILED: ${describe(err)}`);
    failed = true;
  }
  if (options.summary !== undefined) writeSummary(options.summary, outcomes, failed);
  return failed || outcomes.some((outcome) => outcome.failed.length > 0) ? 1 : 0;
}

async function runAll(suite: Suite, options: Options, outcomes: Outcome[], signal: AbortSignal): Promise<void> {
  const segments = readSegments();
  const work = mkdtempSync(join(tmpdir(), 'berth-critest-'));
  try {
    await using registry = await startRegistry({ listen: options.registry });
    const start = performance.now();
    await pushImages(registry);
    say(`registry ${registry.host}, its images made in ${seconds((performance.now() - start) / 1000)}`);
    await using target = await startTarget(options, registry.host, work);
    for (const variant of Array.from({ length: options.runs }, () => options.variants).flat()) {
      const folder = join(work, `run-${outcomes.length + 1}`);
      mkdirSync(folder);
      const outcome = await runSuite(suite, target.endpoint, options, variant, folder, signal);
      outcomes.push(outcome);
      tell(outcome, variant, outcomes.length);
      if (variant.benchmark) tellFigures(join(folder, 'benchmarks'));
      if (outcome.failed.length === 0) await target.assertNoTraces();
    }
  } finally {
    unmountBelow(work);
    if (options.output !== undefined) cpSync(work, options.output, { recursive: true });
    rmSync(work, { recursive: true });
    removeSegments(segments);
  }
}

function tell(outcome: Outcome, variant: Variant, run: number): void {
  for (const { name, message, place } of outcome.failed) {
    process.stdout.write(`✖ ${name}\n  ${place}: ${message.replaceAll('\n', '\n  ')}\n`);
  }
  if (run === 1) {
    for (const { name, reason } of outcome.skipped) process.stdout.write(`﹣ ${name}: ${reason}\n`);
    for (const { spec, reason } of skippedSpecs) process.stdout.write(`﹣ ${spec}: left out, ${reason}\n`);
  }
  const slowest = outcome.slowest.map(({ name, seconds: s }) => `${seconds(s)} ${name.replace(/^\[k8s\.io\] /, '')}`);
  process.stdout.write(`slowest: ${slowest.join('; ')}\n`);
  const kind = variant.benchmark
    ? 'benchmarks'
    : `${variant.websocket ? 'WebSocket' : 'SPDY'}, ${variant.parallel} at a time`;
  say(
    `run ${run} (${kind}, seed ${outcome.seed}): ${outcome.passed} passed, ${outcome.failed.length} failed, ` +
      `${outcome.skipped.length} skipped in ${seconds(outcome.seconds)}`,
  );
}

/** The median of each operation, from the figures that the suite writes. */
function tellFigures(folder: string): void {
  for (const file of readdirSync(folder).sort()) {
    const { operationsNames: names, datapoints } = JSON.parse(readFileSync(join(folder, file), 'utf8')) as {
      operationsNames: readonly string[];
      datapoints: readonly { operationsDurationsNs: readonly number[] }[];
    };
    const medians = names.map((name, index) => {
      const sorted = datapoints
        .map(({ operationsDurationsNs: ns }) => ns[index] ?? 0)
        .sort((one, other) => one - other);
      return `${name} ${((sorted[sorted.length >> 1] ?? 0) / 1e6).toFixed(1)} ms`;
    });
    process.stdout.write(`${file.replace('_benchmark_data.json', '')} (${datapoints.length}): ${medians.join(', ')}\n`);
  }
}

/** As node's test runner ends its own reports. */
function writeSummary(file: string, outcomes: readonly Outcome[], failed: boolean): void {
  const sum = (count: (outcome: Outcome) => number): number => outcomes.reduce((total, one) => total + count(one), 0);
  const lines = [
    `# pass ${sum((outcome) => outcome.passed)}`,
    `# fail ${sum((outcome) => outcome.failed.length) + (failed ? 1 : 0)}`,
    `# skipped ${sum((outcome) => outcome.skipped.length) + skippedSpecs.length}`,
  ];
  writeFileSync(file, `${lines.join('\n')}\n`);
}

function seconds(count: number): string {
  return `${count.toFixed(1)} s`;
}

function say(text: string): void {
  process.stderr.write(`critest: ${text}\n`);
}

process.exitCode = await main();
