import type {
  ListPodSandboxStatsRequest,
  ListPodSandboxStatsResponse,
  PodSandboxStatsRequest,
  PodSandboxStatsResponse,
  StreamPodSandboxStatsRequest,
  StreamPodSandboxStatsResponse,
} from '../../../proto/gen/cri/api.ts';
import type { PodStats } from '../../pod/pod-stats.ts';
import { sandboxStatsFilterFromProto, sandboxStatsToProto } from '../convert/stats.ts';
import { inChunks } from '../in-chunks.ts';
import type { Handler, StreamHandler } from '../unary.ts';

/** PodSandboxStats: NotFound for an id that nobody knows. A sandbox that is not ready has attributes alone. */
export function podSandboxStats(stats: PodStats): Handler<PodSandboxStatsRequest, PodSandboxStatsResponse> {
  return async ({ podSandboxId }) => ({ stats: sandboxStatsToProto(await stats.sandbox(podSandboxId)) });
}

/** ListPodSandboxStats: ready sandboxes only; all conditions of the filter hold together. */
export function listPodSandboxStats(stats: PodStats): Handler<ListPodSandboxStatsRequest, ListPodSandboxStatsResponse> {
  return async ({ filter }) => {
    const found = await stats.listSandboxes(sandboxStatsFilterFromProto(filter));
    return { stats: found.map(sandboxStatsToProto) };
  };
}

/** StreamPodSandboxStats: what ListPodSandboxStats gives at this moment, in parts. */
export function streamPodSandboxStats(
  stats: PodStats,
): StreamHandler<StreamPodSandboxStatsRequest, StreamPodSandboxStatsResponse> {
  return async function* ({ filter }) {
    const found = await stats.listSandboxes(sandboxStatsFilterFromProto(filter));
    for (const podSandboxStats of inChunks(found, sandboxStatsToProto)) yield { podSandboxStats };
  };
}
