import { isUtf8 } from 'node:buffer';

import {
  type ContainerConfig,
  type Device,
  type ImageSpec,
  type Mount,
  MountPropagation as ProtoPropagation,
} from '../../../proto/gen/cri/api.ts';
import { invalid } from '../../base/errors.ts';
import type {
  ContainerSpec,
  DeviceSpec,
  ImageRequest,
  MountPropagation,
  MountSpec,
} from '../../runtime/container-spec.ts';
import { requireArgument, requireArguments, requireCommand } from './arguments.ts';
import { requireLength, requirePath } from './paths.ts';
import { resourcesFromProto } from './resources.ts';
import { requireName } from './sandbox-config.ts';
import { containerSecurityFromProto, mappingsFromProto } from './security.ts';
import { signalFromProto } from './signals.ts';

/** What a client wants of a container. Throws `invalid` naming the CRI's field. */
export function containerSpecFromProto(config: ContainerConfig | undefined): ContainerSpec {
  if (!config) throw invalid('config', 'is missing');
  const { metadata, linux } = config;
  if (!metadata) throw invalid('config.metadata', 'is missing');
  return {
    name: requireName(metadata.name, 'config.metadata.name'),
    attempt: metadata.attempt,
    image: imageFromProto(config.image, 'config.image'),
    command: words(config.command, 'config.command', requireCommand),
    args: words(config.args, 'config.args', requireArguments),
    workingDir: workingDir(config.workingDir),
    env: config.envs.map(({ key, value }, index) => checkEnv(key, value, `config.envs[${index}]`)),
    mounts: config.mounts.map((mount, index) => mountFromProto(mount, `config.mounts[${index}]`)),
    devices: config.devices.map((device, index) => deviceFromProto(device, `config.devices[${index}]`)),
    cdiDevices: config.CDIDevices.map(({ name }) => name),
    labels: { ...config.labels },
    annotations: { ...config.annotations },
    logPath: logPath(config.logPath),
    stdin: config.stdin,
    stdinOnce: config.stdinOnce,
    tty: config.tty,
    stopSignal: signalFromProto(config.stopSignal, 'config.stop_signal'),
    resources: resourcesFromProto(linux?.resources, 'config.linux.resources'),
    security: containerSecurityFromProto(linux?.securityContext, 'config.linux.security_context'),
  };
}

/** An image as the client named it. Throws `invalid` when it named none. */
export function imageFromProto(proto: ImageSpec | undefined, field: string): ImageRequest {
  if (!proto || proto.image === '') throw invalid(`${field}.image`, 'is empty');
  return {
    reference: proto.image,
    userSpecified: proto.userSpecifiedImage,
    runtimeHandler: proto.runtimeHandler,
    annotations: { ...proto.annotations },
  };
}

const PROPAGATIONS: Readonly<Record<number, MountPropagation>> = Object.freeze({
  [ProtoPropagation.PROPAGATION_PRIVATE]: 'private',
  [ProtoPropagation.PROPAGATION_HOST_TO_CONTAINER]: 'hostToContainer',
  [ProtoPropagation.PROPAGATION_BIDIRECTIONAL]: 'bidirectional',
});

function mountFromProto(proto: Mount, field: string): MountSpec {
  const propagation = PROPAGATIONS[proto.propagation];
  if (!propagation) throw invalid(`${field}.propagation`, `${proto.propagation} is not a propagation`);
  requirePath(proto.containerPath, `${field}.container_path`);
  const image = proto.image && proto.image.image !== '' ? imageFromProto(proto.image, `${field}.image`) : undefined;
  if (!image) requirePath(proto.hostPath, `${field}.host_path`);
  return {
    containerPath: proto.containerPath,
    hostPath: proto.hostPath,
    readonly: proto.readonly,
    recursiveReadOnly: proto.recursiveReadOnly,
    selinuxRelabel: proto.selinuxRelabel,
    propagation,
    uidMappings: mappingsFromProto(proto.uidMappings),
    gidMappings: mappingsFromProto(proto.gidMappings),
    image,
    imageSubPath: proto.imageSubPath,
    options: proto.mountOptions,
  };
}

function deviceFromProto(proto: Device, field: string): DeviceSpec {
  requirePath(proto.hostPath, `${field}.host_path`);
  requirePath(proto.containerPath, `${field}.container_path`);
  if (!/^[rwm]{1,3}$/.test(proto.permissions)) {
    throw invalid(`${field}.permissions`, `${JSON.stringify(proto.permissions)} is not made of r, w and m`);
  }
  return { containerPath: proto.containerPath, hostPath: proto.hostPath, permissions: proto.permissions };
}

function workingDir(path: string): string {
  if (path !== '') requirePath(path, 'config.working_dir');
  return path;
}

function words(list: string[], field: string, check: (list: string[], field: string) => void): string[] {
  check(list, field);
  return list;
}

// Whether it leads out of the log directory is told where that is known.
function logPath(path: string): string {
  requireLength(path, 'config.log_path');
  return path;
}

function checkEnv(key: string, bytes: Uint8Array, field: string): { key: string; value: string } {
  if (key === '' || /[=\0]/.test(key)) throw invalid(`${field}.key`, `${JSON.stringify(key)} is not a variable's name`);
  // The wire carries bytes; config.json, and so every OCI runtime, carries text.
  if (!isUtf8(bytes)) throw invalid(`${field}.value`, 'is not UTF-8');
  const value = Buffer.from(bytes).toString();
  if (value.includes('\0')) throw invalid(`${field}.value`, 'has a NUL byte in it');
  requireArgument(`${key}=${value}`, `${field}.value`);
  return { key, value };
}
