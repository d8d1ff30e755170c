import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  statSync,
  write as writeFd,
  writeFileSync,
} from 'node:fs';
import { mkdir, rmdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';

import { sleep } from '../../base/deadline.ts';
import { BerthError, wrap } from '../../base/errors.ts';
import { isErrno } from '../../sys/errno.ts';
import type { CgroupMarks } from './cgroup-marks.ts';
import { type CgroupMode, cgroupFile, cgroupOf, type Hierarchy, modeOf } from './hierarchies.ts';

const write = promisify(writeFd);

/** Controllers that limits of pods and containers use, the last two by `unified` keys alone. */
const DELEGATED = ['cpuset', 'cpu', 'io', 'memory', 'hugetlb', 'pids', 'rdma', 'misc'];
/** What a container with a writable cgroup mount may make of folders before Berth stops looking. */
const MAX_FOLDERS = 10_000;
/** A process that was just killed keeps its cgroup busy until the kernel has taken it apart. */
const REMOVE_WAITS_MS = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512];

/**
 * The same tree of cgroups in all hierarchies of the host: what is made, removed or asked is so in each of them. Calls
 * are synchronous, a few hundredths of a millisecond per hierarchy, except where the kernel makes a caller wait: who makes
 * or removes a cgroup waits for its lock, which whoever moves a process holds for a grace period of the kernel.
 */
export class CgroupTree {
  readonly hierarchies: readonly Hierarchy[];
  readonly mode: CgroupMode;
  readonly #marks: CgroupMarks;
  #isExpecting = false;

  constructor(hierarchies: readonly Hierarchy[], marks: CgroupMarks) {
    if (hierarchies.length === 0) throw new BerthError('precondition', 'no cgroup hierarchy is mounted on this host');
    this.hierarchies = hierarchies;
    this.mode = modeOf(hierarchies);
    this.#marks = marks;
  }

  /** The one hierarchy with this controller; on v2 the unified one, which has all. */
  withController(controller: string): Hierarchy | undefined {
    if (this.mode === 'v2') return this.hierarchies[0];
    return this.hierarchies.find((hierarchy) => hierarchy.controllers.includes(controller));
  }

  /**
   * Hierarchies in which a process has to be put into its cgroup. Not the cgroup2 mount of a hybrid host: it has no
   * controller that a pause process or a monitor needs, and every move costs the kernel an RCU grace period.
   */
  get populated(): readonly Hierarchy[] {
    return this.hierarchies.filter((hierarchy) => hierarchy.version === 1 || this.mode === 'v2');
  }

  /** Makes a cgroup, and its missing parents, which are marked as Berth's. Safe to repeat. */
  async make(path: string): Promise<void> {
    await allDone(
      this.hierarchies.map(async (hierarchy) => {
        if (this.mode === 'v2') this.#delegate(hierarchy, dirname(path));
        try {
          await mkdir(cgroupFile(hierarchy, path));
          finish(hierarchy, cgroupFile(hierarchy, path));
        } catch (err) {
          if (isErrno(err, 'EEXIST')) return;
          // With a missing parent too, which others could remove meanwhile; and for a word of what else is wrong.
          this.#makeIn(hierarchy, path, 'leaf');
        }
      }),
    );
  }

  /** True when it is there in at least one hierarchy. */
  exists(path: string): boolean {
    return this.hierarchies.some((hierarchy) => existsSync(cgroupFile(hierarchy, path)));
  }

  /** Writes a file of a controller, when the host has it. */
  write(path: string, controller: string, file: string, value: string): void {
    const hierarchy = this.withController(controller);
    if (!hierarchy) return;
    const target = cgroupFile(hierarchy, path, file);
    try {
      writeFileSync(target, value);
    } catch (err) {
      // v2 has a controller's files only where it was handed down (and answers EACCES, not ENOENT, for others).
      if (existsSync(target)) throw wrap(`write ${JSON.stringify(value)} to ${target}`, err);
    }
  }

