import type {
  ContainerStatsRequest,
  ContainerStatsResponse,
  ListContainerStatsRequest,
  ListContainerStatsResponse,
  StreamContainerStatsRequest,
  StreamContainerStatsResponse,
} from '../../../proto/gen/cri/api.ts';
import type { PodStats } from '../../pod/pod-stats.ts';
import { containerStatsFilterFromProto, containerStatsToProto } from '../convert/stats.ts';
import { inChunks } from '../in-chunks.ts';
import type { Handler, StreamHandler } from '../unary.ts';

/** ContainerStats: NotFound for an id that nobody knows. A container that does not run has only its writable layer. */
export function containerStats(stats: PodStats): Handler<ContainerStatsRequest, ContainerStatsResponse> {
  return async ({ containerId }, { signal }) => ({
    stats: containerStatsToProto(await stats.container(containerId, signal)),
  });
}

/** ListContainerStats: running containers only; all conditions of the filter hold together. */
export function listContainerStats(stats: PodStats): Handler<ListContainerStatsRequest, ListContainerStatsResponse> {
  return async ({ filter }) => {
    const found = await stats.listContainers(containerStatsFilterFromProto(filter));
    return { stats: found.map(containerStatsToProto) };
  };
}

/** StreamContainerStats: what ListContainerStats gives at this moment, in parts. */
export function streamContainerStats(
  stats: PodStats,
): StreamHandler<StreamContainerStatsRequest, StreamContainerStatsResponse> {
  return async function* ({ filter }) {
    const found = await stats.listContainers(containerStatsFilterFromProto(filter));
    for (const containerStats of inChunks(found, containerStatsToProto)) yield { containerStats };
  };
}
