import type {
  ListMetricDescriptorsRequest,
  ListMetricDescriptorsResponse,
  ListPodSandboxMetricsRequest,
  ListPodSandboxMetricsResponse,
  StreamPodSandboxMetricsRequest,
  StreamPodSandboxMetricsResponse,
} from '../../../proto/gen/cri/api.ts';
import type { PodStats } from '../../pod/pod-stats.ts';
import { metricDescriptorToProto, sandboxMetricsToProto } from '../convert/stats.ts';
import { inChunks } from '../in-chunks.ts';
import type { Handler, StreamHandler } from '../unary.ts';

/** ListMetricDescriptors: the kubelet reads them once, so they are always the same. */
export function listMetricDescriptors(
  stats: PodStats,
): Handler<ListMetricDescriptorsRequest, ListMetricDescriptorsResponse> {
  return () => ({ descriptors: stats.metricDescriptors().map(metricDescriptorToProto) });
}

/** ListPodSandboxMetrics: ready sandboxes and their running containers. */
export function listPodSandboxMetrics(
  stats: PodStats,
): Handler<ListPodSandboxMetricsRequest, ListPodSandboxMetricsResponse> {
  return async () => ({ podMetrics: (await stats.listMetrics()).map(sandboxMetricsToProto) });
}

/** StreamPodSandboxMetrics: what ListPodSandboxMetrics gives at this moment, in parts. */
export function streamPodSandboxMetrics(
  stats: PodStats,
): StreamHandler<StreamPodSandboxMetricsRequest, StreamPodSandboxMetricsResponse> {
  return async function* () {
    for (const podSandboxMetrics of inChunks(await stats.listMetrics(), sandboxMetricsToProto)) {
      yield { podSandboxMetrics };
    }
  };
}
