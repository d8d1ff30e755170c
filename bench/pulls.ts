/** The bench of pulls: one large image from a registry on loopback, by Berth and by Debian's containerd in turns. */

import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';

import { describe } from '../src/base/errors.ts';
import { Connection } from '../src/cli/connection.ts';
import { pushLayout, startRegistry } from '../test/fakes/images.ts';
import { findListener } from './measure/daemon.ts';
import { type LoopDelay, LoopProbe } from './measure/event-loop.ts';
import { liveOnePod } from './measure/lifecycle.ts';
import { measurePodsUp, measurePull, type PodsUp, type Pull, type PullingDaemon } from './measure/pull.ts';
import { median } from './measure/statistics.ts';
import { writeUsrImage } from './measure/usr-image.ts';
import { BENCH_IMAGE, BenchLab } from './peers/bench-lab.ts';
import { startBerthd } from './peers/berthd.ts';
import { startContainerd } from './peers/containerd.ts';

const USAGE = `Usage: npm run bench:pulls -- [OPTION]...
Pulls an image of 8 gzip layers, made from /usr, from a registry on loopback, and prints what it took.

  --with containerd    start Debian's containerd as well, and compare
  --megabytes N        files in the image before compression (1600; about a third of it when compressed)
  --layout FOLDER      keep the image there for the next time
  --rounds N           pulls by each (3)
  --pods               have pods come up as well, alone and during one more pull in each round
`;

const never = new AbortController().signal;

const TAG = 'bench';
const LAYERS = 8;
const DISK_BYTES = 12e9;
/** As mke2fs makes it for a disk of 100 GB. With the 64 MB of a small one, whoever writes waits until it is emptied. */
const JOURNAL_MB = 512;

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      with: { type: 'string', multiple: true, default: [] },
      megabytes: { type: 'string', default: '1600' },
      layout: { type: 'string' },
      rounds: { type: 'string', default: '3' },
      pods: { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h', default: false },
    },
  });
  if (values.help) {
    process.stdout.write(USAGE);
    return;
  }
  await using closers = new AsyncDisposableStack();
  const lab = new BenchLab({ tmpfs: false });
  closers.defer(() => lab.close());
  const layout = values.layout ?? join(lab.root, 'usr-image');
  if (!existsSync(join(layout, 'index.json'))) {
    say('making the image');
    await writeUsrImage(layout, { tag: TAG, bytes: Number(values.megabytes) * 1e6, layers: LAYERS });
  }
  const registry = closers.use(await startRegistry());
  say('pushing it');
  const reference = await pushLayout({ dir: layout, tag: TAG }, registry, 'bench/usr:1');
  for (const name of ['berth', 'containerd']) closers.use(mountDisk(lab.root, name));
  const wish = { withPeer: values.with.includes('containerd'), withPods: values.pods };
  const daemons = await startDaemons(lab, wish, closers);
  const pulls = new Map<string, Pull[]>(daemons.map(({ name }) => [name, []]));
  const pods = new Map<string, PodsUp[]>(daemons.map(({ name }) => [name, []]));
  for (let round = 1; round <= Number(values.rounds); round += 1) {
    for (const daemon of daemons) {
      const pull = await measurePull(daemon, reference);
      pulls.get(daemon.name)?.push(pull);
      say(`round ${round}: ${daemon.name} ${describePull(pull)}`);
    }
    for (const daemon of values.pods ? daemons : []) {
      const up = await measurePodsUp(daemon, reference, never);
      pods.get(daemon.name)?.push(up);
      say(`round ${round}: ${daemon.name} ${describePods(up)}`);
    }
  }
  printPulls(pulls);
  if (values.pods) printPods(pods);
}

/**
 * A new ext4 with a journal for each daemon, as nodes have it. Without a journal, ext4 does not use the inodes of removed
 * files again for minutes, and the search for others makes what follows a removal up to five times as slow.
 */
function mountDisk(root: string, name: string): Disposable {
  const image = join(root, `${name}.ext4`);
  const target = join(root, name);
  mkdirSync(target);
  writeFileSync(image, '');
  truncateSync(image, DISK_BYTES);
  execFileSync('mkfs.ext4', ['-q', '-F', '-J', `size=${JOURNAL_MB}`, image]);
  execFileSync('mount', ['-o', 'loop', image, target]);
  return { [Symbol.dispose]: () => void execFileSync('umount', [target]) };
}

