/** Static pods, and what the kubelet says of them: the fields of core/v1 that these scenes use. */

/** A manifest. */
export interface StaticPod {
  readonly metadata: { readonly name: string; readonly annotations?: Readonly<Record<string, string>> };
  readonly spec: Readonly<Record<string, unknown>>;
}

/** How a container is. */
export interface StateOfContainer {
  readonly waiting?: { readonly reason?: string; readonly message?: string };
  readonly running?: { readonly startedAt: string };
  readonly terminated?: {
    readonly exitCode: number;
    readonly signal?: number;
    readonly reason?: string;
    readonly message?: string;
    readonly startedAt: string;
    readonly finishedAt: string;
    readonly containerID?: string;
  };
}

/** What the kubelet says of a container. */
export interface ContainerReport {
  readonly name: string;
  readonly state: StateOfContainer;
  readonly lastState: StateOfContainer;
  readonly ready: boolean;
  readonly started?: boolean;
  readonly restartCount: number;
  readonly image: string;
  readonly imageID: string;
  readonly containerID?: string;
  readonly resources?: { readonly limits?: Readonly<Record<string, string>> };
  readonly user?: { readonly linux?: { readonly uid: number; readonly gid: number } };
}

/** What the kubelet says of a pod. */
export interface PodStatus {
  readonly metadata: { readonly name: string; readonly uid: string };
  readonly status: {
    readonly phase?: string;
    readonly reason?: string;
    readonly message?: string;
    readonly podIP?: string;
    readonly podIPs?: readonly { readonly ip: string }[];
    readonly conditions?: readonly { readonly type: string; readonly status: string }[];
    readonly containerStatuses?: readonly ContainerReport[];
    readonly initContainerStatuses?: readonly ContainerReport[];
  };
}

/** What /pods answers. */
export interface PodList {
  readonly items?: readonly PodStatus[] | null;
}

/** True when a condition such as Ready is fulfilled. */
export function holds({ status }: PodStatus, condition: string): boolean {
  return (status.conditions ?? []).some(({ type, status: value }) => type === condition && value === 'True');
}
