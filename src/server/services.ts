import { AdminService } from '../../proto/gen/berth/admin.ts';
import { ImageServiceService, RuntimeServiceService } from '../../proto/gen/cri/api.ts';
import type { Logger } from '../base/log.ts';
import type { Meter } from '../base/meter.ts';
import type { Cni } from '../cni/cni.ts';
import type { PodRanges } from '../cni/pod-ranges.ts';
import type { ImageFilesystems } from '../image/disk-usage.ts';
import type { Images } from '../image/images.ts';
import type { PodCheckpoints } from '../pod/pod-checkpoints.ts';
import type { PodEvents } from '../pod/pod-events.ts';
import type { PodStats } from '../pod/pod-stats.ts';
import type { PodStreams } from '../pod/pod-streams.ts';
import type { Pods } from '../pod/pods.ts';
import type { Handlers } from '../runtime/handlers.ts';
import { type ConfigCheck, checkConfig } from './admin/check-config.ts';
import { checkImages } from './admin/check-images.ts';
import { checkPodNetwork } from './admin/check-pod-network.ts';
import { type Doctor, doctor } from './admin/doctor.ts';
import { imageHistory } from './admin/image-history.ts';
import { listPulls } from './admin/list-pulls.ts';
import { loadImage } from './admin/load-image.ts';
import { listImageMounts, mountImage, unmountImage } from './admin/mount-image.ts';
import { planPull } from './admin/plan-pull.ts';
import { podSteps, type StepHistory } from './admin/pod-steps.ts';
import { pruneImages } from './admin/prune-images.ts';
import { saveImages } from './admin/save-images.ts';
import type { ServedService } from './grpc-server.ts';
import { imageFsInfo } from './image/image-fs-info.ts';
import { imageStatus } from './image/image-status.ts';
import { listImages, streamImages } from './image/list-images.ts';
import { pullImage } from './image/pull-image.ts';
import { removeImage } from './image/remove-image.ts';
import { attach } from './runtime/attach.ts';
import { checkpointContainer } from './runtime/checkpoint-container.ts';
import { checkpointPod } from './runtime/checkpoint-pod.ts';
import { containerStats, listContainerStats, streamContainerStats } from './runtime/container-stats.ts';
import { containerStatus } from './runtime/container-status.ts';
import { createContainer } from './runtime/create-container.ts';
import { exec } from './runtime/exec.ts';
import { execSync } from './runtime/exec-sync.ts';
import { getContainerEvents } from './runtime/get-container-events.ts';
import { listContainers, streamContainers } from './runtime/list-containers.ts';
import { listPodSandbox, streamPodSandboxes } from './runtime/list-pod-sandbox.ts';
import {
  listMetricDescriptors,
  listPodSandboxMetrics,
  streamPodSandboxMetrics,
} from './runtime/pod-sandbox-metrics.ts';
import { listPodSandboxStats, podSandboxStats, streamPodSandboxStats } from './runtime/pod-sandbox-stats.ts';
import { podSandboxStatus } from './runtime/pod-sandbox-status.ts';
import { portForward } from './runtime/port-forward.ts';
import { removeContainer } from './runtime/remove-container.ts';
import { removePodSandbox } from './runtime/remove-pod-sandbox.ts';
import { reopenContainerLog } from './runtime/reopen-container-log.ts';
import { restorePod } from './runtime/restore-pod.ts';
import { runPodSandbox } from './runtime/run-pod-sandbox.ts';
import { runtimeConfig } from './runtime/runtime-config.ts';
import { startContainer } from './runtime/start-container.ts';
import { status } from './runtime/status.ts';
import { stopContainer } from './runtime/stop-container.ts';
import { stopPodSandbox } from './runtime/stop-pod-sandbox.ts';
import { updateContainerResources } from './runtime/update-container-resources.ts';
import { updatePodSandboxResources } from './runtime/update-pod-sandbox-resources.ts';
import { updateRuntimeConfig } from './runtime/update-runtime-config.ts';
import { type ProgramVersion, version } from './runtime/version.ts';
import type { StreamServer } from './streaming/stream-server.ts';
import type { Tracer } from './tracing/tracer.ts';
import { RpcBoundary } from './unary.ts';

/** What answers the calls. */
export interface ServiceDeps {
  readonly log: Logger;
  readonly meter: Meter;
  readonly tracer: Tracer;
  readonly program: ProgramVersion;
  readonly pods: Pods;
  readonly checkpoints: PodCheckpoints;
  readonly events: PodEvents;
  readonly stats: PodStats;
  readonly streams: PodStreams;
  readonly streamServer: StreamServer;
  readonly images: Images;
  readonly cni: Cni;
  readonly podRanges: PodRanges;
  readonly handlers: Handlers;
  readonly cgroupDriver: 'cgroupfs' | 'systemd';
  readonly steps: StepHistory;
  readonly config: ConfigCheck;
  readonly doctor: Doctor;
  readonly filesystems: ImageFilesystems;
  /** Facts for a verbose Status. */
  readonly info: () => Record<string, unknown>;
}

