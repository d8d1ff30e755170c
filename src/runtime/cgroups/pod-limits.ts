import { BerthError, because, describe } from '../../base/errors.ts';
import { isErrno } from '../../sys/errno.ts';
import type { HugepageLimit, LinuxResources } from '../container-spec.ts';
import type { CgroupTree } from './cgroup-tree.ts';

/** One limit as the kernel takes it. */
export interface LimitFile {
  readonly controller: string;
  readonly file: string;
  readonly value: string;
}

/**
 * Limits of a pod's cgroup as files of the host's cgroup version, in the order in which a kernel takes them when
 * limits grow. What isn't said, or 0, is not named, nor is what only cgroup v2 has.
 */
export function podLimitFiles(mode: CgroupTree['mode'], resources: LinuxResources): LimitFile[] {
  if (mode === 'v2') return filesOfV2(resources);
  return filesOfV1(resources);
}

/** Limits of huge pages as files of the host's cgroup version: of those in use, and of those set aside (Linux 5.7). */
export function hugepageLimitFiles(mode: CgroupTree['mode'], limits: readonly HugepageLimit[]): LimitFile[] {
  const suffix = mode === 'v2' ? 'max' : 'limit_in_bytes';
  return [...hugepageFiles(limits, suffix), ...hugepageFiles(limits, `rsvd.${suffix}`)];
}

/**
 * Writes limits into a cgroup, as far as the host has the controllers; all of them or none. Returns what takes them back.
 * Throws `precondition` when one does not fit what the cgroup uses or holds, `invalid` when the kernel makes no sense of
 * one.
 */
export function writeLimits(
  tree: Pick<CgroupTree, 'read' | 'write'>,
  path: string,
  files: readonly LimitFile[],
): () => void {
  for (const limit of files) if (limit.file === 'memory.max') checkUsage(tree, path, limit.value);
  const written: LimitFile[] = [];
  // A memory limit and the one of memory and swap must fit each other at every moment, so each order has its turn.
  for (const pending = [...files]; pending.length > 0; ) {
    const before = pending.length;
    let refusal: unknown;
    for (const limit of [...pending]) {
      const old = tree.read(path, limit.controller, limit.file);
      if (old === undefined) {
        pending.splice(pending.indexOf(limit), 1);
        continue;
      }
      try {
        tree.write(path, limit.controller, limit.file, limit.value);
        written.push({ ...limit, value: old });
        pending.splice(pending.indexOf(limit), 1);
      } catch (err) {
        refusal = err;
      }
    }
    if (pending.length < before) continue;
    takeBack(tree, path, written);
    throw refused(path, refusal);
  }
  return () => takeBack(tree, path, written);
}

// v1 refuses a limit below what is used; v2 takes it, and kills until it fits.
function checkUsage(tree: Pick<CgroupTree, 'read'>, path: string, wanted: string): void {
  const bytesOf = (text = 'max'): number => (text === 'max' ? Number.POSITIVE_INFINITY : Number(text));
  if (bytesOf(wanted) >= bytesOf(tree.read(path, 'memory', 'memory.max'))) return;
  const used = tree.read(path, 'memory', 'memory.current');
  if (used === undefined || Number(used) <= bytesOf(wanted)) return;
  const problem = `memory.max: ${wanted} is less than the ${used} bytes that it uses`;
  throw new BerthError('precondition', `limits of cgroup ${path}: ${problem}`);
}

/** A v2 weight (1 to 10000) for v1 shares (2 to 262144): KEP-2254's line, which runc and crun draw too. */
export function weightOf(shares: number): number {
  const clamped = Math.min(Math.max(shares, 2), 262_144);
  return 1 + Math.floor(((clamped - 2) * 9999) / 262_142);
}

