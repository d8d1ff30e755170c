import type { LinuxResources, NamespaceModes, SecurityProfile, SelinuxOptions } from '../runtime/container-spec.ts';

/**
 * What a pod sandbox shall be, as Berth keeps it: the CRI's PodSandboxConfig with its defaults made explicit and its
 * numbers checked (src/server/convert makes it). Plain data: it is stored as JSON with the sandbox's record.
 */
export interface SandboxSpec {
  readonly name: string;
  readonly namespace: string;
  readonly uid: string;
  readonly attempt: number;
  readonly hostname: string;
  /** Absolute, or empty: then containers have no log files. */
  readonly logDirectory: string;
  /** Undefined: the host's resolv.conf is copied. */
  readonly dns: DnsConfig | undefined;
  readonly portMappings: readonly PortMapping[];
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  readonly cgroupParent: string;
  readonly sysctls: Readonly<Record<string, string>>;
  readonly overhead: LinuxResources | undefined;
  readonly resources: LinuxResources | undefined;
  readonly security: SandboxSecurity;
  /** Empty: the default handler. */
  readonly runtimeHandler: string;
}

export interface DnsConfig {
  readonly servers: readonly string[];
  readonly searches: readonly string[];
  readonly options: readonly string[];
}

export interface PortMapping {
  readonly protocol: 'tcp' | 'udp' | 'sctp';
  readonly containerPort: number;
  readonly hostPort: number;
  readonly hostIp: string;
}

export interface SandboxSecurity {
  readonly namespaces: NamespaceModes;
  readonly privileged: boolean;
  readonly selinux: SelinuxOptions | undefined;
  readonly runAsUser: number | undefined;
  readonly runAsGroup: number | undefined;
  readonly readonlyRootfs: boolean;
  readonly supplementalGroups: readonly number[];
  readonly supplementalGroupsPolicy: 'merge' | 'strict';
  readonly seccomp: SecurityProfile | undefined;
  readonly apparmor: SecurityProfile | undefined;
}
