import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';

import { makeBusyboxRootfs } from '../../test/fakes/images.ts';
import { holdNetns, releaseNetns } from '../../test/harness/held-netns.ts';
import { type Figures, figuresOf } from './statistics.ts';

const run = promisify(execFile);

/** Where Debian has CNI's plugins. */
const PLUGINS = '/usr/lib/cni';

/**
 * What the OCI runtime alone takes, started from here without a monitor, and the CNI plugin: nobody who uses them can be
 * faster, but by doing something else meanwhile.
 */
export interface Floors {
  readonly runtime: string;
  readonly cniAdd: Figures;
  readonly cniDelete: Figures;
  readonly create: Figures;
  readonly start: Figures;
  readonly delete: Figures;
}

/**
 * Times `create`, `start` and `delete` of an OCI runtime on the host's network, in a folder of its own below `dir`, and ADD
 * and DEL of the CNI plugin that `network` (a configuration list) begins with.
 */
export async function measureFloors(
  runtime: string,
  { dir, network }: { readonly dir: string; readonly network: string },
  times: number,
  signal: AbortSignal,
): Promise<Floors> {
  const cni = await measurePlugin(dir, network, times, signal);
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
    ...cni,
    create: figuresOf(took.create),
    start: figuresOf(took.start),
    delete: figuresOf(took.delete),
  };
}

/** As the CNI specification has plugins called (section 4), in a network namespace of its own each time. */
async function measurePlugin(
  dir: string,
  network: string,
  times: number,
  signal: AbortSignal,
): Promise<Pick<Floors, 'cniAdd' | 'cniDelete'>> {
  const { cniVersion, name, plugins } = JSON.parse(await readFile(network, 'utf8')) as {
    readonly cniVersion: string;
    readonly name: string;
    readonly plugins: readonly { readonly type: string }[];
  };
  const [plugin] = plugins;
  if (!plugin) throw new Error(`${network} names no plugin`);
  const config = JSON.stringify({ ...plugin, cniVersion, name });
  const took = { cniAdd: [] as number[], cniDelete: [] as number[] };
  for (let index = 0; index <= times; index++) {
    signal.throwIfAborted();
    const netns = join(dir, `floor-netns-${index}`);
    holdNetns(netns);
    try {
      const call = async (command: string): Promise<number> => {
        const env = {
          ...process.env,
          CNI_COMMAND: command,
          CNI_CONTAINERID: `berth-bench-floor-${process.pid}-${index}`,
          CNI_NETNS: netns,
          CNI_IFNAME: 'eth0',
          CNI_PATH: PLUGINS,
        };
        return await timeOf(join(PLUGINS, plugin.type), [], { env, input: config });
      };
      const [add, remove] = [await call('ADD'), await call('DEL')];
      if (index === 0) continue;
      took.cniAdd.push(add);
      took.cniDelete.push(remove);
    } finally {
      releaseNetns(netns);
    }
  }
  return { cniAdd: figuresOf(took.cniAdd), cniDelete: figuresOf(took.cniDelete) };
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

/** Milliseconds from spawn to exit. Nothing else is piped: a container keeps the runtime's pipes open. */
async function timeOf(
  program: string,
  args: readonly string[],
  { env = process.env, input }: { readonly env?: NodeJS.ProcessEnv; readonly input?: string } = {},
): Promise<number> {
  const startedMs = performance.now();
  const child = spawn(program, args, { env, stdio: [input === undefined ? 'ignore' : 'pipe', 'ignore', 'ignore'] });
  child.stdin?.end(input);
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