  /** What a file of a controller says; undefined where the host does not have it, or the cgroup is gone. */
  read(path: string, controller: string, file: string): string | undefined {
    const hierarchy = this.withController(controller);
    return hierarchy && readText(cgroupFile(hierarchy, path, file))?.trimEnd();
  }

  /** Puts a process into the cgroup, unless it is there. It waits for the kernel (5 to 20 ms) off the event loop. */
  async addProcess(path: string, pid: number): Promise<void> {
    const current = readText(`/proc/${pid}/cgroup`);
    if (current === undefined) throw gone(pid);
    for (const hierarchy of this.populated) {
      if (cgroupOf(current, hierarchy)?.endsWith(path)) continue;
      const target = cgroupFile(hierarchy, path, 'cgroup.procs');
      try {
        await writeAside(target, String(pid));
      } catch (err) {
        if (isErrno(err, 'ESRCH')) throw gone(pid, err);
        throw wrap(`put process ${pid} into ${target}`, err);
      }
    }
  }

  /**
   * Has the kernel wait now for the lock that every move of a process takes (rcu_sync of cgroup_threadgroup_rwsem): the
   * move of this process to where it is.
   */
  expectMoves(): void {
    // In a v1 hierarchy it would take along the thread that is in a pod's cgroups for a moment.
    const hierarchy = this.hierarchies.find(({ version }) => version === 2);
    const own = hierarchy && cgroupOf(readText('/proc/self/cgroup') ?? '', hierarchy);
    if (own === undefined || !hierarchy || this.#isExpecting) return;
    this.#isExpecting = true;
    // One that is refused has waited too.
    void writeAside(cgroupFile(hierarchy, own, 'cgroup.procs'), String(process.pid))
      .catch(() => {})
      .finally(() => {
        this.#isExpecting = false;
      });
  }

  /** The names of the cgroups right below this one; empty when it is gone. */
  childNames(path: string): string[] {
    const [hierarchy] = this.populated;
    return (hierarchy && readSubfolders(cgroupFile(hierarchy, path))) ?? [];
  }

  /** What `make` makes of each cgroup that is one of `ids`, in any hierarchy; what is below one is not looked at. */
  findMembers<T>(
    idOf: (name: string) => string | undefined,
    ids: ReadonlySet<string>,
    make: (id: string, path: string) => T,
  ): Map<string, T[]> {
    const seen = new Set<string>();
    const found = new Map<string, T[]>();
    for (const hierarchy of this.hierarchies) {
      const open = ['/'];
      for (let path = open.pop(); path !== undefined; path = open.pop()) {
        for (const name of readSubfolders(cgroupFile(hierarchy, path)) ?? []) {
          const [below, id] = [join(path, name), idOf(name)];
          if (id === undefined) open.push(below);
          else if (ids.has(id) && !seen.has(below)) {
            seen.add(below);
            found.set(id, [...(found.get(id) ?? []), make(id, below)]);
          }
        }
      }
    }
    return found;
  }

  /** Processes in the cgroup and below, each once; empty when it is gone. */
  pids(path: string): number[] {
    const pids = new Set<number>();
    for (const hierarchy of this.populated) {
      for (const folder of foldersBelow(cgroupFile(hierarchy, path))) {
        for (const line of (readText(join(folder, 'cgroup.procs')) ?? '').split('\n')) {
          // 0 stands for a process outside this PID namespace, which cannot be named; kill(0) would hit Berth itself.
          if (line !== '' && line !== '0') pids.add(Number(line));
        }
      }
    }
    return [...pids];
  }

  /**
   * Removes the cgroup with those below it, in every hierarchy. Gone is success. What holds processes is tried again
   * for about a second, then it is a `precondition` error that names them.
   */
  async remove(path: string, signal: AbortSignal): Promise<void> {
    for (const waitMs of [...REMOVE_WAITS_MS, 0]) {
      const removed = await allDone(this.hierarchies.map((hierarchy) => removeFolders(cgroupFile(hierarchy, path))));
      if (removed.every(Boolean)) return;
      if (waitMs > 0) await sleep(waitMs, signal);
    }
    throw new BerthError('precondition', `cgroup ${path} cannot be removed: ${this.whoIsIn(path)}`);
  }

  /** Removes `path` and its ancestors as far as Berth made them and they are empty. */
  removeUnused(path: string): void {
    for (const hierarchy of this.hierarchies) {
      for (let at = path; at !== '/' && at !== ''; at = dirname(at)) {
        const folder = cgroupFile(hierarchy, at);
        if (existsSync(folder) && !(this.#marks.has(folder) && removeFolder(folder))) break;
      }
    }
  }

  /** Says for people which processes keep the cgroup busy. */
  whoIsIn(path: string): string {
    const names = this.pids(path)
      .slice(0, 10)
      .map((pid) => `${pid} (${readText(`/proc/${pid}/comm`)?.trim() ?? 'gone'})`);
    return names.length > 0 ? `it still holds process ${names.join(', ')}` : 'the kernel says that it is busy';
  }

  /** Says that Berth made the cgroup; one that is gone needs no mark. */
  mark(path: string): void {
    for (const hierarchy of this.hierarchies) {
      const folder = cgroupFile(hierarchy, path);
      if (existsSync(folder)) this.#marks.set(folder);
    }
  }

  /** True when Berth made the cgroup. */
  isOwn(path: string): boolean {
    return this.hierarchies.some((hierarchy) => this.#marks.has(cgroupFile(hierarchy, path)));
  }

  #makeIn(hierarchy: Hierarchy, path: string, role: 'leaf' | 'parent'): void {
    const folder = cgroupFile(hierarchy, path);
    for (let tries = 0; ; tries++) {
      try {
        mkdirSync(folder);
        break;
      } catch (err) {
        if (isErrno(err, 'EEXIST')) return;
        // The parent may also go between its making and this, when another pod's last cgroup leaves it.
        if (!isErrno(err, 'ENOENT') || dirname(path) === path || tries === 3) throw wrap(`make cgroup ${folder}`, err);
        this.#makeIn(hierarchy, dirname(path), 'parent');
      }
    }
    // A leaf is removed by its name, and every mark costs three system calls.
    if (role === 'parent') this.#mark(folder);
    finish(hierarchy, folder);
  }

  // Without its mark nobody would ever take it away.
  #mark(folder: string): void {
    try {
      this.#marks.set(folder);
    } catch (err) {
      removeFolder(folder);
      throw wrap(`mark cgroup ${folder}`, err);
    }
  }

  // A v2 cgroup has a controller's files only if all its ancestors hand the controller down (cgroups(7)).
  #delegate(hierarchy: Hierarchy, parent: string): void {
    const parts = parent.split('/').filter((part) => part !== '');
    for (let depth = 0; depth <= parts.length; depth++) {
      const path = `/${parts.slice(0, depth).join('/')}`;
      if (depth > 0) this.#makeIn(hierarchy, path, 'parent');
      const control = cgroupFile(hierarchy, path, 'cgroup.subtree_control');
      const handedDown = readWords(control);
      const missing = readWords(cgroupFile(hierarchy, path, 'cgroup.controllers')).filter(
        (controller) => DELEGATED.includes(controller) && !handedDown.includes(controller),
      );
      if (missing.length === 0 || hasProcessesInTheWay(cgroupFile(hierarchy, path))) continue;
      // One by one: a controller that is refused must not stop the others.
      for (const controller of missing) tryWrite(control, `+${controller}`);
    }
  }
}

/** The folder and all below it, parents first; nothing when it is gone. Throws `exhausted` for an absurd number. */
export function foldersBelow(top: string): string[] {
  const folders: string[] = [];
  const open = [top];
  for (let folder = open.pop(); folder !== undefined; folder = open.pop()) {
    const names = readSubfolders(folder);
    if (!names) continue;
    folders.push(folder);
    if (folders.length > MAX_FOLDERS)
      throw new BerthError('exhausted', `cgroup ${top} has more than ${MAX_FOLDERS} below it`);
    for (const name of names) open.push(join(folder, name));
  }
  return folders;
}

/** A file's text, or undefined when it, or its process, is gone. */
export function readText(file: string): string | undefined {
  try {
    return readFileSync(file, 'utf8');
  } catch (err) {
    // ENOTSUP: the cgroup.procs of a threaded cgroup of v2; its domain, further up, tells of those processes.
    if (isErrno(err, 'ENOENT', 'ENODEV', 'ESRCH', 'ENOTSUP')) return undefined;
    throw wrap(`read ${file}`, err);
  }
}

function readSubfolders(folder: string): string[] | undefined {
  try {
    const found = statSync(folder, { throwIfNoEntry: false });
    if (!found) return undefined;
    // Two links and no more: nothing is below it. Cgroups have dozens of files, which then need not be read.
    if (found.nlink === 2) return [];
    return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => (entry.isDirectory() ? entry.name : []));
  } catch (err) {
    if (isErrno(err, 'ENOENT', 'ENODEV', 'ENOTDIR')) return undefined;
    throw wrap(`read ${folder}`, err);
  }
}

