/** The bench of pulls: one large image from a registry on loopback, by Berth and by Debian's containerd in turns. */

import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, statfsSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { parseArgs } from 'node:util';

import { ImageServiceService, PullImageRequest, RemoveImageRequest } from '../proto/gen/cri/api.ts';
import { describe } from '../src/base/errors.ts';
import { Connection } from '../src/cli/connection.ts';
import { pushLayout, startRegistry } from '../test/fakes/images.ts';
import { findListener, proportionalSetBytes } from './measure/daemon.ts';
import { processBusyMs } from './measure/processor-time.ts';
import { median } from './measure/statistics.ts';
import { writeUsrImage } from './measure/usr-image.ts';
import { BenchLab } from './peers/bench-lab.ts';
import { startBerthd } from './peers/berthd.ts';
import { startContainerd } from './peers/containerd.ts';

const USAGE = `Usage: npm run bench:pulls -- [OPTION]...
Pulls an image of 8 gzip layers, made from /usr, from a registry on loopback, and prints what it took.

  --with containerd    start Debian's containerd as well, and compare
  --megabytes N        files in the image before compression (1600; about a third of it when compressed)
  --layout FOLDER      keep the image there for the next time
  --rounds N           pulls by each (3)
`;

const TAG = 'bench';
const LAYERS = 8;
const DISK_BYTES = 12e9;
const PULL_TIMEOUT_MS = 600_000;
/** prom-client samples the event loop every 10 ms; a loop that is never late shows that. */
const LOOP_SAMPLE_MS = 10;

interface Daemon {
  readonly name: string;
  readonly pid: number;
  readonly connection: Connection;
  /** Where its own metrics are; undefined for peers. */
  readonly metrics: string | undefined;
}

/** What one pull took. */
interface Pull {
  readonly wallMs: number;
  readonly cpuMs: number;
  readonly memoryGrowthBytes: number;
  /** Longest time that the event loop was late; undefined where nobody tells. */
  readonly loopLateMs: number | undefined;
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      with: { type: 'string', multiple: true, default: [] },
      megabytes: { type: 'string', default: '1600' },
      layout: { type: 'string' },
      rounds: { type: 'string', default: '3' },
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
  const daemons = await startDaemons(lab, values.with.includes('containerd'), closers);
  const pulls = new Map<string, Pull[]>(daemons.map(({ name }) => [name, []]));
  for (let round = 1; round <= Number(values.rounds); round += 1) {
    for (const daemon of daemons) {
      const pull = await measurePull(daemon, reference, join(lab.root, daemon.name));
      pulls.get(daemon.name)?.push(pull);
      say(`round ${round}: ${daemon.name} ${describePull(pull)}`);
    }
  }
  print(pulls);
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
  execFileSync('mkfs.ext4', ['-q', '-F', image]);
  execFileSync('mount', ['-o', 'loop', image, target]);
  return { [Symbol.dispose]: () => void execFileSync('umount', [target]) };
}

async function startDaemons(lab: BenchLab, withPeer: boolean, closers: AsyncDisposableStack): Promise<Daemon[]> {
  const image = await lab.makeImage();
  const never = new AbortController().signal;
  const metrics = '127.0.0.1:19317';
  const starts = [
    () => startBerthd(lab, image, 'runc', never, { config: ['[metrics]', `listen = "${metrics}"`] }),
    ...(withPeer ? [() => startContainerd(lab, image, 'runc', never)] : []),
  ];
  const daemons: Daemon[] = [];
  for (const start of starts) {
    const { daemon, endpoint } = await start();
    closers.defer(() => daemon.stop());
    const connection = closers.adopt(new Connection(endpoint.address), (open) => open.close());
    const pid = findListener(endpoint.address) ?? daemon.pid;
    const isOwn = endpoint.name === 'berth';
    daemons.push({ name: endpoint.name, pid, connection, metrics: isOwn ? `http://${metrics}/metrics` : undefined });
  }
  return daemons;
}

