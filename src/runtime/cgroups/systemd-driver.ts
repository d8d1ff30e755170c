import { basename, dirname } from 'node:path';

import { sleep } from '../../base/deadline.ts';
import { BerthError, isKind, wrap } from '../../base/errors.ts';
import type { LinuxResources } from '../container-spec.ts';
import { KernelFiles } from '../kernel-files.ts';
import type { CgroupFigures } from './cgroup-figures.ts';
import type { CgroupNotes } from './cgroup-marks.ts';
import { normaliseSlice, sliceOf, slicePath } from './cgroup-parent.ts';
import { type CgroupTree, readText } from './cgroup-tree.ts';
import type {
  Cgroups,
  ContainerCgroup,
  FoundCgroup,
  PodCgroup,
  SandboxCgroup,
  SandboxCgroupRequest,
  ThreadPlacement,
} from './cgroups.ts';
import { ContainerCgroupFiles } from './container-cgroup.ts';
import { FigureFiles } from './figure-files.ts';
import { type CgroupMode, cgroupFile } from './hierarchies.ts';
import { type LedgerNotes, OomLedger } from './oom-ledger.ts';
import { podLimitFiles, writeLimits } from './pod-limits.ts';
import { NO_LIMIT, propertiesInForce, scopeAnnotations, sliceProperties } from './slice-properties.ts';
import type { SystemdManager, UnitProperty } from './systemd-manager.ts';

/** Not system.slice: what all its members have in common is then Berth's. */
const DEFAULT_SLICE = 'berth.slice';
/** The scope of a sandbox or container. */
const MEMBER = /^berth-([0-9a-f]{64})\.scope$/;
const SIGPIPE = 13;
/** Nothing else than its being there: no dependencies that would stop it before its pods at shutdown. */
const SLICE_PROPERTIES: readonly UnitProperty[] = Object.freeze([
  { name: 'Description', signature: 's', value: 'Pods of Berth' },
  { name: 'DefaultDependencies', signature: 'b', value: false },
]);
/** A process that was just killed is in its cgroup for a moment longer. */
const EMPTY_WAITS_MS = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512];

/**
 * Cgroups that systemd makes: a scope for each sandbox, in the slice that the kubelet names. A scope lives only while
 * it has processes, so it starts with the first. A slice that is missing is started with the pod's limits, and stopped
 * again when the last that was in it has gone.
 */
export class SystemdDriver implements Cgroups {
  readonly driver = 'systemd';
  readonly #tree: CgroupTree;
  readonly #manager: SystemdManager;
  readonly #figures: FigureFiles;
  /** Of v2 only: v1 does not count for what is below. */
  readonly #ledger: OomLedger | undefined;
  /** Sandboxes whose scope is still to come: their slices must not go. */
  readonly #coming = new Map<string, string>();

  constructor(tree: CgroupTree, manager: SystemdManager, notes: CgroupNotes) {
    this.#tree = tree;
    this.#figures = new FigureFiles(tree, new KernelFiles());
    this.#manager = manager;
    this.#ledger = tree.mode === 'v2' ? new OomLedger(tree, ledgerNotes(tree, notes)) : undefined;
  }

  get mode(): CgroupMode {
    return this.#tree.mode;
  }