async function startDaemons(
  lab: BenchLab,
  { withPeer, withPods }: { readonly withPeer: boolean; readonly withPods: boolean },
  closers: AsyncDisposableStack,
): Promise<PullingDaemon[]> {
  const image = await lab.makeImage();
  const metrics = '127.0.0.1:19317';
  const probe = new LoopProbe(lab.root);
  const starts = [
    () => startBerthd(lab, image, 'runc', never, { config: ['[metrics]', `listen = "${metrics}"`], env: probe.env }),
    ...(withPeer ? [() => startContainerd(lab, image, 'runc', never)] : []),
  ];
  const daemons: PullingDaemon[] = [];
  const pods = {
    image: BENCH_IMAGE,
    runtimeHandler: '',
    cgroupParent: lab.cgroupParent,
    logDirectory: lab.logDirectory,
  };
  for (const start of starts) {
    const { daemon, endpoint } = await start();
    closers.defer(() => daemon.stop());
    const connection = closers.adopt(new Connection(endpoint.address), (open) => open.close());
    const pid = findListener(endpoint.address) ?? daemon.pid;
    const { name } = endpoint;
    const own =
      name === 'berth' ? { metrics: `http://${metrics}/metrics`, probe } : { metrics: undefined, probe: undefined };
    daemons.push({ name, pid, connection, ...own, disk: join(lab.root, name), pods });
    if (withPods) await liveOnePod(connection, pods, never);
  }
  return daemons;
}

function describePull(pull: Pull): string {
  const { wallMs, cpuMs, memoryGrowthBytes, loop, holdUpMs, ownLoop, firstThread, againMs } = pull;
  return [
    `${seconds(wallMs)}, ${seconds(cpuMs)} of processor time`,
    `${(memoryGrowthBytes / 1e6).toFixed(0)} MB more memory`,
    ...(loop ? [`its event loop late by ${showDelay(loop)}`] : []),
    ...(holdUpMs === undefined ? [] : [`held up by its own thread for ${holdUpMs.toFixed(1)} ms at most`]),
    `this one by ${showDelay(ownLoop)}`,
    `first thread ran ${seconds(firstThread.ran)} and waited ${seconds(firstThread.waited)} for a processor`,
    `again by tag ${againMs.byTag.toFixed(1)} ms, by digest ${againMs.byDigest.toFixed(1)} ms`,
  ].join('; ');
}

function describePods({ quiet, duringPull }: PodsUp): string {
  return `pod up ${median(quiet).toFixed(0)} ms, during a pull ${median(duringPull).toFixed(0)} (${duringPull.length} pods)`;
}

function showDelay({ maxMs, p99Ms }: LoopDelay): string {
  return `${maxMs.toFixed(1)} ms at most, p99 ${p99Ms.toFixed(1)}`;
}

function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(2)} s`;
}

function printPulls(pulls: ReadonlyMap<string, readonly Pull[]>): void {
  const head = [
    '',
    'wall s',
    'processor s',
    'memory growth MB, worst',
    'loop late ms, worst',
    'p99, worst',
    'held up by its thread ms, worst',
    "the bench's own, worst",
    'p99, worst',
    'again by tag ms',
    'by digest',
  ];
  const rows = [...pulls].map(([name, all]) => {
    const middle = (of: (pull: Pull) => number): number => median(all.map(of));
    const worst = (of: (pull: Pull) => number): number => Math.max(...all.map(of));
    return [
      name,
      (middle((pull) => pull.wallMs) / 1000).toFixed(2),
      (middle((pull) => pull.cpuMs) / 1000).toFixed(2),
      (worst((pull) => pull.memoryGrowthBytes) / 1e6).toFixed(0),
      ...(all.every(({ loop }) => loop === undefined)
        ? ['', '', '']
        : [
            worst((pull) => pull.loop?.maxMs ?? 0).toFixed(1),
            worst((pull) => pull.loop?.p99Ms ?? 0).toFixed(1),
            worst((pull) => pull.holdUpMs ?? 0).toFixed(1),
          ]),
      worst((pull) => pull.ownLoop.maxMs).toFixed(1),
      worst((pull) => pull.ownLoop.p99Ms).toFixed(1),
      middle((pull) => pull.againMs.byTag).toFixed(1),
      middle((pull) => pull.againMs.byDigest).toFixed(1),
    ];
  });
  printTable(head, rows);
}

function printPods(pods: ReadonlyMap<string, readonly PodsUp[]>): void {
  const rows = [...pods].map(([name, all]) => {
    const [quiet, duringPull] = [all.flatMap((one) => one.quiet), all.flatMap((one) => one.duringPull)];
    const count = `${quiet.length} and ${duringPull.length}`;
    return [name, ...[median(quiet), median(duringPull), Math.max(...duringPull)].map((ms) => ms.toFixed(0)), count];
  });
  printTable(['', 'pod up ms', 'during a pull', 'worst', 'pods'], rows);
}

function printTable(head: readonly string[], rows: readonly (readonly string[])[]): void {
  const lines = [head, head.map((_, at) => (at === 0 ? '---' : '---:')), ...rows];
  process.stdout.write(`${lines.map((cells) => `| ${cells.join(' | ')} |`).join('\n')}\n\n`);
}

/** What went wrong, and what went wrong in cleaning up after it. */
function errorsOf(err: unknown): unknown[] {
  if (!(err instanceof SuppressedError)) return [err];
  const both: { readonly error: unknown; readonly suppressed: unknown } = err;
  return [...errorsOf(both.suppressed), ...errorsOf(both.error)];
}

function say(text: string): void {
  process.stderr.write(`bench: ${text}\n`);
}

try {
  await main();
} catch (err) {
  for (const one of errorsOf(err)) say(describe(one));
  process.exitCode = 1;
}
