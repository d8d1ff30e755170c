/** The bench of pods: reads its options, starts what it shall measure, measures, prints, and leaves nothing behind. */

import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism, cpus, loadavg, release, tmpdir } from 'node:os';
import { join } from 'node:path';

import { describe } from '../src/base/errors.ts';
import { LoopProbe } from './measure/event-loop.ts';
import { type Floors, measureFloors } from './measure/floors.ts';
import { type LoopOfLives, measureLoop } from './measure/loop-of-lives.ts';
import { type Options, parseOptions, USAGE } from './measure/options.ts';
import { drawPlots } from './measure/plots.ts';
import { toMarkdown } from './measure/report.ts';
import { type Results, summarise } from './measure/results.ts';
import { type Endpoint, measure, type Plan } from './measure/rounds.ts';
import { BENCH_IMAGE, BenchLab, repository } from './peers/bench-lab.ts';
import { startBerthd } from './peers/berthd.ts';
import { startContainerd } from './peers/containerd.ts';
import { startCrio } from './peers/crio.ts';
import type { Peer } from './peers/peer.ts';
import type { StartedDaemon } from './peers/started-daemon.ts';
import { type Profile, profile } from './profile/profile.ts';

const MOST_WARM_UP = 16;
const FLOOR_TIMES = 20;
const MOST_PROFILED = 40;

/** What the bench has started. */
interface Own {
  readonly lab: BenchLab;
  readonly layout: string;
  readonly endpoints: readonly Endpoint[];
}

/** What must be undone, newest first. */
type Closers = { name: string; close: () => Promise<void> | void }[];

async function main(): Promise<number> {
  let options: Options | undefined;
  try {
    options = parseOptions(process.argv.slice(2));
  } catch (err) {
    process.stderr.write(`${USAGE}\nbench: ${describe(err)}\n`);
    return 2;
  }
  if (!options) {
    process.stdout.write(USAGE);
    return 0;
  }
  if (process.getuid?.() !== 0) {
    process.stderr.write('bench: must run as root, as those who use CRI sockets do\n');
    return 1;
  }
  const stop = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.once(name, () => {
      process.stderr.write(`\nbench: ${name}: taking pods down\n`);
      stop.abort(new Error(`stopped by ${name}`));
    });
  }
  const closers: Closers = [];
  let failed = false;
  try {
    const results = await bench(options, closers, stop.signal);
    const markdown = toMarkdown(results);
    writeResults(results, markdown, options.json);
    process.stdout.write(`\n${markdown}`);
  } catch (err) {
    process.stderr.write(`bench: ${describe(err)}\n`);
    failed = true;
  }
  for (let part = closers.pop(); part; part = closers.pop()) {
    try {
      await part.close();
    } catch (err) {
      process.stderr.write(`bench: ${part.name}: ${describe(err)}\n`);
      failed = true;
    }
  }
  return failed ? 1 : 0;
}

async function bench(options: Options, closers: Closers, signal: AbortSignal): Promise<Results> {
  const about = { startedAt: new Date().toISOString(), machine: describeMachine() };
  const own = options.endpoints.length === 0 ? await startOwn(options, closers, signal) : undefined;
  const floors = own && (await measureOwnFloors(options.runtime, own.lab, signal));
  const logDirectory = own?.lab.logDirectory ?? makeLogDirectory(closers);
  const plan: Plan = {
    image: options.image ?? BENCH_IMAGE,
    runtimeHandler: options.runtimeHandler,
    cgroupParent: options.cgroupParent || (own?.lab.cgroupParent ?? ''),
    logDirectory,
    lifecycles: options.lifecycles,
    rounds: options.rounds,
    warmUp: Math.min(MOST_WARM_UP, options.lifecycles),
    parallel: options.parallel,
    idleMs: options.idleMs,
    settleMs: options.settleMs,
    streamBytes: options.streamBytes,
    standing: options.standing,
    standingFirst: options.standingFirst,
    restMs: options.restMs,
    say,
  };
  say(`${plan.lifecycles} pods at ${plan.parallel.join(' and ')} at a time, in ${plan.rounds} rounds`);
  const measured = await measure(own?.endpoints ?? options.endpoints, plan, signal);
  const loop = own && (await measureOwnLoop(own, plan, options, signal));
  const profiles = options.profile && own ? await profileOwn(own, plan, options, signal) : [];
  return summarise(measured, { ...about, floors, loop, profiles });
}

