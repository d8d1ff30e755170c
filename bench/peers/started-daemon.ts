import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createConnection } from 'node:net';
import { createInterface } from 'node:readline';
import { setTimeout } from 'node:timers/promises';

import { RuntimeServiceService, VersionRequest } from '../../proto/gen/cri/api.ts';
import { Connection } from '../../src/cli/connection.ts';

/** How long a daemon may take to serve, and to end after SIGTERM. */
const START_MS = 30_000;
const STOP_MS = 20_000;
const ASK_AGAIN_MS = 2;
const KEPT_LINES = 30;

/** A daemon that was started for a bench. */
export interface StartedDaemon {
  readonly pid: number;
  /** Ends it, by force when it takes too long. */
  stop(): Promise<void>;
}

/** How to start a daemon. */
export interface DaemonStart {
  readonly command: readonly string[];
  /** Where it serves the CRI: `unix:///path`. */
  readonly address: string;
  /** In addition to this process' own environment. */
  readonly env?: Readonly<Record<string, string>>;
}

/** Starts a daemon and asks until it answers. Throws with the last lines of its log when it ends instead. */
export async function startDaemon(
  { command, address, env = {} }: DaemonStart,
  signal: AbortSignal,
): Promise<StartedDaemon> {
  const [program = '', ...args] = command;
  // Of whoever calls the bench, for his own Node: a service has none, and each start would parse all the certificates.
  const { NODE_EXTRA_CA_CERTS: _, ...inherited } = process.env;
  // A group of its own, so that Ctrl-C reaches only the bench, which then takes its pods down first.
  const child = spawn(program, args, {
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
    env: { ...inherited, ...env },
  });
  const exited = once(child, 'exit').catch(() => undefined);
  const lines: string[] = [];
  for (const stream of [child.stdout, child.stderr]) {
    createInterface({ input: stream }).on('line', (line) => {
      lines.push(line);
      if (lines.length > KEPT_LINES) lines.shift();
    });
  }
  const failed = Promise.withResolvers<never>();
  child.once('error', failed.reject);
  void exited.then(() => failed.reject(new Error(`${program} ended at its start:\n${lines.join('\n')}`)));
  const done = new AbortController();
  try {
    await Promise.race([untilAnswers(address, AbortSignal.any([signal, done.signal])), failed.promise]);
  } catch (err) {
    await stop(child, exited);
    throw err;
  } finally {
    failed.promise.catch(() => undefined);
    done.abort();
  }
  return { pid: child.pid ?? 0, stop: () => stop(child, exited) };
}

async function untilAnswers(address: string, signal: AbortSignal): Promise<void> {
  const deadline = performance.now() + START_MS;
  while (!(await accepts(address)) || !(await answers(address))) {
    signal.throwIfAborted();
    if (performance.now() > deadline) throw new Error(`${address} does not answer after ${START_MS} ms`);
    await setTimeout(ASK_AGAIN_MS, undefined, { signal });
  }
}

/** A client of gRPC waits a second before it tries again: so this looks first. */
async function accepts(address: string): Promise<boolean> {
  const socket = createConnection(address.replace(/^unix:(\/\/)?/, ''));
  try {
    await once(socket, 'connect');
    return true;
  } catch {
    return false;
  } finally {
    socket.destroy();
  }
}

async function answers(address: string): Promise<boolean> {
  const connection = new Connection(address);
  try {
    await connection.call(RuntimeServiceService.version, VersionRequest.create());
    return true;
  } catch {
    return false;
  } finally {
    connection.close();
  }
}

async function stop(child: ChildProcess, exited: Promise<unknown>): Promise<void> {
  child.kill('SIGTERM');
  const done = new AbortController();
  const killer = setTimeout(STOP_MS, undefined, { signal: done.signal }).then(
    () => child.kill('SIGKILL'),
    () => false,
  );
  await exited;
  done.abort();
  await killer;
}

/** A daemon that can be started again over the same folders. */
export class RestartableDaemon implements StartedDaemon {
  readonly #start: () => Promise<StartedDaemon>;
  #running: StartedDaemon;

  private constructor(start: () => Promise<StartedDaemon>, running: StartedDaemon) {
    this.#start = start;
    this.#running = running;
  }

  /** Starts it for the first time. Throws as `startDaemon` does. */
  static async start(how: DaemonStart, signal: AbortSignal): Promise<RestartableDaemon> {
    const start = (): Promise<StartedDaemon> => startDaemon(how, signal);
    return new RestartableDaemon(start, await start());
  }

  get pid(): number {
    return this.#running.pid;
  }

  async stop(): Promise<void> {
    await this.#running.stop();
  }

  /** Stops it and starts it anew. Returns how long the start took until it answered, in milliseconds. */
  async restart(): Promise<number> {
    await this.stop();
    const startedMs = performance.now();
    this.#running = await this.#start();
    return performance.now() - startedMs;
  }
}
