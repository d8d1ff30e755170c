/** Finds or builds critest, and runs it. */

import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

import { patient } from '../harness/patience.ts';
import { BENCHMARK_IMAGE } from './images.ts';
import type { Options, Variant } from './options.ts';
import { type Outcome, readOutcome } from './report.ts';
import { skippedSpecs } from './skips.ts';

const execute = promisify(execFile);
const HERE = fileURLToPath(new URL('.', import.meta.url));
const CACHE = fileURLToPath(new URL('../../node_modules/.cache/critest', import.meta.url));
const BUILD_TIMEOUT_MS = 900_000;
/** A run takes minutes; what has not ended by then never will. */
const RUN_TIMEOUT_MS = 30 * 60_000;

/** The suite's programs. */
export interface Suite {
  readonly critest: string;
  /** Folder of the program that runs specs at the same time; undefined: critest finds it in the PATH, or not. */
  readonly ginkgoFolder: string | undefined;
}

/** $CRITEST_BIN, else one that is built where Go is, else the one in the PATH. A text says why there is none. */
export async function findSuite(): Promise<Suite | { readonly missing: string }> {
  const named = process.env['CRITEST_BIN'];
  if (named !== undefined) {
    return existsSync(named)
      ? { critest: named, ginkgoFolder: undefined }
      : { missing: `CRITEST_BIN names ${named}, which is not there` };
  }
  const built = await build();
  if (!('missing' in built)) return built;
  const installed = inPath('critest');
  return installed === undefined ? built : { critest: installed, ginkgoFolder: undefined };
}

/** Builds the version that go.mod pins. */
async function build(): Promise<Suite | { readonly missing: string }> {
  const go = inPath('go') ?? ['/usr/local/go/bin/go'].find((path) => existsSync(path));
  if (go === undefined) return { missing: 'neither critest nor Go, which could build it, is installed' };
  mkdirSync(CACHE, { recursive: true });
  const critest = join(CACHE, 'critest');
  // Another toolchain would be a download.
  const options = { cwd: HERE, timeout: BUILD_TIMEOUT_MS, env: { ...process.env, GOTOOLCHAIN: 'local' } };
  try {
    await execute(go, ['test', '-c', '-o', critest, 'sigs.k8s.io/cri-tools/cmd/critest'], options);
    await execute(go, ['build', '-o', join(CACHE, 'ginkgo'), 'github.com/onsi/ginkgo/v2/ginkgo'], options);
    return { critest, ginkgoFolder: CACHE };
  } catch (err) {
    const said = err instanceof Error && 'stderr' in err ? String(err.stderr).trim() : '';
    return { missing: `critest is not installed, and cannot be built: ${said || String(err)}` };
  }
}

function inPath(name: string): string | undefined {
  const folders = (process.env['PATH'] ?? '').split(':').filter(Boolean);
  return folders.map((folder) => join(folder, name)).find((path) => existsSync(path));
}

/**
 * Runs the suite once, with `folder` for its report, its log and its temporary files. Throws when it was stopped by
 * `signal` or broke off.
 */
export async function runSuite(
  suite: Suite,
  endpoint: string,
  options: Options,
  variant: Variant,
  folder: string,
  signal: AbortSignal,
): Promise<Outcome> {
  const temporary = join(folder, 'tmp');
  mkdirSync(temporary, { recursive: true });
  const report = join(folder, 'report.json');
  const log = join(folder, 'critest.log');
  const output = openSync(log, 'w');
  const child = spawn(suite.critest, suiteArguments(endpoint, options, variant, folder, report), {
    stdio: ['ignore', output, output],
    cwd: temporary,
    env: {
      ...process.env,
      TMPDIR: temporary,
      PATH: [suite.ginkgoFolder, process.env['PATH']].filter((part) => part !== undefined).join(':'),
    },
    // With --parallel it is several processes.
    detached: true,
  });
  closeSync(output);
  await ended(child, AbortSignal.any([signal, AbortSignal.timeout(patient(RUN_TIMEOUT_MS))]));
  if (existsSync(report)) return readOutcome(report);
  const words = readFileSync(log, 'utf8').trimEnd().split('\n').slice(-20).join('\n');
  throw new Error(`critest ended with ${child.exitCode ?? child.signalCode} and wrote no report:\n${words}`);
}

function suiteArguments(
  endpoint: string,
  options: Options,
  variant: Variant,
  folder: string,
  report: string,
): string[] {
  const streams = ['exec', 'attach', 'portforward'].map((name) => `--websocket-${name}=${variant.websocket}`);
  const skips = [...skippedSpecs.map(({ spec }) => spec), ...options.skip];
  return [
    `--runtime-endpoint=${endpoint}`,
    `--image-endpoint=${endpoint}`,
    `--runtime-handler=${options.runtimeHandler}`,
    // Ginkgo refuses the option when it says one.
    ...(variant.parallel > 1 && !variant.benchmark ? [`--parallel=${variant.parallel}`] : []),
    ...streams,
    ...(variant.benchmark ? ['--benchmark', ...benchmarkArguments(variant, folder)] : []),
    '--ginkgo.no-color',
    // A filter that matches nothing is a mistake, not a success.
    '--ginkgo.fail-on-empty',
    `--ginkgo.json-report=${report}`,
    ...(options.seed === undefined ? [] : [`--ginkgo.seed=${options.seed}`]),
    ...options.focus.map((regex) => `--ginkgo.focus=${regex}`),
    ...skips.map((regex) => `--ginkgo.skip=${regex}`),
    // Go's own limit for tests is ten minutes.
    '-test.timeout=0',
  ];
}

/** Without the file each benchmark skips itself. */
function benchmarkArguments(variant: Variant, folder: string): string[] {
  const file = join(folder, 'benchmarks.yml');
  const figures = join(folder, 'benchmarks');
  mkdirSync(figures, { recursive: true });
  const kinds = ['containers', 'pods', 'images'].flatMap((kind) => [
    `${kind}Number: ${variant.samples}`,
    // Image pulls of one name at the same time are one pull.
    `${kind}NumberParallel: ${kind === 'images' ? 1 : variant.parallel}`,
  ]);
  writeFileSync(file, `${[...kinds, `imagePullingBenchmarkImage: ${BENCHMARK_IMAGE}`].join('\n')}\n`);
  return [`--benchmarking-params-file=${file}`, `--benchmarking-output-dir=${figures}`];
}

/** Waits for the end of a process and of its children; with `signal` they end at once. */
async function ended(child: ChildProcess, signal: AbortSignal): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const stop = (): void => {
    if (child.pid !== undefined) process.kill(-child.pid, 'SIGKILL');
  };
  child.once('error', reject).once('exit', () => resolve());
  signal.addEventListener('abort', stop, { once: true });
  if (signal.aborted) stop();
  await promise;
  signal.removeEventListener('abort', stop);
  signal.throwIfAborted();
}
