import { randomInt } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { setImmediate as turn } from 'node:timers/promises';

import { isKind } from '../base/errors.ts';
import type { Processes } from '../proc/processes.ts';
import { killProcess } from '../sys/process.ts';

/** One line of /proc/PID/stat, as far as kinship goes. */
export interface ProcessFacts {
  readonly pid: number;
  readonly state: string;
  readonly parent: number;
  readonly session: number;
  readonly startTime: number;
}

/** Each round finds what was forked before its parent stood still; a tree that still grows is left to the last kill. */
const MOST_ROUNDS = 20;
const READS_PER_TURN = 50;
/** Microseconds: from 142 years on, as whole numbers, a limit that no real-time program ever meets. */
const LEAST_MARK = 2 ** 52;

/**
 * A number for native/exec-monitor.c to mark a tree of processes with: all that the tree ever starts has it as its soft
 * RLIMIT_RTTIME, whatever becomes of parents and sessions.
 */
export function newMark(): number {
  return LEAST_MARK + randomInt(2 ** 47);
}

/**
 * Kills the tree below `root`, but not `root` itself, and returns when all of it has ended: whoever carries the mark,
 * or descends from `root`, or shares a session with one who does. The tree is stopped first, so that nothing is forked
 * while it is counted. `root` must lead a session of its own: its own session is its tree's. Throws `permission` when one
 * of them takes no signal, when all others have ended.
 */
export async function killMarked(
  mark: number,
  root: number,
  processes: Pick<Processes, 'exitOf'>,
  signal: AbortSignal,
  send = killProcess,
): Promise<void> {
  const known = new Map<number, MarkedFacts>();
  const stopped = new Map<number, ProcessFacts>();
  const refused = new Map<number, unknown>();
  for (let round = 0; round < MOST_ROUNDS; round++) {
    for (const found of await readNew(known)) known.set(found.pid, found);
    const all = [...known.values()];
    const since = known.get(root)?.startTime ?? 0;
    const marked = all.filter((found) => found.startTime >= since && found.pid !== root && found.mark === mark);
    const tree = [...marked, ...relatives(all, root, process.pid)].filter(({ state }) => !isDead(state));
    const fresh = tree.filter(({ pid }) => !stopped.has(pid) && !refused.has(pid));
    if (fresh.length === 0) break;
    for (const found of fresh) {
      try {
        send(found.pid, found.startTime, 'SIGSTOP');
        stopped.set(found.pid, found);
      } catch (err) {
        // An AppArmor profile may deny it: the others must not stay as they are for that.
        if (!isKind(err, 'permission')) throw err;
        refused.set(found.pid, err);
      }
    }
  }
  for (const { pid, startTime } of stopped.values()) send(pid, startTime, 'SIGKILL');
  await Promise.all([...stopped.values()].map(({ pid, startTime }) => processes.exitOf(pid, startTime, signal)));
  for (const err of refused.values()) throw err;
}

/**
 * Of all processes, the descendants of `root` and those that share a session with one, without `root` and zombies.
 * The session of `stranger` is never theirs: a root that has not left it yet would make everybody in it a relative.
 */
export function relatives(all: readonly ProcessFacts[], root: number, stranger: number): ProcessFacts[] {
  const children = Map.groupBy(all, ({ parent }) => parent);
  const members = Map.groupBy(all, ({ session }) => session);
  for (const { session } of all.filter(({ pid }) => pid === stranger)) members.delete(session);
  const found = new Map<number, ProcessFacts>();
  const queue = [...(children.get(root) ?? [])];
  for (let next = queue.pop(); next; next = queue.pop()) {
    if (next.pid === root || next.pid === stranger || found.has(next.pid)) continue;
    found.set(next.pid, next);
    queue.push(...(children.get(next.pid) ?? []), ...(members.get(next.session) ?? []));
  }
  return [...found.values()].filter(({ state }) => !isDead(state));
}

/** Parses the text of /proc/PID/stat; undefined when it is no such text. The name in field 2 may hold anything. */
export function parseStat(text: string): ProcessFacts | undefined {
  const pid = Number.parseInt(text, 10);
  const [state, parent, , session, ...rest] = text.slice(text.lastIndexOf(')') + 2).split(' ');
  const startTime = Number(rest[15]);
  if (!state || !Number.isInteger(pid) || !Number.isInteger(startTime)) return undefined;
  return { pid, state, parent: Number(parent), session: Number(session), startTime };
}

/** The soft RLIMIT_RTTIME in the text of /proc/PID/limits; undefined where there is none. */
export function parseMark(limits: string): number | undefined {
  const soft = /^Max realtime timeout +(\d+) /m.exec(limits)?.[1];
  return soft === undefined ? undefined : Number(soft);
}

function isDead(state: string): boolean {
  return state === 'Z' || state === 'X';
}

interface MarkedFacts extends ProcessFacts {
  readonly mark: number | undefined;
}

/**
 * Facts of all processes that are not known yet. Synchronous reads of the kernel's small texts are several times faster
 * than others; with many processes the event loop gets its turn in between.
 */
async function readNew(known: ReadonlyMap<number, unknown>): Promise<MarkedFacts[]> {
  const found: MarkedFacts[] = [];
  const pids = readdirSync('/proc')
    .map(Number)
    .filter((pid) => Number.isInteger(pid) && !known.has(pid));
  for (const [i, pid] of pids.entries()) {
    if (i % READS_PER_TURN === READS_PER_TURN - 1) await turn();
    const facts = parseStat(readText(`/proc/${pid}/stat`));
    if (facts) found.push({ ...facts, mark: parseMark(readText(`/proc/${pid}/limits`)) });
  }
  return found;
}

/** '' when the process has gone. */
function readText(file: string): string {
  try {
    return readFileSync(file, 'latin1');
  } catch {
    return '';
  }
}