function readWords(file: string): string[] {
  return (readText(file) ?? '').split(/\s+/).filter((word) => word !== '');
}

function finish(hierarchy: Hierarchy, folder: string): void {
  if (hierarchy.controllers.includes('cpuset')) inheritCpuset(folder);
}

// A new v1 cpuset is empty, and a process cannot enter it before it has processors and memory nodes (cpusets(7)).
function inheritCpuset(folder: string): void {
  for (const file of ['cpuset.cpus', 'cpuset.mems']) {
    if (readWords(join(folder, file)).length > 0) continue;
    const inherited = readText(join(dirname(folder), file))?.trim();
    if (inherited) writeFileSync(join(folder, file), inherited);
  }
}

/** Children first. False when one is busy. */
async function removeFolders(top: string): Promise<boolean> {
  // As a rule there is nothing below it, and to look would wait for whoever makes or removes a cgroup just then.
  if (await removeAside(top)) return true;
  for (const folder of foldersBelow(top).reverse()) if (!(await removeAside(folder))) return false;
  return true;
}

async function removeAside(folder: string): Promise<boolean> {
  try {
    await rmdir(folder);
    return true;
  } catch (err) {
    return isGone(folder, err);
  }
}

function removeFolder(folder: string): boolean {
  try {
    rmdirSync(folder);
    return true;
  } catch (err) {
    return isGone(folder, err);
  }
}

