import { readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

import { BerthError, because } from '../../base/errors.ts';
import { isErrno, wrapErrno } from '../../sys/errno.ts';
import type { HugepageLimit } from '../container-spec.ts';
import { type CgroupTree, foldersBelow, readText } from './cgroup-tree.ts';
import type { CgroupEntries, ContainerCgroup } from './cgroups.ts';
import { cgroupFile, cgroupOf, type Hierarchy } from './hierarchies.ts';
import type { MemberEnd, OomLedger } from './oom-ledger.ts';
import { hugepageLimitFiles, writeLimits } from './pod-limits.ts';

/** Rounds of reading pids and killing them where the kernel cannot freeze or kill a whole cgroup. */
const KILL_ROUNDS = 5;

/** A container's cgroup in all hierarchies of the host. */
export class ContainerCgroupFiles implements ContainerCgroup {
  readonly path: string;
  readonly #tree: CgroupTree;
  readonly #ledger: OomLedger | undefined;

  /** The ledger is for cgroups that others than Berth remove. */
  constructor(tree: CgroupTree, path: string, ledger?: OomLedger) {
    this.path = path;
    this.#tree = tree;
    this.#ledger = ledger;
  }

  watchOomKills(): void {
    this.#ledger?.watch(this.path, dirname(this.path));
  }

  oomKillsAtEnd(end?: MemberEnd): number {
    return this.#ledger?.atEnd(this.path, dirname(this.path), end) ?? this.oomKills();
  }

  unwatchedOomKills(): number {
    return this.#ledger?.unwatched(dirname(this.path)) ?? 0;
  }

  entriesFor(initPid: number): CgroupEntries {
    const { hierarchies, mode } = this.#tree;
    const unified = hierarchies.find(({ version }) => version === 2);
    const below = unified && mode === 'v2' ? this.#pathBelow(initPid, unified) : undefined;
    return {
      v1: hierarchies.filter(({ version }) => version === 1).map((hierarchy) => cgroupFile(hierarchy, this.path)),
      unified: unified && cgroupFile(unified, this.path),
      unifiedOfInit: unified && below && cgroupFile(unified, below),
    };
  }

  #pathBelow(pid: number, hierarchy: Hierarchy): string | undefined {
    const path = cgroupOf(readText(`/proc/${pid}/cgroup`) ?? '', hierarchy);
    return path?.startsWith(`${this.path}/`) ? path : undefined;
  }

  oomKills(): number {
    const memory = this.#tree.withController('memory');
    if (!memory) return 0;
    const top = cgroupFile(memory, this.path);
    // v2 counts for a cgroup and all below it; v1 only where the victim was (both since Linux 4.13).
    const counts =
      memory.version === 2
        ? [readOomKills(join(top, 'memory.events'))]
        : foldersBelow(top).map((folder) => readOomKills(join(folder, 'memory.oom_control')));
    const known = counts.filter((count) => count !== undefined);
    if (known.length === 0) throw new BerthError('notFound', `cgroup ${this.path} is gone`);
    return known.reduce((sum, count) => sum + count, 0);
  }

  memoryUsageBytes(): number | undefined {
    const file = this.#tree.mode === 'v2' ? 'memory.current' : 'memory.usage_in_bytes';
    const text = this.#tree.read(this.path, 'memory', file);
    return text === undefined ? undefined : Number(text);
  }

  limitHugepages(limits: readonly HugepageLimit[]): () => void {
    return writeLimits(this.#tree, this.path, hugepageLimitFiles(this.#tree.mode, limits));
  }

  liftCpuQuota(): void {
    // The period stays as it is.
    if (this.#tree.mode === 'v2') this.#tree.write(this.path, 'cpu', 'cpu.max', 'max');
    else this.#tree.write(this.path, 'cpu', 'cpu.cfs_quota_us', '-1');
  }

  pids(): number[] {
    return this.#tree.pids(this.path);
  }

  killAll(): void {
    if (this.#killByKernel()) return;
    // As a rule it has ended by then, and each write to a freezer waits for those of others.
    if (this.pids().length === 0) return;
    // A frozen cgroup cannot fork faster than it is killed; the signal takes effect when it thaws.
    this.#freeze('FROZEN');
    try {
      for (let round = 0; round < KILL_ROUNDS; round++) {
        const alive = this.pids().filter(sendKill);
        if (alive.length === 0) return;
      }
    } finally {
      this.thaw();
    }
  }

  thaw(): void {
    this.#freeze('THAWED');
  }

  async remove(signal: AbortSignal): Promise<void> {
    await this.#tree.remove(this.path, signal);
    this.#ledger?.forget(this.path, dirname(this.path));
  }

  // cgroup.kill: cgroup v2 since Linux 5.14, with everything below.
  #killByKernel(): boolean {
    const [hierarchy] = this.#tree.hierarchies;
    if (this.#tree.mode !== 'v2' || !hierarchy) return false;
    return writeIfThere(cgroupFile(hierarchy, this.path, 'cgroup.kill'), '1');
  }

  #freeze(state: 'FROZEN' | 'THAWED'): void {
    const freezer = this.#tree.withController('freezer');
    if (!freezer) return;
    if (freezer.version === 1) writeIfThere(cgroupFile(freezer, this.path, 'freezer.state'), state);
    else writeIfThere(cgroupFile(freezer, this.path, 'cgroup.freeze'), state === 'FROZEN' ? '1' : '0');
  }
}

function readOomKills(file: string): number | undefined {
  const count = /^oom_kill (\d+)$/m.exec(readText(file) ?? '')?.[1];
  return count === undefined ? undefined : Number(count);
}

/** False when the process is gone. */
function sendKill(pid: number): boolean {
  try {
    return process.kill(pid, 'SIGKILL');
  } catch (err) {
    if (isErrno(err, 'ESRCH')) return false;
    if (isErrno(err, 'EACCES', 'EPERM')) throw notAllowed(pid, err);
    throw wrapErrno(`kill process ${pid}`, err);
  }
}

/** Root may signal everybody but whom a security module guards (apparmor.d(5), signal rules). */
function notAllowed(pid: number, cause: unknown): BerthError {
  const profile = profileOf(pid);
  const who = `kill process ${pid}${profile === '' ? '' : `, confined by ${profile}`}`;
  const how =
    'an AppArmor profile must have "signal (receive) peer=unconfined,": add it, and load it by apparmor_parser -r';
  return because('permission', `${who}: it takes no signal from berthd; ${how}`, cause);
}

function writeIfThere(file: string, value: string): boolean {
  try {
    writeFileSync(file, value, { flag: 'r+' });
    return true;
  } catch (err) {
    if (isErrno(err, 'ENOENT', 'ENODEV')) return false;
    throw err;
  }
}

/** '' where none is in force, or the process is gone. */
function profileOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/attr/current`, 'latin1').replace(/\0?\n?$/, '');
  } catch {
    return '';
  }
}
