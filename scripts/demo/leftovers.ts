/** What there is of the demo on the machine, and how it is taken away without a berthd. */

import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, rmdirSync, rmSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

import Database from 'better-sqlite3';

import { readLinks } from '../../test/harness/machine-state.ts';
import { demoRules, removeDemoRules } from './host.ts';
import { BRIDGE, POD_LOG_NOTES, POD_LOGS, ROOT, STATE } from './places.ts';

const CGROUPS = '/sys/fs/cgroup';
const DEATH_TIMEOUT_MS = 10_000;

/** The demo's pods and containers: their ids, and the log folders that `berth run` made for them. */
export interface DemoPods {
  readonly ids: ReadonlySet<string>;
  readonly logFolders: readonly string[];
}

/**
 * Looks in the database, the state folder and the monitors' command lines, each of which may be gone, and in what
 * notePodLogs() has noted.
 */
export function readDemoPods(): DemoPods {
  const commands = demoProcesses().map(({ words }) => words.join(' '));
  const text = [readRecords(), readNotes(), ...stateNames(), ...commands].join('\n');
  const logs = text.matchAll(new RegExp(`${POD_LOGS}/[a-z0-9-]+-[0-9a-f]{8}(?![0-9a-z-])`, 'g'));
  return {
    ids: new Set([...text.matchAll(/(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])/g)].map(([id]) => id)),
    logFolders: [...new Set([...logs].map(([folder]) => folder))],
  };
}

/** Notes the log folders of pods, for readDemoPods(): who removes a pod with crictl leaves them, known to nobody. */
export function notePodLogs(): void {
  writeFileSync(POD_LOG_NOTES, `${readDemoPods().logFolders.join('\n')}\n`);
}

function readNotes(): string {
  return existsSync(POD_LOG_NOTES) ? readFileSync(POD_LOG_NOTES, 'utf8') : '';
}

/** What is there of the demo, each as a line for a person. */
export function findLeftOvers(pods: DemoPods): string[] {
  return [
    ...demoProcesses().map(({ pid, words }) => `process ${pid} (${words[0]})`),
    ...demoCgroups(pods).map((path) => `cgroup ${path}`),
    ...demoMounts().map((path) => `mount ${path}`),
    ...demoRules().map((rule) => `packet rule ${rule}`),
    ...(readLinks().includes(BRIDGE) ? [`network link ${BRIDGE}`] : []),
    ...[STATE, ROOT, ...pods.logFolders].filter((path) => existsSync(path)).map((path) => `folder ${path}`),
  ];
}

/** Takes away what belongs to pods: processes, cgroups, mounts, packet rules. For when no berthd can do it. */
export async function sweepPods(pods: DemoPods): Promise<void> {
  const cgroups = demoCgroups(pods);
  const giveUpAt = Date.now() + DEATH_TIMEOUT_MS;
  for (;;) {
    const pids = [...demoProcesses().map(({ pid }) => pid), ...cgroups.flatMap(processesOf)];
    if (pids.length === 0) break;
    if (Date.now() > giveUpAt) throw new Error(`these processes do not end: ${pids.join(', ')}`);
    for (const pid of pids) kill(pid);
    await delay(10);
  }
  for (const path of demoMounts().toReversed()) execFileSync('umount', ['--lazy', path]);
  for (const cgroup of cgroups) removeCgroup(cgroup);
  removeDemoRules();
}

/** Removes the folders, and the one of logs when no other pod's are in it. */
export function removeFolders(pods: DemoPods): void {
  for (const folder of [STATE, ROOT, ...pods.logFolders]) rmSync(folder, { recursive: true, force: true });
  try {
    rmdirSync(POD_LOGS);
  } catch {
    // It is not empty, or not there.
  }
}

function readRecords(): string {
  if (!existsSync(`${ROOT}/berth.db`)) return '';
  try {
    const database = new Database(`${ROOT}/berth.db`, { readonly: true });
    try {
      return ['sandboxes', 'containers']
        .map((table) => JSON.stringify(database.prepare(`SELECT * FROM ${table}`).all()))
        .join();
    } finally {
      database.close();
    }
  } catch {
    // Half of it is gone; the state folder knows as well.
    return '';
  }
}

function stateNames(): string[] {
  return ['sandboxes', 'containers'].flatMap((folder) => {
    const path = join(STATE, folder);
    return existsSync(path) ? readdirSync(path) : [];
  });
}

/** Processes that name the demo's folders in their command line: berthd, monitors, runtimes. */
function demoProcesses(): { pid: number; words: string[] }[] {
  const folders = [ROOT, STATE].flatMap((folder) => [folder, `${folder}/`]);
  return readdirSync('/proc').flatMap((name) => {
    if (!/^\d+$/.test(name)) return [];
    try {
      const words = readFileSync(`/proc/${name}/cmdline`, 'utf8').split('\0');
      // conmon, runc and crun get whole paths; a person's `tail -f` of the log must not be killed.
      const isOurs = /^(node|conmon|runc|crun)$/.test(basename(words[0] ?? ''));
      return isOurs && words.some((word) => folders.some((folder) => word === folder || word.startsWith(folder)))
        ? [{ pid: Number(name), words }]
        : [];
    } catch {
      return [];
    }
  });
}

/** The pods' cgroups in all hierarchies, deepest first; below each pod's are those that its containers made. */
function demoCgroups({ ids }: DemoPods): string[] {
  const search = (folder: string, isInside: boolean): string[] =>
    readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
      if (!entry.isDirectory()) return [];
      const path = join(folder, entry.name);
      const id = /^berth-([0-9a-f]{64})(\.scope)?$/.exec(entry.name)?.[1];
      const isOurs = isInside || (id !== undefined && ids.has(id));
      return [...search(path, isOurs), ...(isOurs ? [path] : [])];
    });
  return ids.size === 0 ? [] : search(CGROUPS, false);
}

function processesOf(cgroup: string): number[] {
  try {
    const pids = readFileSync(join(cgroup, 'cgroup.procs'), 'utf8').split('\n').map(Number);
    // A process of a PID namespace that we cannot see shows as 0, and a signal to 0 would hit ourselves.
    return pids.filter((pid) => pid > 0);
  } catch {
    return [];
  }
}

function removeCgroup(cgroup: string): void {
  try {
    rmdirSync(cgroup);
    // The folder of all pods, when this was the last.
    if (basename(join(cgroup, '..')) === 'berth') rmdirSync(join(cgroup, '..'));
  } catch {
    // Others are in it, or systemd was faster. What stays is told at the end.
  }
}

function demoMounts(): string[] {
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map((line) => line.split(' ')[4] ?? '')
    .filter((path) => [ROOT, STATE].some((folder) => path === folder || path.startsWith(`${folder}/`)));
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It has ended.
  }
}