function filesOfV2({ cpuShares, cpuQuotaUs, cpuPeriodUs, ...resources }: LinuxResources): LimitFile[] {
  const { memoryLimitBytes, memorySwapLimitBytes, hugepageLimits, unified } = resources;
  const max = (value: number): string => (value > 0 ? String(value) : 'max');
  return [
    ...one('cpu', 'cpu.weight', cpuShares, (shares) => String(weightOf(shares))),
    ...one('cpu', 'cpu.max', cpuQuotaUs, (quota) => `${max(quota)} ${cpuPeriodUs || 100_000}`),
    ...one('memory', 'memory.max', memoryLimitBytes, max),
    ...one('memory', 'memory.swap.max', memorySwapLimitBytes, (both) => swapAlone(both, memoryLimitBytes ?? 0)),
    ...cpusetFiles(resources),
    ...hugepageFiles(hugepageLimits, 'max'),
    ...Object.entries(unified).map(([file, value]) => ({ controller: file.split('.', 1)[0] ?? '', file, value })),
  ];
}

function filesOfV1({ cpuShares, cpuQuotaUs, cpuPeriodUs, ...resources }: LinuxResources): LimitFile[] {
  const { memoryLimitBytes, memorySwapLimitBytes, hugepageLimits } = resources;
  const atLeastNone = (value: number): string => String(Math.max(value, -1));
  return [
    ...one('cpu', 'cpu.shares', cpuShares, String),
    // The period first: the kernel refuses a quota that the old period makes too large.
    ...one('cpu', 'cpu.cfs_period_us', cpuPeriodUs, String),
    ...one('cpu', 'cpu.cfs_quota_us', cpuQuotaUs, atLeastNone),
    ...one('memory', 'memory.memsw.limit_in_bytes', memorySwapLimitBytes, atLeastNone),
    ...one('memory', 'memory.limit_in_bytes', memoryLimitBytes, atLeastNone),
    ...cpusetFiles(resources),
    ...hugepageFiles(hugepageLimits, 'limit_in_bytes'),
  ];
}

/** The CRI, as v1, counts memory and swap together; v2 counts swap alone, and 0 is a limit there: as memory.swap.max. */
export function swapAlone(bothBytes: number, memoryBytes: number): string {
  return bothBytes < 0 ? 'max' : String(Math.max(bothBytes - Math.max(memoryBytes, 0), 0));
}

function cpusetFiles({ cpusetCpus, cpusetMems }: Partial<LinuxResources>): LimitFile[] {
  return [...one('cpuset', 'cpuset.cpus', cpusetCpus, String), ...one('cpuset', 'cpuset.mems', cpusetMems, String)];
}

function hugepageFiles(limits: readonly HugepageLimit[], suffix: string): LimitFile[] {
  return limits.map(({ pageSize, limitBytes }) => ({
    controller: 'hugetlb',
    file: `hugetlb.${pageSize}.${suffix}`,
    value: String(limitBytes),
  }));
}

function one<T extends number | string>(
  controller: string,
  file: string,
  value: T | undefined,
  toText: (value: T) => string,
): LimitFile[] {
  return value ? [{ controller, file, value: toText(value) }] : [];
}

function takeBack(tree: Pick<CgroupTree, 'write'>, path: string, written: readonly LimitFile[]): void {
  for (const { controller, file, value } of [...written].reverse()) {
    try {
      tree.write(path, controller, file, value);
    } catch {
      // The refusal that led here says what is wrong; this limit stays as the client wanted it.
    }
  }
}

function refused(path: string, err: unknown): BerthError {
  const cause = err instanceof Error ? err.cause : undefined;
  const text = `limits of cgroup ${path}: ${describe(err)}`;
  if (isErrno(cause, 'EBUSY', 'ENOSPC', 'EACCES')) return because('precondition', text, err);
  if (isErrno(cause, 'EINVAL', 'ERANGE', 'EOVERFLOW', 'E2BIG', 'ENODEV')) return because('invalid', text, err);
  return because('internal', text, err);
}
