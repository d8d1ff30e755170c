import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { setTimeout } from 'node:timers/promises';

/** How long a daemon may take to serve, and to end after SIGTERM. */
const START_MS = 30_000;
const STOP_MS = 20_000;

/** A daemon that was started for a bench. */
export interface StartedDaemon {
  readonly pid: number;
  /** Ends it, by force when it takes too long. */
  stop(): Promise<void>;
}

/** Starts a daemon and waits for the line of its log that says it serves. Throws with its last lines when it ends. */
export async function startDaemon(
  [program = '', ...args]: readonly string[],
  serves: RegExp,
  signal: AbortSignal,
  env: Readonly<Record<string, string>> = {},
): Promise<StartedDaemon> {
  // A group of its own, so that Ctrl-C reaches only the bench, which then takes its pods down first.
  const child = spawn(program, args, {
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
    env: { ...process.env, ...env },
  });
  const exited = once(child, 'exit').catch(() => undefined);
  const lines: string[] = [];
  const ready = Promise.withResolvers<void>();
  for (const stream of [child.stdout, child.stderr]) {
    createInterface({ input: stream }).on('line', (line) => {
      lines.push(line);
      if (lines.length > 30) lines.shift();
      if (serves.test(line)) ready.resolve();
    });
  }
  child.once('error', ready.reject);
  void exited.then(() => ready.reject(new Error(`${program} ended at its start:\n${lines.join('\n')}`)));
  const late = new AbortController();
  try {
    await Promise.race([ready.promise, failAfter(START_MS, `${program} does not serve`, signal, late.signal)]);
  } catch (err) {
    await stop(child, exited);
    throw err;
  } finally {
    late.abort();
  }
  return { pid: child.pid ?? 0, stop: () => stop(child, exited) };
}

async function failAfter(ms: number, message: string, signal: AbortSignal, done: AbortSignal): Promise<never> {
  await setTimeout(ms, undefined, { signal: AbortSignal.any([signal, done]) });
  throw new Error(`${message} after ${ms} ms`);
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
