import { readFileSync, writeFileSync } from 'node:fs';

import { BerthError, describe, wrap } from '../base/errors.ts';
import { atPlace } from '../base/fault-points.ts';
import type { SandboxId } from '../base/ids.ts';
import type { ContainerCgroup } from '../runtime/cgroups/cgroups.ts';
import { checkLimits } from '../runtime/check-limits.ts';
import type { LinuxResources } from '../runtime/container-spec.ts';
import { toOciResources } from '../runtime/spec-resources.ts';
import { isErrno } from '../sys/errno.ts';
import { getInState } from './container-operations.ts';
import type { ContainerContext } from './create-container.ts';
import type { PodDeps } from './pod-deps.ts';
import type { ContainerRecord, SandboxRecord } from './records.ts';

/** Where tests disturb updates; they have no undo, and so they are no pipelines. */
export const UPDATE_PLACES = ['UpdateContainerResources/set limits', 'UpdatePodSandboxResources/set limits'] as const;

/** A pod's limits as its client gives them: what the pod itself costs, and the sum over its containers. */
export interface PodResources {
  readonly overhead: LinuxResources | undefined;
  readonly resources: LinuxResources | undefined;
}

/**
 * Changes a created or running container's limits; what `update` does not say stays as it is. All of it takes effect
 * and is kept over a restart, or nothing does. Throws `precondition` for a memory limit below what the container uses.
 */
export async function updateContainerResources(
  { deps, id }: ContainerContext,
  update: LinuxResources,
  signal: AbortSignal,
): Promise<void> {
  await deps.locks.withKey(id, signal, async () => {
    const record = getInState({ deps, id }, 'created', 'running');
    checkLimits(update, deps.host, 'linux');
    const complete = withSwap(record.resources, update);
    checkMemoryUsage(deps, record, complete);
    try {
      const set = async (): Promise<void> => await setLimits(deps, record, complete, signal);
      await atPlace(deps.faults, UPDATE_PLACES[0], set, signal);
    } catch (err) {
      // One that has ended meanwhile is the reason, whatever the runtime makes of it.
      getInState({ deps, id }, 'created', 'running');
      throw err;
    }
    if (update.oomScoreAdj !== undefined) setOomScore(deps, record, update.oomScoreAdj);
    const now = deps.containers.get(id);
    deps.containers.put({ ...now, resources: mergeResources(now.resources, complete) });
  });
}

/**
 * Changes what a pod may use as a whole. The kubelet has set its own cgroup before it calls; for others Berth does. It
 * is kept with the sandbox's record, beside the configuration, so that a repeated RunPodSandbox is still recognised.
 */
export async function updateSandboxResources(
  { deps, id }: { readonly deps: PodDeps; readonly id: SandboxId },
  update: PodResources,
  signal: AbortSignal,
): Promise<void> {
  await deps.locks.withKey(id, signal, async () => {
    const record = deps.sandboxes.get(id);
    if (record.state !== 'ready') throw new BerthError('precondition', `sandbox ${id} is ${record.state}, not ready`);
    const { resources = NO_UPDATE, overhead = NO_UPDATE } = update;
    checkLimits(resources, deps.host, 'resources');
    checkLimits(overhead, deps.host, 'overhead');
    const limits = podLimits({ overhead: update.overhead ?? podResources(record).overhead, resources });
    const set = async (): Promise<void> => {
      try {
        await deps.cgroups.updatePod(record.spec.cgroupParent, limitsOnHost(deps, limits), signal);
      } catch (err) {
        throw wrap(`sandbox ${id}`, err);
      }
    };
    await atPlace(deps.faults, UPDATE_PLACES[1], set, signal);
    const now = podResources(deps.sandboxes.get(id));
    const updated = {
      overhead: update.overhead ? mergeResources(now.overhead ?? NO_UPDATE, update.overhead) : now.overhead,
      resources: update.resources ? mergeResources(now.resources ?? NO_UPDATE, update.resources) : now.resources,
    };
    deps.sandboxes.put({ ...deps.sandboxes.get(id), updatedResources: updated });
  });
}

/** The limits of a pod that are in force. */
export function podResources({ spec, updatedResources }: SandboxRecord): PodResources {
  return updatedResources ?? { overhead: spec.overhead, resources: spec.resources };
}

/**
 * The limits of a pod's whole cgroup: the sum over its containers with what the pod itself costs on top, as the kubelet
 * adds them up for its own cgroup (KEP-688) before it tells the two apart. What `resources` does not limit, or says to be
 * without limit, has none.
 */
export function podLimits({ overhead, resources = NO_UPDATE }: PodResources): LinuxResources {
  if (!overhead) return resources;
  const plus = <K extends string>(key: K, own = 0, more = 0): { [P in K]?: number } =>
    (own > 0 ? { [key]: own + Math.max(more, 0) } : {}) as { [P in K]?: number };
  return {
    ...resources,
    ...plus('cpuShares', resources.cpuShares, overhead.cpuShares),
    ...plus('cpuQuotaUs', resources.cpuQuotaUs, quotaIn(resources.cpuPeriodUs, overhead)),
    ...plus('memoryLimitBytes', resources.memoryLimitBytes, overhead.memoryLimitBytes),
    ...plus('memorySwapLimitBytes', resources.memorySwapLimitBytes, overhead.memoryLimitBytes),
  };
}

/** A quota as it would be for another period. */
function quotaIn(
  periodUs = DEFAULT_PERIOD_US,
  { cpuQuotaUs = 0, cpuPeriodUs = DEFAULT_PERIOD_US }: LinuxResources,
): number {
  return Math.round((cpuQuotaUs * periodUs) / cpuPeriodUs);
}