  /** The slice of berthd's own unit, whatever its owner has it run in. */
  get existingParent(): string {
    return sliceOf(this.#tree.hierarchies, readText('/proc/self/cgroup') ?? '');
  }

  validateParent(parent: string): void {
    normaliseSlice(parent, DEFAULT_SLICE);
  }

  sandboxCgroup(parent: string, sandboxId: string): SandboxCgroup {
    return { driver: this.driver, path: scopePath(parent, sandboxId), unit: scopeName(sandboxId) };
  }

  async createSandbox(request: SandboxCgroupRequest, signal: AbortSignal): Promise<SandboxCgroup> {
    const cgroup = this.sandboxCgroup(request.parent, request.sandboxId);
    const slice = dirname(cgroup.path);
    this.#coming.set(cgroup.unit, slice);
    if (!this.#tree.exists(slice)) await this.#startSlice(slice, signal);
    // As the kubelet's own slices, the default one is no single pod's.
    if (request.resources && request.parent !== '' && this.#tree.isOwn(slice))
      await this.updatePod(request.parent, request.resources, signal);
    return cgroup;
  }

  async updatePod(parent: string, resources: LinuxResources, signal: AbortSignal): Promise<void> {
    if (parent === '') return;
    const slice = normaliseSlice(parent, DEFAULT_SLICE);
    const path = slicePath(slice);
    if (!this.#tree.exists(path)) throw new BerthError('precondition', `pod slice ${slice} is gone`);
    // The files first: they say why a limit is refused. systemd must know as well, or its next reload undoes them.
    writeLimits(this.#tree, path, podLimitFiles(this.mode, resources));
    await this.#manager.setProperties(slice, sliceProperties(this.mode, resources), signal);
  }

  threadPlacement(): ThreadPlacement {
    return { enter: [], leave: [], procs: [] };
  }

  expectMoves(): void {
    this.#tree.expectMoves();
  }

  async addProcess(cgroup: SandboxCgroup, pid: number, signal: AbortSignal): Promise<void> {
    const current = readText(`/proc/${pid}/cgroup`);
    if (current === undefined) throw new BerthError('notFound', `process ${pid} is gone`);
    if (current.includes(`/${cgroup.unit}\n`)) return;
    try {
      const isNew = !this.#tree.exists(cgroup.path) && (await this.#start(cgroup, pid, signal));
      if (!isNew) await this.#manager.attachProcesses(cgroup.unit, [pid], signal);
      this.#coming.delete(cgroup.unit);
    } catch (err) {
      throw wrap(`put process ${pid} into ${cgroup.unit}`, err);
    }
  }

  async removeSandbox(cgroup: SandboxCgroup, signal: AbortSignal): Promise<void> {
    await this.#waitEmpty(cgroup, signal);
    await this.#manager.stopUnit(cgroup.unit, signal);
    // systemd removes it when it is told that it is empty, which may be a moment later.
    await this.#tree.remove(cgroup.path, signal);
    this.#coming.delete(cgroup.unit);
    await this.#stopUnusedSlices(dirname(cgroup.path), signal);
  }

  containerCgroupsPath(parent: string, containerId: string): string {
    return `${normaliseSlice(parent, DEFAULT_SLICE)}:berth:${containerId}`;
  }

  containerAnnotations(resources: LinuxResources, pidsLimit: number | undefined): Readonly<Record<string, string>> {
    return this.mode === 'v2' ? scopeAnnotations(resources, pidsLimit) : {};
  }

  async keepLimits(parent: string, containerId: string, signal: AbortSignal): Promise<void> {
    if (this.mode !== 'v2') return;
    const path = scopePath(parent, containerId);
    const properties = propertiesInForce((file) => this.#tree.read(path, file.split('.', 1)[0] ?? '', file));
    await this.#manager.setProperties(scopeName(containerId), properties, signal);
  }

  container(parent: string, containerId: string): ContainerCgroup {
    return new ContainerCgroupFiles(this.#tree, scopePath(parent, containerId), this.#ledger);
  }

  findCgroups(ids: ReadonlySet<string>): ReadonlyMap<string, readonly FoundCgroup[]> {
    return this.#tree.findMembers(
      (name) => MEMBER.exec(name)?.[1],
      ids,
      (id, path) => ({
        files: new ContainerCgroupFiles(this.#tree, path),
        cgroup: { driver: this.driver, path, unit: scopeName(id) },
      }),
    );
  }

  figures(path: string): CgroupFigures {
    return this.#figures.of(path);
  }

  podCgroup(parent: string): PodCgroup | undefined {
    if (parent === '') return undefined;
    const path = slicePath(normaliseSlice(parent, DEFAULT_SLICE));
    const members = this.#tree.childNames(path).map((name) => MEMBER.exec(name)?.[1]);
    return members.every((id) => id !== undefined) ? { path, members } : undefined;
  }

  close(): void {
    this.#manager.close();
  }

  /** Starts a slice with those above it, and marks what was not there. */
  async #startSlice(slice: string, signal: AbortSignal): Promise<void> {
    const missing = ancestorsOf(slice).filter((path) => !this.#tree.exists(path));
    try {
      await this.#manager.startUnit(basename(slice), [...SLICE_PROPERTIES], signal);
    } catch (err) {
      // Known to systemd, and started by another pod meanwhile, or without a cgroup yet.
      if (!isKind(err, 'alreadyExists')) throw wrap(`start ${basename(slice)}`, err);
    }
    for (const path of missing) this.#tree.mark(path);
  }

  // A slice with a pod that is only coming is not unused, and what others made is not Berth's to stop.
  async #stopUnusedSlices(slice: string, signal: AbortSignal): Promise<void> {
    for (const path of ancestorsOf(slice).reverse()) {
      if (!this.#tree.exists(path)) continue;
      const isAwaited = [...this.#coming.values()].some((other) => `${other}/`.startsWith(`${path}/`));
      if (isAwaited || !this.#tree.isOwn(path) || this.#tree.childNames(path).length > 0) return;
      await this.#manager.stopUnit(basename(path), signal);
      // OCI runtimes put containers into v1 hierarchies of which systemd knows nothing.
      await this.#tree.remove(path, signal);
      this.#ledger?.close(path);
    }
  }

  /** False when the scope is there already. */
  async #start(cgroup: SandboxCgroup, pid: number, signal: AbortSignal): Promise<boolean> {
    const slice = cgroup.path.split('/').at(-2);
    try {
      await this.#manager.startUnit(
        cgroup.unit,
        this.#properties(slice === '' || slice === undefined ? '-.slice' : slice, pid),
        signal,
      );
      return true;
    } catch (err) {
      if (isKind(err, 'alreadyExists')) return false;
      throw err;
    }
  }

  #properties(slice: string, pid: number): UnitProperty[] {
    return [
      { name: 'Description', signature: 's', value: 'Berth pod sandbox: pause and monitors' },
      { name: 'Slice', signature: 's', value: slice },
      { name: 'PIDs', signature: 'au', value: [pid] },
      // Its processes are Berth's to move, and systemd keeps its hands off what is below.
      { name: 'Delegate', signature: 'b', value: true },
      { name: 'DefaultDependencies', signature: 'b', value: false },
      { name: 'CollectMode', signature: 's', value: 'inactive-or-failed' },
      // When the node goes down, monitors outlive their containers' end and write it down: they ignore SIGPIPE.
      { name: 'KillSignal', signature: 'i', value: SIGPIPE },
      { name: 'TasksMax', signature: 't', value: NO_LIMIT },
    ];
  }

  // StopUnit kills, and removing a cgroup shall not.
  async #waitEmpty({ path, unit }: SandboxCgroup, signal: AbortSignal): Promise<void> {
    for (const waitMs of [...EMPTY_WAITS_MS, 0]) {
      if (this.#tree.pids(path).length === 0) return;
      if (waitMs > 0) await sleep(waitMs, signal);
    }
    throw new BerthError('precondition', `scope ${unit} cannot be removed: ${this.#tree.whoIsIn(path)}`);
  }
}

/** `/a.slice/a-b.slice` is in `/a.slice`, and both count. */
function ancestorsOf(slice: string): string[] {
  const parts = slice.split('/').filter((part) => part !== '');
  return parts.map((_, index) => `/${parts.slice(0, index + 1).join('/')}`);
}

function scopeName(id: string): string {
  return `berth-${id}.scope`;
}

function scopePath(parent: string, id: string): string {
  return `${slicePath(normaliseSlice(parent, DEFAULT_SLICE))}/${scopeName(id)}`;
}

/** Of the hierarchy with the memory controller. */
function ledgerNotes(tree: CgroupTree, notes: CgroupNotes): LedgerNotes {
  const folderOf = (parent: string): string | undefined => {
    const hierarchy = tree.withController('memory');
    return hierarchy && cgroupFile(hierarchy, parent);
  };
  return {
    read(parent) {
      const folder = folderOf(parent);
      return folder === undefined ? undefined : notes.read(folder);
    },
    write(parent, text) {
      const folder = folderOf(parent);
      if (folder !== undefined) notes.write(folder, text);
    },
  };
}
