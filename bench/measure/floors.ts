import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';

import { makeBusyboxRootfs } from '../../test/fakes/images.ts';
import { type Figures, figuresOf } from './statistics.ts';

const run = promisify(execFile);

/** What the OCI runtime alone takes, started from here without a monitor: nobody who uses it can be faster. */
export interface Floors {
  readonly runtime: string;
  readonly create: Figures;
  readonly start: Figures;
  readonly delete: Figures;
}

/** Times `create`, `start` and `delete` of an OCI runtime on the host's network, in a folder of its own below `dir`. */
export async function measureFloors(runtime: string, dir: string, times: number, signal: AbortSignal): Promise<Floors> {
  const folder = join(dir, 'floors');
  const rootArgs = ['--root', join(folder, 'state')];
  const bundle = join(folder, 'bundle');
  await mkdir(bundle, { recursive: true });
  await makeBusyboxRootfs(join(bundle, 'rootfs'));
  await run(runtime, ['spec'], { cwd: bundle });
  const file = join(bundle, 'config.json');
  await writeFile(file, JSON.stringify(floorSpec(JSON.parse(await readFile(file, 'utf8')))));

  const took = { create: [] as number[], start: [] as number[], delete: [] as number[] };
  try {
    for (let index = 0; index <= times; index++) {
      signal.throwIfAborted();
      const id = `berth-bench-floor-${process.pid}-${index}`;
      const create = await timeOf(runtime, [...rootArgs, 'create', '--bundle', bundle, id]);
      const start = await timeOf(runtime, [...rootArgs, 'start', id]);
      await timeOf(runtime, [...rootArgs, 'kill', id, 'KILL']);
      await untilStopped(runtime, rootArgs, id, signal);
      const remove = await timeOf(runtime, [...rootArgs, 'delete', id]);
      // The first warms up.
      if (index === 0) continue;
      took.create.push(create);
      took.start.push(start);
      took.delete.push(remove);
    }
  } finally {
    await removeAll(runtime, rootArgs);
    await rm(folder, { recursive: true, force: true });
  }
  return {
    runtime,
    create: figuresOf(took.create),
    start: figuresOf(took.start),
    delete: figuresOf(took.delete),
  };
}

/** The runtime's own example, without a terminal, and with only the namespaces that a container of a pod gets anew. */
function floorSpec(example: {
  process: object;
  linux: { namespaces: { type: string }[] };
  mounts: { destination: string }[];
}): object {
  return {
    ...example,
    process: { ...example.process, terminal: false, args: ['sleep', '1000000'] },
    hostname: undefined,
    linux: {
      ...example.linux,
      namespaces: example.linux.namespaces.filter(({ type }) => ['pid', 'mount', 'cgroup'].includes(type)),
      cgroupsPath: `/berth-bench-floor-${process.pid}`,
    },
    mounts: example.mounts.filter(({ destination }) => destination !== '/dev/mqueue'),
  };
}

/** Milliseconds from spawn to exit. Nothing is piped: a container keeps the runtime's pipes open. */
async function timeOf(program: string, args: readonly string[]): Promise<number> {
  const startedMs = performance.now();
  const child = spawn(program, args, { stdio: 'ignore' });
  const [code]: unknown[] = await once(child, 'exit');
  const tookMs = performance.now() - startedMs;
  if (code !== 0) throw new Error(`${program} ${args.join(' ')} ended with ${code}`);
  return tookMs;
}

async function untilStopped(runtime: string, rootArgs: readonly string[], id: string, signal: AbortSignal) {
  for (;;) {
    signal.throwIfAborted();
    const { stdout } = await run(runtime, [...rootArgs, 'state', id]);
    if ((JSON.parse(stdout) as { status: string }).status === 'stopped') return;
  }
}

async function removeAll(runtime: string, rootArgs: readonly string[]): Promise<void> {
  const { stdout } = await run(runtime, [...rootArgs, 'list', '--quiet']);
  for (const id of stdout.split('\n').filter((line) => line !== '')) {
    await run(runtime, [...rootArgs, 'delete', '--force', id]);
  }
}
