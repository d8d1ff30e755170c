import {
  type Container,
  type ContainerStatus,
  type ImageSpec,
  type Mount,
  MountPropagation as ProtoPropagation,
  ContainerState as ProtoState,
} from '../../../proto/gen/cri/api.ts';
import { invalid } from '../../base/errors.ts';
import type { IdMapping } from '../../base/id-mapping.ts';
import type { ContainerRecord, ContainerState } from '../../pod/records.ts';
import type { ImageRequest, MountPropagation, MountSpec } from '../../runtime/container-spec.ts';
import { toNanos } from './numbers.ts';
import { resourcesToProto } from './resources.ts';
import { signalToProto } from './signals.ts';

/** A container as ListContainers shows it. */
export function containerToProto(record: ContainerRecord): Container {
  const { spec } = record;
  return {
    id: record.id,
    podSandboxId: record.sandboxId,
    metadata: { name: spec.name, attempt: spec.attempt },
    image: imageToProto(spec.image, ''),
    imageRef: record.imageRef,
    imageId: record.imageId,
    state: STATES[record.state],
    createdAt: toNanos(record.createdAtUs),
    labels: spec.labels,
    annotations: spec.annotations,
  };
}

/** A container as ContainerStatus shows it. */
export function containerStatusToProto(record: ContainerRecord): ContainerStatus {
  const { spec, exit, user } = record;
  return {
    id: record.id,
    metadata: { name: spec.name, attempt: spec.attempt },
    state: STATES[record.state],
    createdAt: toNanos(record.createdAtUs),
    startedAt: record.state === 'created' ? 0n : toNanos(record.startedAtUs),
    finishedAt: toNanos(exit?.atUs),
    exitCode: exit?.code ?? 0,
    // What the user calls the image, not the id that the kubelet asked for.
    image: { ...imageToProto(spec.image, ''), image: record.imageName },
    imageRef: record.imageRef,
    imageId: record.imageId,
    reason: exit?.reason ?? '',
    message: exit?.message ?? '',
    labels: spec.labels,
    annotations: spec.annotations,
    mounts: spec.mounts.map((mount, index) => mountToProto(mount, volumeRef(record, index))),
    logPath: record.logFile,
    resources: { linux: resourcesToProto(record.resources), windows: undefined },
    user: user
      ? {
          linux: {
            uid: BigInt(user.uid),
            gid: BigInt(user.gid),
            supplementalGroups: user.supplementalGroups.map(BigInt),
          },
        }
      : undefined,
    stopSignal: signalToProto(record.stopSignal),
  };
}

/** The wire's word for a state that a filter asks for. Throws `invalid` for one that is not defined. */
export function stateFromProto(state: ProtoState, field: string): ContainerState {
  const found = Object.entries(STATES).find(([domain, proto]) => proto === state && domain !== 'creating');
  if (!found) throw invalid(field, `${state} is not a container state`);
  return found[0] as ContainerState;
}

const STATES: Readonly<Record<ContainerState, ProtoState>> = Object.freeze({
  creating: ProtoState.CONTAINER_UNKNOWN,
  created: ProtoState.CONTAINER_CREATED,
  running: ProtoState.CONTAINER_RUNNING,
  exited: ProtoState.CONTAINER_EXITED,
  unknown: ProtoState.CONTAINER_UNKNOWN,
});

const PROPAGATIONS: Readonly<Record<MountPropagation, ProtoPropagation>> = Object.freeze({
  private: ProtoPropagation.PROPAGATION_PRIVATE,
  hostToContainer: ProtoPropagation.PROPAGATION_HOST_TO_CONTAINER,
  bidirectional: ProtoPropagation.PROPAGATION_BIDIRECTIONAL,
});

/** Which image a volume really has: the kubelet shows it in the pod's status (KEP-5365). */
function volumeRef({ imageVolumes = [] }: ContainerRecord, index: number): string {
  return imageVolumes.find((volume) => volume.index === index)?.imageRef ?? '';
}

function imageToProto(image: ImageRequest, imageRef: string): ImageSpec {
  return {
    image: image.reference,
    annotations: image.annotations,
    userSpecifiedImage: image.userSpecified,
    runtimeHandler: image.runtimeHandler,
    imageRef,
  };
}

function mountToProto(mount: MountSpec, imageRef: string): Mount {
  return {
    containerPath: mount.containerPath,
    hostPath: mount.hostPath,
    readonly: mount.readonly,
    selinuxRelabel: mount.selinuxRelabel,
    propagation: PROPAGATIONS[mount.propagation],
    uidMappings: mount.uidMappings.map(copyMapping),
    gidMappings: mount.gidMappings.map(copyMapping),
    recursiveReadOnly: mount.recursiveReadOnly,
    image: mount.image ? imageToProto(mount.image, imageRef) : undefined,
    imageSubPath: mount.imageSubPath,
    mountOptions: [...mount.options],
  };
}

function copyMapping({ hostId, containerId, length }: IdMapping): IdMapping {
  return { hostId, containerId, length };
}
