import { randomBytes, randomUUID } from 'node:crypto';

import { ContainerConfig, NamespaceMode, PodSandboxConfig, Protocol } from '../../../proto/gen/cri/api.ts';
import { CliError } from '../cli-error.ts';

/** The log folder of a pod that `berth run` made, so that `berth rm` can remove it too. */
export const LOG_FOLDER_ANNOTATION = 'berth.cli/log-directory';

/** Of all pods that `berth run` makes. */
export const NAMESPACE = 'default';

/** What `berth run` was asked for. */
export interface RunOptions {
  readonly name?: string;
  /** `HOST:CONTAINER` or `HOST:CONTAINER/udp`. */
  readonly publish?: readonly string[];
  /** `NAME=value`. */
  readonly env?: readonly string[];
  /** `HOST:CONTAINER` or `HOST:CONTAINER:ro`. */
  readonly volume?: readonly string[];
  /** A runtime handler other than the default. */
  readonly runtime?: string;
  readonly hostNetwork?: boolean;
  /** Show the output until the program ends, and end with its exit code. */
  readonly wait?: boolean;
  /** Remove the pod when the program has ended; implies wait. */
  readonly rm?: boolean;
}

/** The pod of `berth run`. Throws CliError for a port that is none. */
export function podConfig(image: string, options: RunOptions): PodSandboxConfig {
  const stem = image.split('/').at(-1)?.split(/[:@]/, 1)[0] || 'pod';
  const name = options.name ?? `${plain(stem)}-${randomBytes(3).toString('hex')}`;
  const logDirectory = `/var/log/berth/${plain(name)}-${randomBytes(4).toString('hex')}`;
  const uid = randomUUID();
  return PodSandboxConfig.create({
    metadata: { name, namespace: NAMESPACE, uid, attempt: 0 },
    labels: { 'io.kubernetes.pod.name': name, 'io.kubernetes.pod.namespace': NAMESPACE, 'io.kubernetes.pod.uid': uid },
    hostname: options.hostNetwork ? '' : name.slice(0, 63),
    logDirectory,
    annotations: { [LOG_FOLDER_ANNOTATION]: logDirectory },
    portMappings: (options.publish ?? []).map(parsePort),
    linux: {
      securityContext: {
        namespaceOptions: {
          network: options.hostNetwork ? NamespaceMode.NODE : NamespaceMode.POD,
          pid: NamespaceMode.CONTAINER,
        },
      },
    },
  });
}

/** The container in it. Throws CliError for a variable or volume that is none. */
export function containerConfig(
  pod: PodSandboxConfig,
  image: string,
  args: readonly string[],
  options: RunOptions,
): ContainerConfig {
  const name = pod.metadata?.name ?? '';
  return ContainerConfig.create({
    metadata: { name, attempt: 0 },
    image: { image, userSpecifiedImage: image },
    args: [...args],
    envs: (options.env ?? []).map(parseEnv),
    mounts: (options.volume ?? []).map(parseVolume),
    logPath: '0.log',
    // What the kubelet writes, and crictl and log collectors read.
    labels: { ...pod.labels, 'io.kubernetes.container.name': name },
  });
}

/** True for a log folder that podConfig() has named: annotations can come from anybody who may make pods. */
export function isOwnLogFolder(path: string): boolean {
  return /^\/var\/log\/berth\/[a-z0-9-]+-[0-9a-f]{8}$/.test(path);
}

function plain(text: string): string {
  return text.slice(0, 100).replaceAll(/[^a-z0-9-]/g, '-');
}

function parsePort(text: string): { protocol: Protocol; containerPort: number; hostPort: number; hostIp: string } {
  const [, host, container, kind = 'tcp'] = /^(\d{1,5}):(\d{1,5})(?:\/(tcp|udp|sctp))?$/.exec(text) ?? [];
  if (host === undefined || container === undefined)
    throw new CliError(`${text} is not HOST:CONTAINER, such as 8080:80 or 53:53/udp`);
  const protocol = { tcp: Protocol.TCP, udp: Protocol.UDP, sctp: Protocol.SCTP }[kind] ?? Protocol.TCP;
  return { protocol, containerPort: Number(container), hostPort: Number(host), hostIp: '' };
}

function parseEnv(text: string): { key: string; value: Buffer } {
  const at = text.indexOf('=');
  if (at <= 0) throw new CliError(`${text} is not NAME=value`);
  return { key: text.slice(0, at), value: Buffer.from(text.slice(at + 1)) };
}

function parseVolume(text: string): { hostPath: string; containerPath: string; readonly: boolean } {
  const [hostPath = '', containerPath = '', mode = 'rw', ...rest] = text.split(':');
  if (!hostPath.startsWith('/') || !containerPath.startsWith('/') || !['ro', 'rw'].includes(mode) || rest.length > 0) {
    throw new CliError(`${text} is not /HOST:/CONTAINER or /HOST:/CONTAINER:ro`);
  }
  return { hostPath, containerPath, readonly: mode === 'ro' };
}
