import type { OciSeccomp } from './oci-seccomp.ts';

/**
 * The parts of the OCI runtime specification's config.json (1.0.2) that Berth writes. Field names and units are the
 * specification's own: https://github.com/opencontainers/runtime-spec/blob/v1.0.2/config.md and config-linux.md.
 */

/** A whole config.json. */
export interface OciSpec {
  readonly ociVersion: string;
  readonly process: OciProcess;
  readonly root: { readonly path: string; readonly readonly: boolean };
  readonly mounts: readonly OciMount[];
  readonly annotations: Readonly<Record<string, string>>;
  readonly linux: OciLinux;
  readonly hooks?: { readonly [S in OciHookStage]?: readonly OciHook[] };
}

/** When in a container's life a hook runs (config.md, POSIX-platform Hooks). */
export type OciHookStage =
  | 'prestart'
  | 'createRuntime'
  | 'createContainer'
  | 'startContainer'
  | 'poststart'
  | 'poststop';

/** A program that the runtime starts; it gets the container's state on stdin. */
export interface OciHook {
  /** Absolute. */
  readonly path: string;
  /** With the name of the program as the first, as execv(3) has it. */
  readonly args?: readonly string[];
  /** `NAME=value`. */
  readonly env?: readonly string[];
  /** Seconds. */
  readonly timeout?: number;
}

/** The process of a container, or one that is executed in it later (`exec --process`). */
export interface OciProcess {
  readonly terminal: boolean;
  readonly consoleSize?: { readonly width: number; readonly height: number };
  readonly user: OciUser;
  readonly args: readonly string[];
  /** `NAME=value`. */
  readonly env: readonly string[];
  readonly cwd: string;
  readonly capabilities: OciCapabilities;
  readonly rlimits: readonly OciRlimit[];
  readonly noNewPrivileges: boolean;
  readonly oomScoreAdj?: number;
  readonly apparmorProfile?: string;
  readonly selinuxLabel?: string;
}

export interface OciUser {
  readonly uid: number;
  readonly gid: number;
  readonly additionalGids: readonly number[];
}

/** Names with `CAP_`. */
export interface OciCapabilities {
  readonly bounding: readonly string[];
  readonly effective: readonly string[];
  readonly permitted: readonly string[];
  readonly inheritable: readonly string[];
  readonly ambient: readonly string[];
}

export interface OciRlimit {
  /** As getrlimit(2) names it, `RLIMIT_NOFILE`. */
  readonly type: string;
  /** Infinity is no limit. */
  readonly soft: number;
  readonly hard: number;
}

export interface OciMount {
  readonly destination: string;
  readonly type: string;
  readonly source: string;
  readonly options: readonly string[];
}

export interface OciLinux {
  readonly namespaces: readonly OciNamespace[];
  /** Of the user namespace, where there is one. */
  readonly uidMappings?: readonly OciIdMapping[];
  readonly gidMappings?: readonly OciIdMapping[];
  readonly devices: readonly OciDevice[];
  readonly cgroupsPath: string;
  readonly resources: OciResources;
  readonly rootfsPropagation?: string;
  readonly seccomp?: OciSeccomp;
  readonly maskedPaths: readonly string[];
  readonly readonlyPaths: readonly string[];
  readonly mountLabel?: string;
  /** Cache and memory bandwidth (config-linux.md, IntelRdt); it is passed on as it is. */
  readonly intelRdt?: object;
}

export interface OciIdMapping {
  readonly containerID: number;
  readonly hostID: number;
  readonly size: number;
}

export interface OciNamespace {
  readonly type: 'pid' | 'network' | 'mount' | 'ipc' | 'uts' | 'user' | 'cgroup';
  /** A new one is made when it is absent. */
  readonly path?: string;
}

/** A node that the runtime makes below the container's /dev. */
export interface OciDevice {
  readonly type: string;
  readonly path: string;
  readonly major?: number;
  readonly minor?: number;
  readonly fileMode?: number;
  readonly uid?: number;
  readonly gid?: number;
}

/** One rule of the device cgroup; without a number it holds for all. */
export interface OciDeviceRule {
  readonly allow: boolean;
  readonly type?: string;
  readonly major?: number;
  readonly minor?: number;
  readonly access?: string;
}

export interface OciResources {
  readonly devices?: readonly OciDeviceRule[];
  readonly cpu?: OciCpu;
  readonly memory?: OciMemory;
  readonly pids?: { readonly limit: number };
  readonly hugepageLimits?: readonly { readonly pageSize: string; readonly limit: number }[];
  readonly unified?: Readonly<Record<string, string>>;
}

export interface OciCpu {
  readonly shares?: number;
  /** Microseconds per period; -1 for no limit. */
  readonly quota?: number;
  readonly period?: number;
  readonly cpus?: string;
  readonly mems?: string;
}

export interface OciMemory {
  /** Bytes; -1 for no limit. */
  readonly limit?: number;
  /** Bytes of memory and swap together; -1 for no limit. */
  readonly swap?: number;
}
