import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

import { patient } from './patience.ts';

const DYING_MS = 20_000;
/** portmap leaves its empty base chains and the jumps to them for good, whatever runtime calls it. */
const PORTMAP_BASE = /CNI-HOSTPORT-(DNAT|SETMARK|MASQ)/;

/** What a runtime can leave behind on a machine, each kind as a sorted list of names. */
export interface MachineState {
  readonly mounts: readonly string[];
  readonly namespaces: readonly string[];
  readonly processes: readonly string[];
  readonly cgroups: readonly string[];
  readonly links: readonly string[];
  readonly rules: readonly string[];
}

/** Takes stock of the machine. Compare two with assertNothingLeft(). */
export function readMachineState(): MachineState {
  return {
    mounts: readMounts(),
    namespaces: readNamespaces(),
    processes: readProcesses(),
    cgroups: readCgroups(),
    links: readLinks(),
    rules: readRules(),
  };
}

/**
 * Fails, naming each mount, namespace, process, cgroup, network link or packet rule that is there now and was not. With
 * `own`, only those count that have one of these texts in their names. Processes that were killed are given some time to
 * go, and their namespaces with them: on a busy machine it takes them long to get to it.
 */
export async function assertNothingLeft(before: MachineState, own: readonly string[] = ['']): Promise<void> {
  const giveUpAt = performance.now() + patient(DYING_MS);
  for (;;) {
    const left = leftSince(before, own);
    const mayGo = Object.keys(left).every((kind) => kind === 'processes' || kind === 'namespaces');
    if (!mayGo || Object.keys(left).length === 0 || performance.now() > giveUpAt) {
      assert.deepEqual(left, {}, `left on the machine: ${JSON.stringify(left, null, 1)}`);
      return;
    }
    await delay(50);
  }
}

function leftSince(before: MachineState, own: readonly string[]): Record<string, string[]> {
  const after = readMachineState();
  const left: Record<string, string[]> = {};
  for (const kind of ['mounts', 'namespaces', 'processes', 'cgroups', 'links', 'rules'] as const) {
    const known = new Set(before[kind]);
    const added = after[kind].filter((name) => !known.has(name) && own.some((text) => name.includes(text)));
    // Services and sessions of the machine come and go meanwhile.
    const ours = kind === 'cgroups' ? added.filter((path) => !readPids(path).some(isOfOthers)) : added;
    const counted = kind === 'rules' ? ours.filter((rule) => !PORTMAP_BASE.test(rule)) : ours;
    if (counted.length > 0) left[kind] = counted;
  }
  return left;
}

/** The mount points of this process's namespace, sorted. */
export function readMounts(): string[] {
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => line.split(' ')[4] ?? '')
    .sort();
}

/** True while a process is there and has not ended: one that nobody has reaped yet is no process any more. */
export function isAlive(pid: number | string): boolean {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
}

/** Network, IPC, UTS and PID namespaces that a process lives in; pinned ones without a process show as mounts. */
function readNamespaces(): string[] {
  const found = new Set<string>();
  // What has ended still has its PID namespace until it is reaped, and not every machine's first process hurries.
  for (const pid of pids().filter(isAlive)) {
    for (const kind of ['net', 'ipc', 'uts', 'pid', 'mnt']) {
      try {
        found.add(readlinkSync(`/proc/${pid}/ns/${kind}`));
      } catch {
        // The process ended while we looked.
      }
    }
  }
  return [...found].sort();
}

/** Programs that Berth starts, and what these have left. Others on the machine come and go by themselves. */
function readProcesses(): string[] {
  return pids()
    .flatMap((pid) => {
      const words = commandLine(pid);
      return isOurs(words) || isStray(pid, words) ? [`${pid} ${words.join(' ').trim()}`] : [];
    })
    .sort();
}

/**
 * What nobody waits for any more, and nobody has made a service: its parent and the leader of its session have gone, and
 * it is in the test's own cgroup. So are the hooks of a runtime that was killed.
 */
