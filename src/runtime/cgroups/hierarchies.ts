import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import { type MountInfo, parseMountInfo } from '../../sys/mount-info.ts';

/** One mounted cgroup hierarchy of this host. */
export interface Hierarchy {
  readonly version: 1 | 2;
  /** What it controls, `cpu` and `cpuacct` for one; empty for v2 (cgroup.controllers tells) and for named ones. */
  readonly controllers: readonly string[];
  /** Of a v1 hierarchy without controllers, `systemd`; otherwise empty. */
  readonly name: string;
  readonly mountPoint: string;
}

/** `hybrid`: v1 controllers with a cgroup2 mount beside them. */
export type CgroupMode = 'v1' | 'v2' | 'hybrid';

/** Mount options of a v1 hierarchy that aren't controllers (cgroups(7), fs/cgroup/cgroup-v1.c). */
const V1_OPTIONS: ReadonlySet<string> = new Set([
  'rw',
  'ro',
  'none',
  'all',
  'noprefix',
  'clone_children',
  'cpuset_v2_mode',
  'xattr',
  'favordynmods',
  'nofavordynmods',
]);

/** The hierarchies of the host that this process sees. */
export function readHierarchies(): Hierarchy[] {
  return parseHierarchies(readFileSync('/proc/self/mountinfo', 'utf8'));
}

/**
 * The cgroup hierarchies in the text of /proc/PID/mountinfo (proc_pid_mountinfo(5)). Of one that is mounted more than
 * once, the mount below /sys/fs/cgroup counts, where OCI runtimes look, and a mount of the whole before one of a part.
 */
export function parseHierarchies(mountinfo: string): Hierarchy[] {
  const found = new Map<string, { readonly hierarchy: Hierarchy; readonly rank: number }>();
  for (const mount of parseMountInfo(mountinfo)) {
    if (mount.type !== 'cgroup' && mount.type !== 'cgroup2') continue;
    const hierarchy = toHierarchy(mount);
    const key = hierarchy.version === 2 ? 'v2' : `${hierarchy.controllers.join()} ${hierarchy.name}`;
    const rank = (isStandardPlace(mount.mountPoint) ? 2 : 0) + (mount.root === '/' ? 1 : 0);
    const known = found.get(key);
    if (!known || rank > known.rank) found.set(key, { hierarchy, rank });
  }
  return [...found.values()].map(({ hierarchy }) => hierarchy);
}

/** Which of the three layouts these hierarchies make up. */
export function modeOf(hierarchies: readonly Hierarchy[]): CgroupMode {
  const hasV1 = hierarchies.some((hierarchy) => hierarchy.version === 1);
  const hasV2 = hierarchies.some((hierarchy) => hierarchy.version === 2);
  if (hasV1) return hasV2 ? 'hybrid' : 'v1';
  return 'v2';
}

/** Where a thread is in a hierarchy, from the text of /proc/PID/cgroup (cgroups(7)); undefined when it isn't listed. */
export function cgroupOf(procCgroup: string, hierarchy: Hierarchy): string | undefined {
  for (const line of procCgroup.split('\n')) {
    const [, id, list, path] = /^(\d+):([^:]*):(.*)$/.exec(line) ?? [];
    if (id === undefined || list === undefined || path === undefined) continue;
    const isIt = hierarchy.version === 2 ? id === '0' && list === '' : sameV1(list, hierarchy);
    if (isIt) return path;
  }
  return undefined;
}

/** The folder of cgroup `path` (absolute within its hierarchy), and a file in it when one is named. */
export function cgroupFile(hierarchy: Hierarchy, path: string, file = ''): string {
  return join(hierarchy.mountPoint, path, file);
}

function toHierarchy({ type, mountPoint, superOptions }: MountInfo): Hierarchy {
  if (type === 'cgroup2') return { version: 2, controllers: [], name: '', mountPoint };
  const name = superOptions.find((option) => option.startsWith('name='))?.slice('name='.length) ?? '';
  const controllers = superOptions.filter((option) => !V1_OPTIONS.has(option) && !option.includes('='));
  return { version: 1, controllers, name, mountPoint };
}

function sameV1(list: string, hierarchy: Hierarchy): boolean {
  if (hierarchy.name !== '') return list === `name=${hierarchy.name}`;
  const listed = list.split(',');
  return hierarchy.controllers.length > 0 && hierarchy.controllers.every((controller) => listed.includes(controller));
}

function isStandardPlace(mountPoint: string): boolean {
  return mountPoint === '/sys/fs/cgroup' || mountPoint.startsWith('/sys/fs/cgroup/');
}
