import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const MOUNT = '/sys/fs/cgroup';
const PODS = /[-/]pod[0-9a-f_-]{30,}(\.slice)?$/;

/** A cgroup in each hierarchy of the machine, for all pods of a kubelet. */
export class CgroupRoot {
  /** From the root of the hierarchies. */
  readonly path: string;
  readonly #folders: readonly string[];

  constructor(name: string) {
    this.path = `/${name}`;
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

  /** The cgroups that the kubelet made for pods and has not removed. */
  pods(): string[] {
    return this.#folders.flatMap((folder) => below(folder).filter((path) => PODS.test(path)));
  }

  /** Removes all that is left of it. Throws when processes are. */
  remove(): void {
    for (const folder of this.#folders) for (const path of [...below(folder), folder]) rmdirSync(path);
  }
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