function isStray(pid: string, words: readonly string[]): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    const [, parent, , session = '0'] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    if (parent !== '1' || session === '0' || session === pid || words.join('') === '') return false;
    const cgroup = (of: string): string => readFileSync(`/proc/${of}/cgroup`, 'utf8');
    return !isAlive(session) && isAlive(pid) && cgroup(pid) === cgroup('self');
  } catch {
    return false;
  }
}

function isOurs(words: readonly string[]): boolean {
  const ours =
    /(^|\/)(conmon|exec-monitor|exec-join|filter-reader|runc|crun|pause|berthd|berth-disk|host-local|bridge|portmap)$|src\/main\.[jt]s$/;
  return words.slice(0, 4).some((word) => ours.test(word));
}

/** A process of the machine: it runs among the test's own processes and files, and no program of Berth's. */
function isOfOthers(pid: string): boolean {
  try {
    const isOutside = ['pid', 'mnt'].every(
      (kind) => readlinkSync(`/proc/${pid}/ns/${kind}`) === readlinkSync(`/proc/self/ns/${kind}`),
    );
    return isOutside && isAlive(pid) && !isOurs(commandLine(pid));
  } catch {
    return false;
  }
}

function commandLine(pid: string): string[] {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
  } catch {
    return [];
  }
}

function readPids(cgroup: string): string[] {
  try {
    return readFileSync(join(cgroup, 'cgroup.procs'), 'utf8').split('\n').filter(Boolean);
  } catch {
    return [];
  }
}

/** The folders of all cgroups, sorted. */
export function readCgroups(root = '/sys/fs/cgroup'): string[] {
  const found: string[] = [];
  const walk = (folder: string): void => {
    for (const name of foldersIn(folder)) {
      const path = join(folder, name);
      found.push(path);
      walk(path);
    }
  };
  walk(root);
  return found.sort();
}

/** None when somebody has removed the folder meanwhile. */
function foldersIn(folder: string): string[] {
  try {
    return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => (entry.isDirectory() ? [entry.name] : []));
  } catch (err) {
    if (err instanceof Error && 'code' in err && (err.code === 'ENOENT' || err.code === 'ENODEV')) return [];
    throw err;
  }
}

/** Kills what is in cgroups, of whichever hierarchy, that have one of these texts in their paths. */
export function killInCgroups(texts: readonly string[]): void {
  for (const folder of readCgroups().filter((path) => texts.some((text) => path.includes(text)))) {
    for (const pid of processesIn(folder)) killIfThere(pid);
  }
}

/** The processes in a cgroup; none when that has gone meanwhile. */
function processesIn(cgroup: string): number[] {
  try {
    return readFileSync(join(cgroup, 'cgroup.procs'), 'utf8').split('\n').filter(Boolean).map(Number);
  } catch {
    return [];
  }
}

/** What was listed a moment ago may have ended meanwhile. */
function killIfThere(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (err) {
    if (!(err instanceof Error && 'code' in err && err.code === 'ESRCH')) throw err;
  }
}

/** The network links of this process's namespace, sorted; /sys shows those of whoever mounted it. */
export function readLinks(): string[] {
  const lines = readFileSync('/proc/self/net/dev', 'utf8').split('\n');
  return lines.flatMap((line) => /^\s*([^:\s]+):/.exec(line)?.[1] ?? []).sort();
}

function readRules(): string[] {
  const lines = ['iptables-save', 'ip6tables-save'].flatMap((tool) => {
    try {
      return execFileSync(tool, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
        .split('\n')
        .map((line) => `${tool}: ${line}`);
    } catch {
      return [];
    }
  });
  // Comments carry the time; chain lines carry packet counters.
  return lines.filter((line) => /: -A /.test(line)).sort();
}

function pids(): string[] {
  return readdirSync('/proc').filter((name) => /^\d+$/.test(name));
}
