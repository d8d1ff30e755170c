import { execFileSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { readHierarchies } from '../../src/runtime/cgroups/hierarchies.ts';
import { chooseDriver } from '../../src/runtime/cgroups/open-cgroups.ts';

const MOUNT = '/sys/fs/cgroup';
const PODS = /[-/]pod[0-9a-f_-]{30,}(\.slice)?$/;

/** The cgroup driver that berthd takes on this machine by itself, and that the kubelet must have too. */
export const DRIVER = chooseDriver(
  asDriver(process.env['BERTH_TEST_CGROUP_MANAGER']),
  readHierarchies(),
  existsSync('/run/systemd/system'),
);

/** Where all pods of a kubelet are, in each hierarchy of the machine. */
export interface CgroupRoot {
  /** As in its configuration. */
  readonly path: string;
  /** Below which its QoS tree begins, as a pattern for /proc/PID/cgroup. */
  readonly pods: string;
  /** The cgroups of pods that there are. */
  find(): string[];
  /** Removes all that is left of it. Throws when processes are. */
  remove(): void;
}

/** Throws when a kubelet of this machine has such a place already. */
export function openCgroupRoot(name: string): CgroupRoot {
  return DRIVER === 'systemd' ? new SliceRoot() : new FolderRoot(name);
}

/** A cgroup of its own. */
class FolderRoot implements CgroupRoot {
  readonly path: string;
  readonly pods: string;
  readonly #folders: readonly string[];

  constructor(name: string) {
    this.path = `/${name}`;
    this.pods = `${this.path}/kubepods`;
    this.#folders = hierarchies().map((hierarchy) => join(hierarchy, name));
    for (const folder of this.#folders) {
      mkdirSync(folder);
      // In cgroup v1 a cpuset begins without processors and memory.
      for (const file of ['cpuset.cpus', 'cpuset.mems']) {
        const above = join(folder, '..', file);
        if (!existsSync(join(MOUNT, 'cgroup.controllers')) && existsSync(above))
          copyFileSync(above, join(folder, file));
      }
    }
  }

  find(): string[] {
    return this.#folders.flatMap((folder) => below(folder).filter((path) => PODS.test(path)));
  }

  remove(): void {
    for (const folder of this.#folders) for (const path of [...below(folder), folder]) rmdirSync(path);
  }
}

/** The slice that a kubelet makes where systemd keeps the cgroups: as it has all controllers, at the top. */
class SliceRoot implements CgroupRoot {
  readonly path = '/';
  readonly pods = '/kubepods.slice';
  readonly #folder = join(MOUNT, this.pods);

  constructor() {
    if (existsSync(this.#folder)) throw new Error(`there is ${this.pods} already: does a kubelet run on this machine?`);
  }

  find(): string[] {
    return below(this.#folder).filter((path) => PODS.test(path));
  }

  remove(): void {
    const processes = below(this.#folder).flatMap((path) => readFileSync(join(path, 'cgroup.procs'), 'utf8'));
    if (processes.join('') !== '') throw new Error(`there are processes in ${this.pods}`);
    execFileSync('systemctl', ['stop', 'kubepods.slice']);
  }
}

function asDriver(text: string | undefined): 'auto' | 'cgroupfs' | 'systemd' {
  return text === 'cgroupfs' || text === 'systemd' ? text : 'auto';
}

function hierarchies(): string[] {
  if (existsSync(join(MOUNT, 'cgroup.controllers'))) {
    const controllers = readFileSync(join(MOUNT, 'cgroup.controllers'), 'utf8').trim().split(' ');
    writeFileSync(join(MOUNT, 'cgroup.subtree_control'), controllers.map((name) => `+${name}`).join(' '));
    return [MOUNT];
  }
  const names = readdirSync(MOUNT, { withFileTypes: true }).filter((entry) => entry.isDirectory());
  return names.map(({ name }) => join(MOUNT, name)).filter((path) => existsSync(join(path, 'cgroup.procs')));
}

/** All folders in one, the innermost first. Some may go meanwhile. */
function below(folder: string): string[] {
  try {
    const names = readdirSync(folder, { withFileTypes: true }).filter((entry) => entry.isDirectory());
    return names.flatMap(({ name }) => [...below(join(folder, name)), join(folder, name)]);
  } catch (err) {
    if (err instanceof Error && 'code' in err && err.code === 'ENOENT') return [];
    throw err;
  }
}
