import type { LinuxResources } from '../container-spec.ts';
import type { CgroupTree } from './cgroup-tree.ts';

/** Limits for a pod's own cgroup, in the files of the host's cgroup version. What isn't said stays as it is. */
export function writePodLimits(tree: CgroupTree, path: string, resources: LinuxResources): void {
  const { cpuShares, cpuQuotaUs, cpuPeriodUs, memoryLimitBytes } = resources;
  if (tree.mode === 'v2') {
    if (cpuShares) tree.write(path, 'cpu', 'cpu.weight', String(weightOf(cpuShares)));
    if (cpuQuotaUs) {
      tree.write(path, 'cpu', 'cpu.max', `${cpuQuotaUs > 0 ? cpuQuotaUs : 'max'} ${cpuPeriodUs || 100_000}`);
    }
    if (memoryLimitBytes)
      tree.write(path, 'memory', 'memory.max', memoryLimitBytes > 0 ? String(memoryLimitBytes) : 'max');
    return;
  }
  if (cpuShares) tree.write(path, 'cpu', 'cpu.shares', String(cpuShares));
  // The period first: the kernel refuses a quota that the old period makes too large.
  if (cpuPeriodUs) tree.write(path, 'cpu', 'cpu.cfs_period_us', String(cpuPeriodUs));
  if (cpuQuotaUs) tree.write(path, 'cpu', 'cpu.cfs_quota_us', String(Math.max(cpuQuotaUs, -1)));
  if (memoryLimitBytes) tree.write(path, 'memory', 'memory.limit_in_bytes', String(Math.max(memoryLimitBytes, -1)));
}

/** A v2 weight (1 to 10000) for v1 shares (2 to 262144): KEP-2254's line, which runc and crun draw too. */
export function weightOf(shares: number): number {
  const clamped = Math.min(Math.max(shares, 2), 262_144);
  return 1 + Math.floor(((clamped - 2) * 9999) / 262_142);
}
