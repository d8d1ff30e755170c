/**
 * What a container shall be, as Berth keeps it: the CRI's ContainerConfig with its defaults made explicit and its
 * numbers checked (src/server/convert makes it). Plain data: it is stored as JSON with the container's record.
 */

import type { IdMapping } from '../base/id-mapping.ts';

/** One container of a pod, as its client asked for it. */
export interface ContainerSpec {
  readonly name: string;
  readonly attempt: number;
  readonly image: ImageRequest;
  /** Replaces the image's entrypoint; empty when the client gave none. */
  readonly command: readonly string[];
  readonly args: readonly string[];
  readonly workingDir: string;
  readonly env: readonly EnvVar[];
  readonly mounts: readonly MountSpec[];
  readonly devices: readonly DeviceSpec[];
  readonly cdiDevices: readonly string[];
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  /** Relative to the sandbox's log directory; empty when the client gave none. */
  readonly logPath: string;
  readonly stdin: boolean;
  readonly stdinOnce: boolean;
  readonly tty: boolean;
  /** Name such as `SIGTERM` or `SIGRTMIN+3`; undefined when the client leaves it to the image. */
  readonly stopSignal: string | undefined;
  readonly resources: LinuxResources;
  readonly security: ContainerSecurity;
}

/** The image as the client named it: a tag, a digest or an id. */
export interface ImageRequest {
  readonly reference: string;
  readonly userSpecified: string;
  readonly runtimeHandler: string;
  readonly annotations: Readonly<Record<string, string>>;
}

export interface EnvVar {
  readonly key: string;
  readonly value: string;
}

export type MountPropagation = 'private' | 'hostToContainer' | 'bidirectional';

export interface MountSpec {
  readonly containerPath: string;
  readonly hostPath: string;
  readonly readonly: boolean;
  readonly recursiveReadOnly: boolean;
  readonly selinuxRelabel: boolean;
  readonly propagation: MountPropagation;
  readonly uidMappings: readonly IdMapping[];
  readonly gidMappings: readonly IdMapping[];
  /** Set for an image volume; hostPath is then empty. */
  readonly image: ImageRequest | undefined;
  readonly imageSubPath: string;
  readonly options: readonly string[];
}

export interface DeviceSpec {
  readonly containerPath: string;
  readonly hostPath: string;
  /** Some of `r`, `w`, `m`. */
  readonly permissions: string;
}

/** Limits; undefined means "not said": at creation the kernel's default, at update unchanged. */
export interface LinuxResources {
  readonly cpuPeriodUs?: number;
  /** Negative: no limit. */
  readonly cpuQuotaUs?: number;
  readonly cpuShares?: number;
  readonly memoryLimitBytes?: number;
  /** Memory and swap together, as cgroup v1 and the OCI spec count it. Negative: no limit. */
  readonly memorySwapLimitBytes?: number;
  readonly oomScoreAdj?: number;
  readonly cpusetCpus?: string;
  readonly cpusetMems?: string;
  readonly hugepageLimits: readonly HugepageLimit[];
  /** cgroup v2 files and their contents. */
  readonly unified: Readonly<Record<string, string>>;
}

export interface HugepageLimit {
  /** As the kernel spells it, `2MB` or `1GB`. */
  readonly pageSize: string;
  readonly limitBytes: number;
}

export type NamespaceMode = 'pod' | 'container' | 'node' | 'target';

/** Where each namespace of a sandbox or container comes from. */
export interface NamespaceModes {
  readonly network: NamespaceMode;
  readonly pid: NamespaceMode;
  readonly ipc: NamespaceMode;
  /** The container whose PID namespace is shared when pid is `target`. */
  readonly targetId: string;
  /** Undefined: the host's user namespace. */
  readonly user: UserNamespaceSpec | undefined;
}

export interface UserNamespaceSpec {
  readonly uids: readonly IdMapping[];
  readonly gids: readonly IdMapping[];
}

export type SecurityProfile =
  | { readonly type: 'runtimeDefault' }
  | { readonly type: 'unconfined' }
  | { readonly type: 'localhost'; readonly reference: string };

export interface SelinuxOptions {
  readonly user: string;
  readonly role: string;
  readonly type: string;
  readonly level: string;
}

export interface Capabilities {
  /** Names without `CAP_`, upper case; `ALL` stands for every one. */
  readonly add: readonly string[];
  readonly drop: readonly string[];
  readonly addAmbient: readonly string[];
}

export interface ContainerSecurity {
  readonly capabilities: Capabilities;
  readonly privileged: boolean;
  readonly namespaces: NamespaceModes;
  readonly selinux: SelinuxOptions | undefined;
  readonly runAsUser: number | undefined;
  readonly runAsGroup: number | undefined;
  readonly runAsUsername: string;
  readonly readonlyRootfs: boolean;
  readonly supplementalGroups: readonly number[];
  readonly supplementalGroupsPolicy: 'merge' | 'strict';
  readonly noNewPrivs: boolean;
  /** Undefined: the client said nothing and gets the defaults. */
  readonly maskedPaths: readonly string[] | undefined;
  readonly readonlyPaths: readonly string[] | undefined;
  /** Undefined: unconfined, as the CRI's nil profile. */
  readonly seccomp: SecurityProfile | undefined;
  readonly apparmor: SecurityProfile | undefined;
}
