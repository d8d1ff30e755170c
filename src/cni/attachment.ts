import { invalid } from '../base/errors.ts';

/** What a plugin chain is run for: one interface of one pod. */
export interface CniAttachment extends PodNetwork {
  /** The sandbox's id. */
  readonly containerId: string;
  /** Path of the network namespace; empty when it is gone (DEL only). */
  readonly netns: string;
  readonly ifName: string;
}

/** Whose network it is, and what the pod wants of it. */
export interface PodNetwork {
  readonly pod: { readonly namespace: string; readonly name: string; readonly uid: string };
  /** Those with host port 0 are not mapped. */
  readonly portMappings: readonly {
    readonly protocol: 'tcp' | 'udp' | 'sctp';
    readonly containerPort: number;
    readonly hostPort: number;
    readonly hostIp: string;
  }[];
  readonly dns?: {
    readonly servers: readonly string[];
    readonly searches: readonly string[];
    readonly options: readonly string[];
  };
  /** The pod's; `kubernetes.io/ingress-bandwidth` and `kubernetes.io/egress-bandwidth` are read from here. */
  readonly annotations: Readonly<Record<string, string>>;
  readonly cgroupPath?: string;
  /** Addresses to ask for, each with or without a prefix length. */
  readonly ips?: readonly string[];
}

/** Which attachment: the key that plugins keep their state by. */
export type AttachmentKey = Pick<CniAttachment, 'containerId' | 'ifName'>;

// It becomes part of a file name, together with a network's name and an interface's.
const ID_LIMIT_CHARS = 128;
const IF_NAME_LIMIT_CHARS = 15;

/** Throws `invalid` when an id or a name would be unfit for plugins or for a file name (CNI 1.1, section 3). */
export function checkKey({ containerId, ifName }: AttachmentKey): void {
  if (!/^[a-zA-Z0-9][a-zA-Z0-9_.-]*$/.test(containerId) || containerId.length > ID_LIMIT_CHARS) {
    throw invalid(
      'containerId',
      `${JSON.stringify(containerId.slice(0, ID_LIMIT_CHARS))} is no valid CNI container id`,
    );
  }
  if (!/^[a-zA-Z0-9_.-]+$/.test(ifName) || ifName.length > IF_NAME_LIMIT_CHARS || ifName === '.' || ifName === '..') {
    throw invalid('ifName', `${JSON.stringify(ifName.slice(0, ID_LIMIT_CHARS))} is no valid interface name`);
  }
}

/**
 * CNI_ARGS as Kubernetes' plugins know them. Throws `invalid` for a value that would become another argument: there is
 * no way to quote one.
 */
export function cniArgs({ containerId, pod }: Pick<CniAttachment, 'containerId' | 'pod'>): string {
  return [
    'IgnoreUnknown=1',
    `K8S_POD_NAMESPACE=${argument('config.metadata.namespace', pod.namespace)}`,
    `K8S_POD_NAME=${argument('config.metadata.name', pod.name)}`,
    `K8S_POD_INFRA_CONTAINER_ID=${containerId}`,
    `K8S_POD_UID=${argument('config.metadata.uid', pod.uid)}`,
  ].join(';');
}

/** CNI_ARGS of an attachment for a pod that is yet to come. */
export function spareCniArgs({ containerId }: Pick<CniAttachment, 'containerId'>): string {
  return `IgnoreUnknown=1;K8S_POD_INFRA_CONTAINER_ID=${containerId}`;
}

/** Whose attachment it is by its CNI_ARGS, `NAMESPACE/NAME`, for people; undefined while its pod is yet to come. */
export function podOf(args: string): string | undefined {
  if (!args.includes('K8S_POD_NAME=')) return undefined;
  const argumentOf = (name: string): string => new RegExp(`${name}=([^;]*)`).exec(args)?.[1] ?? '?';
  return `${argumentOf('K8S_POD_NAMESPACE')}/${argumentOf('K8S_POD_NAME')}`;
}

function argument(field: string, value: string): string {
  if (/[;=\u0000-\u001f\u007f]/.test(value)) {
    throw invalid(field, 'must not contain ";", "=" or control characters: the CNI plugins get it as an argument');
  }
  return value;
}
