import type { UnixMicros } from '../base/clock.ts';
import type { ContainerId, SandboxId } from '../base/ids.ts';
import type { SandboxCgroup } from '../runtime/cgroups/cgroups.ts';
import type { ContainerSpec, LinuxResources } from '../runtime/container-spec.ts';
import type { ProcessIdentity } from '../runtime/process-identity.ts';
import type { SandboxSpec } from './sandbox-spec.ts';

/**
 * A sandbox's life:
 *
 *     creating ──▶ ready ──▶ stopped ──▶ (removed)
 *        │           │▲          ▲
 *        │           ▼│          │
 *        │        notReady ──────┤   the pause process died; network and mounts are still there
 *        └──────▶ unknown ───────┘   a rollback failed: stop and remove clean up what is left
 */
export type SandboxState = 'creating' | 'ready' | 'notReady' | 'stopped' | 'unknown';

/** What Berth knows of one sandbox. Stored as JSON; replaced, never changed in place. */
export interface SandboxRecord {
  readonly id: SandboxId;
  /** `k8s_<pod>_<namespace>_<uid>_<attempt>`: unique, so that one request never makes two pods. */
  readonly name: string;
  readonly state: SandboxState;
  readonly createdAtUs: UnixMicros;
  readonly spec: SandboxSpec;
  /** The handler's real name; the spec has '' where the client wanted the default. */
  readonly handler: string;
  readonly hostname: string;
  readonly pause: ProcessIdentity | undefined;
  readonly cgroup: SandboxCgroup | undefined;
  /** The SELinux level that keeps it apart from other pods; absent where SELinux is off. */
  readonly selinuxLevel?: string | undefined;
  /** Primary address first; empty on the host's network, and when the host was restarted. */
  readonly ips: readonly string[];
  /** The host was restarted: its network is gone, and others may have its addresses and host ports. */
  readonly hasLostNetwork?: boolean;
  /** What the pod may use since it was updated; the spec has what it was made with. */
  readonly updatedResources?: {
    readonly overhead: LinuxResources | undefined;
    readonly resources: LinuxResources | undefined;
  };
}

/**
 * A container's life:
 *
 *     creating ──▶ created ──▶ running ──▶ exited ──▶ (removed)
 *        │            └────────────────────▶ ▲
 *        └──────▶ unknown ──────────────────┘   a rollback failed: remove cleans up
 */
export type ContainerState = 'creating' | 'created' | 'running' | 'exited' | 'unknown';

/** Why a container is no longer running, in the words that the kubelet and its users know. */
export type ExitReason = 'Completed' | 'Error' | 'OOMKilled' | 'StartError' | 'Unknown';

/** How and when a container ended. */
export interface ContainerExit {
  /** 128+n for signal n; 255 when nobody saw it. */
  readonly code: number;
  readonly atUs: UnixMicros;
  readonly reason: ExitReason;
  readonly message: string;
}

/** What Berth knows of one container. Stored as JSON; replaced, never changed in place. */
export interface ContainerRecord {
  readonly id: ContainerId;
  readonly sandboxId: SandboxId;
  /** `k8s_<container>_<pod>_<namespace>_<uid>_<attempt>`. */
  readonly name: string;
  readonly state: ContainerState;
  readonly createdAtUs: UnixMicros;
  /** Since when it has been started; noted just before, so a `created` container may have it too. */
  readonly startedAtUs: UnixMicros | undefined;
  readonly exit: ContainerExit | undefined;
  readonly spec: ContainerSpec;
  readonly handler: string;
  readonly imageId: string;
  /** What people call the image: the tag that the client or the image has, or what the client asked for. */
  readonly imageName: string;
  /** The repo digest it was made from (or the image's id), kept because the image may be untagged later. */
  readonly imageRef: string;
  /** Decided at creation: the client's, the image's, or SIGTERM. */
  readonly stopSignal: string;
  /** Absolute path of the CRI log, or '' for none. */
  readonly logFile: string;
  /** Who the first process runs as; known once the rootfs was read. */
  readonly user: ResolvedUser | undefined;
  /** The limits in force, updates included. */
  readonly resources: LinuxResources;
  /** Absent: none. */
  readonly imageVolumes?: readonly ImageVolume[];
  readonly init: ProcessIdentity | undefined;
  readonly monitor: ProcessIdentity | undefined;
  /** The folder that runc keeps of it, where that is all there is to its start and its end: plainState(). */
  readonly runcState?: string | undefined;
  /** A folder that it shall go on from when it is started: a checkpoint, taken apart. */
  readonly restoreFrom?: string | undefined;
}

/** An image that a container sees as a volume. */
export interface ImageVolume {
  /** Of its mount in the spec. */
  readonly index: number;
  readonly imageId: string;
  /** The repo digest (or the image's id), as clients are told. */
  readonly imageRef: string;
}

/** Numeric identity of a container's first process. */
export interface ResolvedUser {
  readonly uid: number;
  readonly gid: number;
  readonly supplementalGroups: readonly number[];
}
