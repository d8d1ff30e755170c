import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

import { BerthError } from '../../base/errors.ts';
import type { LinuxResources } from '../container-spec.ts';
import { KernelFiles } from '../kernel-files.ts';
import type { CgroupFigures } from './cgroup-figures.ts';
import { normaliseCgroupfsParent } from './cgroup-parent.ts';
import type { CgroupTree } from './cgroup-tree.ts';
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
import { type CgroupMode, cgroupFile, cgroupOf } from './hierarchies.ts';
import { podLimitFiles, writeLimits } from './pod-limits.ts';

const DEFAULT_PARENT = '/berth';
/** The cgroup of a sandbox or container. */
const MEMBER = /^berth-([0-9a-f]{64})$/;

/** Cgroups made by writing to the cgroup file systems directly: for hosts whose kubelet does so too. */
export class CgroupfsDriver implements Cgroups {
  readonly driver = 'cgroupfs';
  readonly existingParent = '/';
  readonly #tree: CgroupTree;
  readonly #figures: FigureFiles;

  constructor(tree: CgroupTree) {
    this.#tree = tree;
    this.#figures = new FigureFiles(tree, new KernelFiles());
  }

  get mode(): CgroupMode {
    return this.#tree.mode;
  }

  validateParent(parent: string): void {
    normaliseCgroupfsParent(parent, DEFAULT_PARENT);
  }

  sandboxCgroup(parent: string, sandboxId: string): SandboxCgroup {
    return { driver: this.driver, path: pathOf(parent, sandboxId), unit: '' };
  }

  async createSandbox({ parent, sandboxId, resources }: SandboxCgroupRequest): Promise<SandboxCgroup> {
    const cgroup = this.sandboxCgroup(parent, sandboxId);
    await this.#tree.make(cgroup.path);
    // The default parent has the pods of all that name none below it, which no pod's limits are for.
    if (resources && parent !== '') {
      const parentPath = normaliseCgroupfsParent(parent, DEFAULT_PARENT);
      if (this.#tree.isOwn(parentPath)) this.#limit(parentPath, resources);
    }
    return cgroup;
  }

  async updatePod(parent: string, resources: LinuxResources): Promise<void> {
    if (parent === '') return;
    const path = normaliseCgroupfsParent(parent, DEFAULT_PARENT);
    if (!this.#tree.exists(path)) throw new BerthError('precondition', `pod cgroup ${path} is gone`);
    this.#limit(path, resources);
  }

  /** The cgroup.procs files that a process is put into the sandbox by. */
  procsFiles(cgroup: SandboxCgroup): readonly string[] {
    return this.#tree.populated.map((hierarchy) => cgroupFile(hierarchy, cgroup.path, 'cgroup.procs'));
  }

  threadPlacement(cgroup: SandboxCgroup): ThreadPlacement {
    const current = readFileSync('/proc/thread-self/cgroup', 'utf8');
    const movable = this.#tree.populated.filter((hierarchy) => hierarchy.version === 1);
    return {
      enter: movable.map((hierarchy) => cgroupFile(hierarchy, cgroup.path, 'tasks')),
      leave: movable.map((hierarchy) => cgroupFile(hierarchy, cgroupOf(current, hierarchy) ?? '/', 'tasks')),
      procs: this.mode === 'v2' ? this.procsFiles(cgroup) : [],
    };
  }

  expectMoves(): void {
    this.#tree.expectMoves();
  }

  async addProcess(cgroup: SandboxCgroup, pid: number): Promise<void> {
    await this.#tree.addProcess(cgroup.path, pid);
  }

  async removeSandbox(cgroup: SandboxCgroup, signal: AbortSignal): Promise<void> {
    await this.#tree.remove(cgroup.path, signal);
    this.#tree.removeUnused(dirname(cgroup.path));
  }

  containerCgroupsPath(parent: string, containerId: string): string {
    return pathOf(parent, containerId);
  }

  containerAnnotations(): Readonly<Record<string, string>> {
    return {};
  }

  async keepLimits(): Promise<void> {}

  container(parent: string, containerId: string): ContainerCgroup {
    return new ContainerCgroupFiles(this.#tree, pathOf(parent, containerId));
  }

  findCgroups(ids: ReadonlySet<string>): ReadonlyMap<string, readonly FoundCgroup[]> {
    return this.#tree.findMembers(
      (name) => MEMBER.exec(name)?.[1],
      ids,
      (_id, path) => ({
        files: new ContainerCgroupFiles(this.#tree, path),
        cgroup: { driver: this.driver, path, unit: '' },
      }),
    );
  }

  figures(path: string): CgroupFigures {
    return this.#figures.of(path);
  }

  podCgroup(parent: string): PodCgroup | undefined {
    if (parent === '') return undefined;
    const path = normaliseCgroupfsParent(parent, DEFAULT_PARENT);
    const members = this.#tree.childNames(path).map((name) => MEMBER.exec(name)?.[1]);
    return members.every((id) => id !== undefined) ? { path, members } : undefined;
  }

  close(): void {}

  #limit(path: string, resources: LinuxResources): void {
    writeLimits(this.#tree, path, podLimitFiles(this.mode, resources));
  }
}

function pathOf(parent: string, id: string): string {
  return join(normaliseCgroupfsParent(parent, DEFAULT_PARENT), `berth-${id}`);
}
