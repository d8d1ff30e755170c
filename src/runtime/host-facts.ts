import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { release } from 'node:os';
import { join } from 'node:path';

import type { Logger } from '../base/log.ts';
import { hasCapability } from '../sys/capabilities.ts';
import { type Hierarchy, modeOf, readHierarchies } from './cgroups/hierarchies.ts';
import { readHugepageSizes } from './hugepage-sizes.ts';

/** What this machine allows, as far as a container's config.json depends on it. Read once, at start. */
export interface HostFacts {
  /** 2 for a pure cgroup v2 host; v1 and hybrid hosts count as 1. */
  readonly cgroupVersion: 1 | 2;
  /** Whether memory and swap can be limited together. */
  readonly swapAccounting: boolean;
  /** Page sizes that can be limited, such as `2MB`; empty without a usable hugetlb controller. */
  readonly hugepageSizes: readonly string[];
  /** Page sizes that the kernel has, whether they can be limited or not. */
  readonly kernelHugepageSizes: readonly string[];
  /** No process may be given an oom_score_adj below this. -1000 on ordinary hosts. */
  readonly oomScoreAdjFloor: number;
  /** The highest hard limits that containers may be given, by getrlimit(2)'s names; what is not named has no ceiling. */
  readonly rlimitCeilings: ReadonlyMap<string, number>;
  /** Recursive read-only mounts need mount_setattr(2): Linux 5.12. */
  readonly kernelHasRecursiveReadOnly: boolean;
  /** Files of every kind that pods use can be seen under other ids: layers since Linux 5.19, tmpfs since 6.3. */
  readonly kernelMapsIds: boolean;
}

/**
 * Asks the kernel. Logs a warning when a missing capability will make containers differ from what is asked for. Of cgroups
 * only what is mounted counts: a folder where a hierarchy might be is none, whatever a runtime has put into it.
 */
export function readHostFacts(log: Logger, hierarchies: readonly Hierarchy[] = readHierarchies()): HostFacts {
  const [unified] = modeOf(hierarchies) === 'v2' ? hierarchies : [];
  const placeOf = (controller: string) =>
    hierarchies.find(({ controllers }) => controllers.includes(controller))?.mountPoint;
  const memory = placeOf('memory');
  return {
    cgroupVersion: unified ? 2 : 1,
    swapAccounting: unified
      ? hasSwapV2(unified.mountPoint)
      : memory !== undefined && existsSync(join(memory, 'memory.memsw.limit_in_bytes')),
    hugepageSizes: unified ? hugepageSizesV2(unified.mountPoint) : hugepageSizesIn(placeOf('hugetlb')),
    kernelHugepageSizes: readHugepageSizes(),
    oomScoreAdjFloor: readOomScoreAdjFloor(log),
    rlimitCeilings: readRlimitCeilings(),
    kernelHasRecursiveReadOnly: isKernelAtLeast(release(), 5, 12),
    kernelMapsIds: isKernelAtLeast(release(), 6, 3) && existsSync('/proc/self/ns/user'),
  };
}

/** Titles of /proc/PID/limits, and what getrlimit(2) calls them. */
const RLIMIT_TITLES: Readonly<Record<string, string>> = Object.freeze({
  'address space': 'RLIMIT_AS',
  'core file size': 'RLIMIT_CORE',
  'cpu time': 'RLIMIT_CPU',
  'data size': 'RLIMIT_DATA',
  'file locks': 'RLIMIT_LOCKS',
  'file size': 'RLIMIT_FSIZE',
  'locked memory': 'RLIMIT_MEMLOCK',
  'msgqueue size': 'RLIMIT_MSGQUEUE',
  'nice priority': 'RLIMIT_NICE',
  'open files': 'RLIMIT_NOFILE',
  'pending signals': 'RLIMIT_SIGPENDING',
  processes: 'RLIMIT_NPROC',
  'realtime priority': 'RLIMIT_RTPRIO',
  'realtime timeout': 'RLIMIT_RTTIME',
  'resident set': 'RLIMIT_RSS',
  'stack size': 'RLIMIT_STACK',
});

/** The hard limits in the text of /proc/PID/limits, by getrlimit(2)'s names; without those that are `unlimited`. */
export function parseHardLimits(limits: string): Map<string, number> {
  const found = new Map<string, number>();
  for (const [, title = '', hard = ''] of limits.matchAll(/^Max (\S.*?)\s{2,}\S+\s+(\d+)(?:\s|$)/gm)) {
    const type = RLIMIT_TITLES[title];
    if (type !== undefined) found.set(type, Number(hard));
  }
  return found;
}

/** Compares a release such as `6.1.0-13-amd64` with major.minor. */
export function isKernelAtLeast(version: string, major: number, minor: number): boolean {
  const [, ownMajor, ownMinor] = /^(\d+)\.(\d+)/.exec(version) ?? [];
  if (ownMajor === undefined || ownMinor === undefined) return false;
  return Number(ownMajor) > major || (Number(ownMajor) === major && Number(ownMinor) >= minor);
}

// Hard limits are raised only with the capability (setrlimit(2)), and open files never above a limit of the kernel's.
function readRlimitCeilings(): Map<string, number> {
  if (!hasCapability('CAP_SYS_RESOURCE')) return parseHardLimits(readFileSync('/proc/self/limits', 'utf8'));
  return new Map([['RLIMIT_NOFILE', Number(readFileSync('/proc/sys/fs/nr_open', 'utf8'))]]);
}

// Below its own value the kernel refuses a process without the capability (proc(5), oom_score_adj).
function readOomScoreAdjFloor(log: Logger): number {
  if (hasCapability('CAP_SYS_RESOURCE')) return -1000;
  const own = Number(readFileSync('/proc/self/oom_score_adj', 'utf8'));
  log.warn(
    { oomScoreAdjFloor: own },
    'no CAP_SYS_RESOURCE: containers cannot be protected from the OOM killer as asked',
  );
  return own;
}

// The root cgroup has no memory.swap.max, so any child tells.
function hasSwapV2(root: string): boolean {
  return readdirSync(root, { withFileTypes: true }).some(
    (entry) => entry.isDirectory() && existsSync(join(root, entry.name, 'memory.swap.max')),
  );
}

// The root has a controller that nobody has handed down yet: the OCI runtimes do, for the container that needs it.
function hugepageSizesV2(root: string): string[] {
  const controllers = readFileSync(join(root, 'cgroup.controllers'), 'utf8').trim().split(' ');
  return controllers.includes('hugetlb') ? readHugepageSizes() : [];
}

function hugepageSizesIn(folder: string | undefined): string[] {
  if (folder === undefined) return [];
  return readdirSync(folder).flatMap((name) => /^hugetlb\.([0-9]+[KMG]B)\.limit_in_bytes$/.exec(name)?.[1] ?? []);
}