/** The limits in force after an update. */
export function mergeResources(old: LinuxResources, update: LinuxResources): LinuxResources {
  const changed = new Set(update.hugepageLimits.map(({ pageSize }) => pageSize));
  return {
    ...old,
    ...update,
    hugepageLimits: [...old.hugepageLimits.filter(({ pageSize }) => !changed.has(pageSize)), ...update.hugepageLimits],
    unified: { ...old.unified, ...update.unified },
  };
}

/** What the kernel has where nobody says anything else. */
const DEFAULT_PERIOD_US = 100_000;
const NO_UPDATE: LinuxResources = Object.freeze({ hugepageLimits: [], unified: {} });

/** A new memory limit keeps the swap limit that was asked for, as far as that one still has room for it. */
export function withSwap(old: LinuxResources, update: LinuxResources): LinuxResources {
  const { memoryLimitBytes, memorySwapLimitBytes } = update;
  const kept = old.memorySwapLimitBytes;
  if (!memoryLimitBytes || memorySwapLimitBytes || !kept) return update;
  if (memoryLimitBytes < 0) return { ...update, memorySwapLimitBytes: -1 };
  return { ...update, memorySwapLimitBytes: kept < 0 ? kept : Math.max(kept, memoryLimitBytes) };
}

async function setLimits(
  deps: PodDeps,
  record: ContainerRecord,
  update: LinuxResources,
  signal: AbortSignal,
): Promise<void> {
  const { cpuQuotaUs, ...others } = update;
  // crun 1.8 cannot write the -1 that lifts a quota on v1, and passes over it on v2; runc needs it there for systemd.
  const lift = cpuQuotaUs !== undefined && cpuQuotaUs < 0;
  const given = lift && deps.host.cgroupVersion === 1 ? others : update;
  const limits = toOciResources({ ...given, hugepageLimits: [] }, deps.host);
  const handler = deps.handlers.get(record.handler);
  const cgroup = cgroupOf(deps, record);
  const pages = limitsOnHost(deps, mergeResources(record.resources, update));
  const takeBack = limitHugepages(cgroup, pages);
  try {
    if (Object.keys(limits).length > 0) await deps.runtime.updateContainer(handler, record.id, limits, signal);
    if (lift) cgroup.liftCpuQuota();
  } catch (err) {
    takeBack();
    throw err;
  }
  // runc has set them to what they were when it created the container.
  limitHugepages(cgroup, pages);
  try {
    await deps.cgroups.keepLimits(deps.sandboxes.get(record.sandboxId).spec.cgroupParent, record.id, signal);
  } catch (err) {
    // They are in force.
    deps.log.warn({ container: record.id, err: describe(err) }, 'systemd does not know the new limits of a container');
  }
}

function limitHugepages(cgroup: ContainerCgroup, { hugepageLimits }: LinuxResources): () => void {
  try {
    return cgroup.limitHugepages(hugepageLimits);
  } catch (err) {
    throw wrap('linux.hugepage_limits', err);
  }
}

function cgroupOf(deps: PodDeps, record: ContainerRecord): ContainerCgroup {
  return deps.cgroups.container(deps.sandboxes.get(record.sandboxId).spec.cgroupParent, record.id);
}

// On v2 the kernel would not refuse: it would kill.
function checkMemoryUsage(deps: PodDeps, record: ContainerRecord, update: LinuxResources): void {
  const { memoryLimitBytes = 0 } = update;
  if (!lowersMemory(record.resources, update)) return;
  const usedBytes = cgroupOf(deps, record).memoryUsageBytes();
  if (usedBytes === undefined || usedBytes <= memoryLimitBytes) return;
  throw new BerthError(
    'precondition',
    `linux.memory_limit_in_bytes: ${memoryLimitBytes} is less than the ${usedBytes} that container ${record.id} uses`,
  );
}

/**
 * Whether an update takes memory away. The kubelet says every limit with each change, and the kernel lets a cgroup exceed
 * its limit for a moment: one that stays must not stand in the way of the others.
 */
export function lowersMemory(old: LinuxResources, { memoryLimitBytes = 0 }: LinuxResources): boolean {
  const inForce = old.memoryLimitBytes ?? 0;
  return memoryLimitBytes > 0 && (inForce <= 0 || memoryLimitBytes < inForce);
}

/** A pod's limits without those of page sizes that this host cannot limit, as for containers. */
export function limitsOnHost({ host }: PodDeps, resources: LinuxResources): LinuxResources {
  return {
    ...resources,
    hugepageLimits: resources.hugepageLimits.filter(({ pageSize }) => host.hugepageSizes.includes(pageSize)),
  };
}

// A process passes its score on to its children; those that run already have theirs.
function setOomScore(deps: PodDeps, record: ContainerRecord, wanted: number): void {
  const score = String(Math.max(wanted, deps.host.oomScoreAdjFloor));
  for (const pid of cgroupOf(deps, record).pids()) {
    const file = `/proc/${pid}/oom_score_adj`;
    try {
      if (readFileSync(file, 'utf8').trim() !== score) writeFileSync(file, score);
    } catch (err) {
      if (isErrno(err, 'ENOENT', 'ESRCH')) continue;
      if (!isErrno(err, 'EACCES')) throw wrap(`set oom_score_adj of container ${record.id}`, err);
      deps.log.warn({ container: record.id, pid, score, err: describe(err) }, 'oom_score_adj cannot be changed');
    }
  }
}
