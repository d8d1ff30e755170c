/** Starts, finds and stops the demo's berthd. */

import { execFile, spawn } from 'node:child_process';
import { closeSync, mkdirSync, openSync, readdirSync, readFileSync } from 'node:fs';
import { connect } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';

import { BERTH, BERTHD, CONFIG, ENDPOINT, LOG, ROOT, SOCKET } from './places.ts';

const START_TIMEOUT_MS = 20_000;
const STOP_TIMEOUT_MS = 15_000;
const COMMAND_TIMEOUT_MS = 300_000;
const POLL_MS = 10;

/** Runs `berth` against the demo's berthd and returns what it prints. Throws with its own words when it fails. */
export async function berth(...args: string[]): Promise<string> {
  try {
    const { stdout } = await promisify(execFile)(BERTH, ['--socket', ENDPOINT, ...args], {
      maxBuffer: 16 * 1024 * 1024,
      timeout: COMMAND_TIMEOUT_MS,
    });
    return stdout;
  } catch (err) {
    const said = err instanceof Error && 'stderr' in err ? String(err.stderr).trim() : '';
    throw new Error(said || `berth ${args.join(' ')}: ${String(err)}`, { cause: err });
  }
}

/** True when a berthd answers on the demo's socket. */
export async function isUp(): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<boolean>();
  const socket = connect(SOCKET);
  socket.once('connect', () => resolve(true)).once('error', () => resolve(false));
  try {
    return await promise;
  } finally {
    socket.destroy();
  }
}

/** Starts berthd in a session of its own and returns when it serves. Throws when it does not; its log tells why. */
export async function startBerthd(): Promise<void> {
  mkdirSync(ROOT, { recursive: true, mode: 0o700 });
  const log = openSync(LOG, 'a', 0o600);
  const child = spawn(BERTHD, ['--config', CONFIG], { detached: true, stdio: ['ignore', log, log], cwd: '/' });
  closeSync(log);
  let ended = '';
  child.once('error', (err) => {
    ended = err.message;
  });
  child.once('exit', (code, signal) => {
    ended = `it has ended with ${signal ?? `exit code ${code}`}`;
  });
  child.unref();
  const giveUpAt = Date.now() + START_TIMEOUT_MS;
  while (!(await isUp())) {
    if (ended !== '') throw new Error(`berthd does not serve: ${ended}`);
    if (Date.now() > giveUpAt) throw new Error(`berthd does not serve after ${START_TIMEOUT_MS / 1000} s`);
    await delay(POLL_MS);
  }
}

/** The last lines of berthd's log. */
export function logTail(): string {
  try {
    return readFileSync(LOG, 'utf8').trimEnd().split('\n').slice(-12).join('\n');
  } catch {
    return '(no log)';
  }
}

/** The demo's berthd processes: found by their command line, so that a pid file cannot lie. */
export function berthdPids(): number[] {
  return readdirSync('/proc').flatMap((name) => {
    if (!/^\d+$/.test(name)) return [];
    try {
      const words = readFileSync(`/proc/${name}/cmdline`, 'utf8').split('\0');
      return words.some((word) => word.endsWith('/dist/bundle/src/main.js')) && words.includes(CONFIG)
        ? [Number(name)]
        : [];
    } catch {
      return [];
    }
  });
}

/** Stops berthd, gently first. */
export async function stopBerthd(): Promise<void> {
  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    for (const pid of berthdPids()) kill(pid, signal);
    const giveUpAt = Date.now() + STOP_TIMEOUT_MS;
    while (berthdPids().length > 0 && Date.now() < giveUpAt) await delay(POLL_MS);
    if (berthdPids().length === 0) return;
  }
  throw new Error(`berthd (pid ${berthdPids().join(', ')}) does not end`);
}

function kill(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch {
    // It has ended meanwhile.
  }
}