async function startOwn(options: Options, closers: Closers, signal: AbortSignal): Promise<Own> {
  const lab = new BenchLab({ tmpfs: options.tmpfs });
  closers.push({ name: 'the lab', close: () => lab.close() });
  say('making the image');
  const layout = await lab.makeImage();
  const endpoints: Endpoint[] = [];
  const started = ({ daemon, endpoint }: { daemon: StartedDaemon; endpoint: Endpoint }): void => {
    closers.push({ name: endpoint.name, close: () => daemon.stop() });
    endpoints.push(endpoint);
  };
  say('starting berthd');
  started(await startBerthd(lab, layout, options.runtime, signal));
  for (const peer of options.peers) {
    say(`starting ${peer.name}`);
    started(await startPeer(peer, lab, layout, options.runtime, signal));
  }
  return { lab, layout, endpoints };
}

async function startPeer(
  peer: Peer,
  lab: BenchLab,
  layout: string,
  runtime: string,
  signal: AbortSignal,
): Promise<{ daemon: StartedDaemon; endpoint: Endpoint }> {
  if (peer.kind === 'containerd') return await startContainerd(lab, layout, runtime, signal, peer);
  if (peer.kind === 'crio') return await startCrio(lab, layout, runtime, signal, peer);
  return await startBerthd(lab, layout, runtime, signal, { name: peer.name, checkout: peer.folder });
}

/** Watches the loop of another berthd: to look at it takes the daemon some of its processor time. */
async function measureOwnLoop(
  { lab, layout }: Own,
  { parallel: levels, lifecycles, ...plan }: Plan,
  { runtime }: Options,
  signal: AbortSignal,
): Promise<LoopOfLives> {
  const parallel = Math.max(...levels);
  say(`watching an event loop with ${lifecycles} pods at ${parallel} at a time`);
  const probe = new LoopProbe(lab.root);
  const { daemon, endpoint } = await startBerthd(lab, layout, runtime, signal, { name: 'watched', env: probe.env });
  try {
    return await measureLoop(endpoint, probe, { ...plan, parallel, lives: lifecycles }, signal);
  } finally {
    await daemon.stop();
  }
}

async function profileOwn({ lab, layout }: Own, plan: Plan, options: Options, signal: AbortSignal): Promise<Profile[]> {
  const { runtimeHandler, cgroupParent, logDirectory, image } = plan;
  const lives = Math.min(plan.lifecycles, MOST_PROFILED);
  const common = {
    runtime: options.runtime,
    runtimeHandler,
    cgroupParent,
    logDirectory,
    image,
    lives,
    warmUp: plan.warmUp,
  };
  const profiles: Profile[] = [];
  const others = options.peers.flatMap(({ kind, name, folder }) =>
    kind === 'berth' ? { name, checkout: folder } : [],
  );
  for (const { name, checkout } of [{ name: 'berth', checkout: repository }, ...others]) {
    say(`profiling ${name}`);
    profiles.push(await profile(lab, layout, { ...common, name, checkout }, signal));
  }
  return profiles;
}

async function measureOwnFloors(runtime: string, lab: BenchLab, signal: AbortSignal): Promise<Floors> {
  say(`measuring ${runtime} alone`);
  return await measureFloors(runtime, { dir: lab.root, network: lab.network }, FLOOR_TIMES, signal);
}

function makeLogDirectory(closers: Closers): string {
  const folder = mkdtempSync(join(tmpdir(), 'berth-bench-logs-'));
  closers.push({ name: 'the logs', close: () => rmSync(folder, { recursive: true, force: true }) });
  return folder;
}

/** What the figures depend on. */
function describeMachine(): Results['machine'] {
  const memory = /^MemTotal:\s+(\d+) kB$/m.exec(readFileSync('/proc/meminfo', 'utf8'));
  return {
    cpus: availableParallelism(),
    model: cpus()[0]?.model ?? '',
    memoryBytes: Number(memory?.[1] ?? 0) * 1024,
    kernel: release(),
    node: process.versions.node,
    loadBefore: loadavg()[0] ?? 0,
  };
}

function writeResults(results: Results, markdown: string, json: string | undefined): void {
  const text = `${JSON.stringify(results, null, 2)}\n`;
  const folder = join(repository, 'bench/results');
  mkdirSync(folder, { recursive: true });
  const name = `pods-${results.startedAt.replaceAll(':', '')}`;
  const files = { json: text, md: markdown, svg: drawPlots(results) };
  for (const [kind, content] of Object.entries(files)) writeFileSync(join(folder, `${name}.${kind}`), content);
  if (json !== undefined) writeFileSync(json, text);
  say(`figures written to ${join(folder, name)}.{${Object.keys(files).join(',')}}`);
}

function say(text: string): void {
  process.stderr.write(`bench: ${text}\n`);
}

process.exitCode = await main();
