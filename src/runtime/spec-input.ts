import type { Ulimit } from '../config/parse-setting.ts';
import type { ContainerSpec, UserNamespaceSpec } from './container-spec.ts';
import type { HostFacts } from './host-facts.ts';
import type { ResolvedMounts } from './mounts.ts';
import type { OciSeccomp } from './oci-seccomp.ts';
import type { OciCapabilities, OciDevice, OciDeviceRule } from './oci-spec.ts';
import type { SelinuxLabels } from './selinux.ts';

/** The files of a sandbox that each of its containers sees. Absolute host paths. */
export interface SandboxFiles {
  readonly resolvConf: string;
  readonly hostname: string;
  readonly hosts: string;
  /** The pod's own /dev/shm, or the host's. */
  readonly shm: string;
}

/** What an image says about the process that runs from it. */
export interface ImageProcess {
  readonly entrypoint: readonly string[];
  readonly cmd: readonly string[];
  /** `NAME=value`. */
  readonly env: readonly string[];
  readonly workingDir: string;
}

/** Where a container gets one of its namespaces from: the host's, a new one, or one that is pinned at a path. */
export type NamespaceSource = 'host' | 'new' | { readonly path: string };

/** What a container takes over from its sandbox. */
export interface SpecSandbox {
  readonly id: string;
  readonly name: string;
  readonly namespace: string;
  readonly uid: string;
  readonly annotations: Readonly<Record<string, string>>;
  readonly hostname: string;
  readonly namespaces: Readonly<Record<'network' | 'ipc' | 'uts' | 'pid', NamespaceSource>>;
  /** Undefined: the host's. */
  readonly userNamespace: { readonly path: string; readonly maps: UserNamespaceSpec } | undefined;
  readonly files: SandboxFiles;
}

/** Who the process runs as. `home` is where the image's passwd says so. */
export interface ProcessUser {
  readonly uid: number;
  readonly gid: number;
  readonly supplementalGroups: readonly number[];
  readonly home?: string;
}

/** Everything that a config.json is made of. */
export interface SpecInput {
  readonly spec: ContainerSpec;
  readonly sandbox: SpecSandbox;
  readonly image: ImageProcess;
  readonly user: ProcessUser;
  readonly capabilities: OciCapabilities;
  /** A compiled OCI seccomp section; undefined for unconfined. */
  readonly seccomp: OciSeccomp | undefined;
  /** A loaded profile; undefined for unconfined. */
  readonly apparmorProfile: string | undefined;
  /** Undefined where the host has no SELinux. */
  readonly selinux: SelinuxLabels | undefined;
  readonly devices: { readonly nodes: readonly OciDevice[]; readonly rules: readonly OciDeviceRule[] };
  /** From resolveMounts(). */
  readonly mounts: Omit<ResolvedMounts, 'mapped'>;
  /** Absolute path of the mounted root filesystem. */
  readonly rootfs: string;
  readonly cgroupsPath: string;
  /** What the runtime is told of the cgroup besides. */
  readonly cgroupAnnotations: Readonly<Record<string, string>>;
  /** Undefined: as many processes as the pod may have. */
  readonly pidsLimit: number | undefined;
  /** The node's own variables, `NAME=value`, which image and client may replace. */
  readonly defaultEnv: readonly string[];
  /** The node's own limits for all containers. */
  readonly ulimits: readonly Ulimit[];
  /** Names of annotations that the runtime may see, or patterns with `*`. */
  readonly visibleAnnotations: readonly string[];
  readonly host: HostFacts;
}