async function measurePull(daemon: Daemon, image: string, disk: string): Promise<Pull> {
  const { connection, pid, metrics } = daemon;
  await connection.call(ImageServiceService.removeImage, RemoveImageRequest.create({ image: { image } }));
  await diskIsQuiet(disk);
  await loopLateMs(metrics);
  const memoryBefore = proportionalSetBytes(pid) ?? 0;
  const cpuBefore = busyMs(pid);
  const started = performance.now();
  let memoryPeak = 0;
  const done = new AbortController();
  const watch = (async () => {
    while (!done.signal.aborted) {
      memoryPeak = Math.max(memoryPeak, proportionalSetBytes(pid) ?? 0);
      await setTimeout(200, undefined, { signal: done.signal }).catch(() => undefined);
    }
  })();
  try {
    await connection.call(
      ImageServiceService.pullImage,
      PullImageRequest.create({ image: { image } }),
      PULL_TIMEOUT_MS,
    );
  } finally {
    done.abort();
    await watch;
  }
  return {
    wallMs: performance.now() - started,
    cpuMs: busyMs(pid) - cpuBefore,
    memoryGrowthBytes: memoryPeak - memoryBefore,
    loopLateMs: await loopLateMs(metrics),
  };
}

/** Peers free the blocks of a removed image when they like: waits until the disk gains no more. */
async function diskIsQuiet(folder: string): Promise<void> {
  for (let before = -1, free = statfsSync(folder).bfree; free > before + 1000; free = statfsSync(folder).bfree) {
    before = free;
    await setTimeout(3000);
  }
}

/** Processor time of a process and of those of its children that have ended (peers inflate in children). */
function busyMs(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return processBusyMs(pid) + (Number(fields[13]) + Number(fields[14])) * 10;
}

/** How late the loop was at most since the last time that this was asked. */
async function loopLateMs(metrics: string | undefined): Promise<number | undefined> {
  if (metrics === undefined) return undefined;
  const text = await (await fetch(metrics)).text();
  const match = /^berth_nodejs_eventloop_lag_max_seconds ([\d.e+-]+)$/m.exec(text);
  return match ? Math.max(0, Number(match[1]) * 1000 - LOOP_SAMPLE_MS) : undefined;
}

function describePull({ wallMs, cpuMs, memoryGrowthBytes, loopLateMs }: Pull): string {
  const loop = loopLateMs === undefined ? '' : `, event loop late by ${loopLateMs.toFixed(1)} ms at most`;
  const seconds = `${(wallMs / 1000).toFixed(2)} s, ${(cpuMs / 1000).toFixed(2)} s of processor time`;
  return `${seconds}, ${(memoryGrowthBytes / 1e6).toFixed(0)} MB more memory${loop}`;
}

function print(pulls: ReadonlyMap<string, readonly Pull[]>): void {
  const rows = [...pulls].map(([name, all]) => {
    const middle = (of: (pull: Pull) => number | undefined): number =>
      median(all.map((pull) => of(pull) ?? Number.NaN));
    const late = all.some(({ loopLateMs }) => loopLateMs !== undefined);
    const worst = late ? Math.max(...all.map((pull) => pull.loopLateMs ?? 0)).toFixed(1) : '';
    const figures = [middle((pull) => pull.wallMs) / 1000, middle((pull) => pull.cpuMs) / 1000];
    const memory = Math.max(...all.map((pull) => pull.memoryGrowthBytes)) / 1e6;
    return `| ${[name, ...figures.map((figure) => figure.toFixed(2)), memory.toFixed(0), worst].join(' | ')} |`;
  });
  const head = '| | wall s, median | processor s, median | memory growth MB, worst | loop late ms, worst |';
  process.stdout.write(`${[head, '| --- | ---: | ---: | ---: | ---: |', ...rows].join('\n')}\n`);
}

function say(text: string): void {
  process.stderr.write(`bench: ${text}\n`);
}

try {
  await main();
} catch (err) {
  process.stderr.write(`bench: ${describe(err)}\n`);
  process.exitCode = 1;
}