/** The services of one socket: the CRI's two and Berth's own. An RPC that is not named here answers Unimplemented. */
export function buildServices(deps: ServiceDeps): ServedService[] {
  const { pods, images, stats, streams, streamServer } = deps;
  const boundary = new RpcBoundary(deps.log, deps.meter, deps.tracer);
  return [
    {
      definition: RuntimeServiceService,
      handlers: {
        version: boundary.unary('Version', version(deps.program)),
        status: boundary.unary('Status', status(deps)),
        runtimeConfig: boundary.unary('RuntimeConfig', runtimeConfig(deps.cgroupDriver)),
        updateRuntimeConfig: boundary.unary('UpdateRuntimeConfig', updateRuntimeConfig(deps.podRanges)),
        runPodSandbox: boundary.unary('RunPodSandbox', runPodSandbox(pods)),
        stopPodSandbox: boundary.unary('StopPodSandbox', stopPodSandbox(pods)),
        removePodSandbox: boundary.unary('RemovePodSandbox', removePodSandbox(pods)),
        podSandboxStatus: boundary.unary('PodSandboxStatus', podSandboxStatus(pods)),
        listPodSandbox: boundary.unary('ListPodSandbox', listPodSandbox(pods)),
        streamPodSandboxes: boundary.serverStream('StreamPodSandboxes', streamPodSandboxes(pods)),
        createContainer: boundary.unary('CreateContainer', createContainer(pods)),
        startContainer: boundary.unary('StartContainer', startContainer(pods)),
        stopContainer: boundary.unary('StopContainer', stopContainer(pods)),
        removeContainer: boundary.unary('RemoveContainer', removeContainer(pods)),
        containerStatus: boundary.unary('ContainerStatus', containerStatus(pods)),
        listContainers: boundary.unary('ListContainers', listContainers(pods)),
        streamContainers: boundary.serverStream('StreamContainers', streamContainers(pods)),
        containerStats: boundary.unary('ContainerStats', containerStats(stats)),
        listContainerStats: boundary.unary('ListContainerStats', listContainerStats(stats)),
        streamContainerStats: boundary.serverStream('StreamContainerStats', streamContainerStats(stats)),
        podSandboxStats: boundary.unary('PodSandboxStats', podSandboxStats(stats)),
        listPodSandboxStats: boundary.unary('ListPodSandboxStats', listPodSandboxStats(stats)),
        streamPodSandboxStats: boundary.serverStream('StreamPodSandboxStats', streamPodSandboxStats(stats)),
        listMetricDescriptors: boundary.unary('ListMetricDescriptors', listMetricDescriptors(stats)),
        listPodSandboxMetrics: boundary.unary('ListPodSandboxMetrics', listPodSandboxMetrics(stats)),
        streamPodSandboxMetrics: boundary.serverStream('StreamPodSandboxMetrics', streamPodSandboxMetrics(stats)),
        getContainerEvents: boundary.serverStream('GetContainerEvents', getContainerEvents(deps.events)),
        execSync: boundary.unary('ExecSync', execSync(pods)),
        exec: boundary.unary('Exec', exec(streams, streamServer)),
        attach: boundary.unary('Attach', attach(streams, streamServer)),
        portForward: boundary.unary('PortForward', portForward(streams, streamServer)),
        reopenContainerLog: boundary.unary('ReopenContainerLog', reopenContainerLog(pods)),
        updateContainerResources: boundary.unary('UpdateContainerResources', updateContainerResources(pods)),
        checkpointContainer: boundary.unary('CheckpointContainer', checkpointContainer(deps.checkpoints)),
        checkpointPod: boundary.unary('CheckpointPod', checkpointPod(deps.checkpoints)),
        restorePod: boundary.unary('RestorePod', restorePod(deps.checkpoints)),
        updatePodSandboxResources: boundary.unary('UpdatePodSandboxResources', updatePodSandboxResources(pods)),
      },
    },
    {
      definition: ImageServiceService,
      handlers: {
        listImages: boundary.unary('ListImages', listImages(images)),
        streamImages: boundary.serverStream('StreamImages', streamImages(images)),
        imageStatus: boundary.unary('ImageStatus', imageStatus(images)),
        pullImage: boundary.unary('PullImage', pullImage(images)),
        removeImage: boundary.unary('RemoveImage', removeImage(images)),
        imageFsInfo: boundary.unary('ImageFsInfo', imageFsInfo(deps.filesystems)),
      },
    },
    {
      definition: AdminService,
      handlers: {
        loadImage: boundary.unary('LoadImage', loadImage(images)),
        saveImages: boundary.serverStream('SaveImages', saveImages(images)),
        imageHistory: boundary.unary('ImageHistory', imageHistory(images)),
        checkImages: boundary.unary('CheckImages', checkImages(images)),
        mountImage: boundary.unary('MountImage', mountImage(images)),
        unmountImage: boundary.unary('UnmountImage', unmountImage(images)),
        listImageMounts: boundary.unary('ListImageMounts', listImageMounts(images)),
        listPulls: boundary.unary('ListPulls', listPulls(images)),
        pruneImages: boundary.unary('PruneImages', pruneImages(images)),
        podSteps: boundary.unary('PodSteps', podSteps(pods, deps.steps)),
        checkPodNetwork: boundary.unary('CheckPodNetwork', checkPodNetwork(pods)),
        checkConfig: boundary.unary('CheckConfig', checkConfig(deps.config)),
        doctor: boundary.unary('Doctor', doctor(deps.doctor)),
        planPull: boundary.unary('PlanPull', planPull(deps.images)),
      },
    },
  ];
}