/** What an error of rmdir(2) says of a cgroup: false when it is busy. Throws what it says else. */
function isGone(folder: string, err: unknown): boolean {
  if (isErrno(err, 'ENOENT')) return true;
  if (isErrno(err, 'EBUSY', 'ENOTEMPTY')) return false;
  throw wrap(`remove cgroup ${folder}`, err);
}

/** Waits for all of them, also when one fails: none goes on behind the back of whoever takes back what was made. */
async function allDone<T>(works: readonly Promise<T>[]): Promise<T[]> {
  await Promise.allSettled(works);
  return await Promise.all(works);
}

// Only the write waits for the kernel: each step that a thread of the pool does has the event loop turn once more.
async function writeAside(file: string, text: string): Promise<void> {
  const fd = openSync(file, 'r+');
  try {
    await write(fd, text);
  } finally {
    closeSync(fd);
  }
}

// Of a cgroup with processes the kernel hands down cpu, cpuset and pids alone, and what is below takes no processes then
// (cgroup-v2.rst, "Threads": "domain invalid"). The root, which may have both, has no type.
function hasProcessesInTheWay(folder: string): boolean {
  return readText(join(folder, 'cgroup.type')) !== undefined && readText(join(folder, 'cgroup.procs')) !== '';
}

function tryWrite(file: string, value: string): void {
  try {
    writeFileSync(file, value);
  } catch {
    // The limit that needed it is then reported by whoever sets it.
  }
}

function gone(pid: number, cause?: unknown): BerthError {
  return new BerthError('notFound', `process ${pid} is gone`, { cause });
}
