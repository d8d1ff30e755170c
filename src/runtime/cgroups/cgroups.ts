import type { HugepageLimit, LinuxResources } from '../container-spec.ts';
import type { CgroupFigures } from './cgroup-figures.ts';
import type { CgroupMode } from './hierarchies.ts';
import type { MemberEnd } from './oom-ledger.ts';

/**
 * Cgroups as Berth uses them. Every container's cgroup is made by the OCI runtime at the path that Berth gives it. The
 * sandbox's own is a sibling of them, holds the pause process and the containers' monitors, and is made by Berth:
 *
 *     <parent>                 the kubelet's, or one that Berth makes and removes again when it is empty
 *     ├── berth-<sandbox id>   pause, monitors
 *     ├── berth-<container id>
 *     └── ...
 *
 * Paths are the same in every hierarchy, and count from the hierarchy's mount point, whatever cgroup berthd itself is
 * in: so do runc and crun with an absolute linux.cgroupsPath.
 */
export interface Cgroups {
  readonly driver: CgroupDriver;
  readonly mode: CgroupMode;
  /** Throws `invalid` for a cgroup parent that this driver cannot use. Empty stands for the driver's default. */
  validateParent(parent: string): void;
  /** A parent that is there without Berth's doing, for containers that live for a moment: it need not be removed. */
  readonly existingParent: string;
  /** Where the sandbox's cgroup is, or will be. Throws as validateParent. */
  sandboxCgroup(parent: string, sandboxId: string): SandboxCgroup;
  /** Makes the sandbox's cgroup. With systemd the scope comes to life with its first process. May be repeated. */
  createSandbox(request: SandboxCgroupRequest, signal: AbortSignal): Promise<SandboxCgroup>;
  /**
   * Sets limits on a pod's own cgroup, its parent, all of them or none; what isn't said stays as it is. The default
   * parent is shared by many pods and left alone. Throws `precondition` when the pod uses more than a limit allows,
   * `invalid` for limits that the kernel makes no sense of.
   */
  updatePod(parent: string, resources: LinuxResources, signal: AbortSignal): Promise<void>;
  /** How a thread can have children that are born in the sandbox's cgroup. */
  threadPlacement(cgroup: SandboxCgroup): ThreadPlacement;
  /**
   * Says that a runtime is about to move processes. Whoever moves the first one for some time waits for a grace period of
   * the kernel, of 10 ms and more, and those who come soon after it do not: this has it pass beside other work.
   */
  expectMoves(): void;
  /** Puts a process into the sandbox's cgroup. A process that is there already stays. */
  addProcess(cgroup: SandboxCgroup, pid: number, signal: AbortSignal): Promise<void>;
  /**
   * Removes the cgroup, and parents that Berth made and nobody uses any more. It kills nothing: a process in it is a
   * `precondition` error that names it. A cgroup that is gone is success.
   */
  removeSandbox(cgroup: SandboxCgroup, signal: AbortSignal): Promise<void>;
  /** The linux.cgroupsPath of a container's config.json. Throws as validateParent. */
  containerCgroupsPath(parent: string, containerId: string): string;
  /** Annotations of config.json that have the OCI runtime make a container's cgroup as Berth expects it. */
  containerAnnotations(resources: LinuxResources, pidsLimit: number | undefined): Readonly<Record<string, string>>;
  /** Has also systemd know the limits that a container's cgroup has now, or its next reload would undo them. */
  keepLimits(parent: string, containerId: string, signal: AbortSignal): Promise<void>;
  /** The cgroup that the OCI runtime makes of containerCgroupsPath(). Throws as validateParent. */
  container(parent: string, containerId: string): ContainerCgroup;
  /**
   * The cgroups of sandboxes and containers whose parents nobody knows any more, by id. Walks all cgroups of the host:
   * for what an earlier daemon has left.
   */
  findCgroups(ids: ReadonlySet<string>): ReadonlyMap<string, readonly FoundCgroup[]>;
  /** What the cgroup at a path uses: a container's, a sandbox's or a pod's. */
  figures(path: string): CgroupFigures;
  /**
   * A pod's cgroup, its parent, with the ids of the sandboxes and containers that are in it. Undefined for the default
   * parent, and for one in which there is anything else: it is no single pod's. Throws as validateParent.
   */
  podCgroup(parent: string): PodCgroup | undefined;
  /** Lets go of the connection to systemd, where there is one. */
  close(): void;
}

export type CgroupDriver = 'cgroupfs' | 'systemd';

/** The cgroup that kubelets make for a whole pod. */
export interface PodCgroup {
  readonly path: string;
  readonly members: readonly string[];
}

/** What a sandbox's cgroup is made from. */
export interface SandboxCgroupRequest {
  readonly parent: string;
  readonly sandboxId: string;
  /** Limits of the whole pod. They are set on the parent only if Berth makes it: the kubelet cares for its own. */
  readonly resources?: LinuxResources;
}

/** A sandbox's cgroup as plain data, kept with the sandbox's record. */
export interface SandboxCgroup {
  readonly driver: CgroupDriver;
  /** Below each hierarchy's mount point, beginning with a slash. */
  readonly path: string;
  /** The scope; empty with cgroupfs. */
  readonly unit: string;
}

/**
 * Writing a pid to cgroup.procs makes the kernel wait for an RCU grace period: 5 to 20 ms. A thread that moves itself,
 * by writing `0` to v1 `tasks` files, does not wait, and its children are born where it is.
 */
export interface ThreadPlacement {
  /** Files to write `0` to before the child is made. */
  readonly enter: readonly string[];
  /** Files to write `0` to afterwards: the thread's own cgroups. */
  readonly leave: readonly string[];
  /**
   * cgroup.procs files that the child's pid still belongs in. Cgroup v2 has no such move; the child is born there where
   * the C library can (CLONE_INTO_CGROUP), else moved.
   */
  readonly procs: readonly string[];
}

/** One of findCgroups(): by how it can be ended, and how removeSandbox() knows it. */
export interface FoundCgroup {
  readonly files: ContainerCgroup;
  readonly cgroup: SandboxCgroup;
}

/** Folders of the cgroups that a process is to join. */
export interface CgroupEntries {
  /** Of version 1; in a hierarchy that the OCI runtime does not know there is none. */
  readonly v1: readonly string[];
  /** Of version 2, also beside version 1, where the OCI runtime may have made none. */
  readonly unified: string | undefined;
  /** Of version 2, where the container's first process is in one that it has made below: for where that one takes none. */
  readonly unifiedOfInit: string | undefined;
}

/** The cgroup of one container. Reads are synchronous: a handful of tiny kernel files. */
export interface ContainerCgroup {
  /** Below each hierarchy's mount point. */
  readonly path: string;
  /** What another process of the container joins, as with runc's `exec`. */
  entriesFor(initPid: number): CgroupEntries;
  /** Processes that the OOM killer ended, in the container's cgroup and below. Throws notFound when it is gone. */
  oomKills(): number;
  /** Begins to look for the OOM killer's work, for oomKillsAtEnd(). Call it while the container lives. */
  watchOomKills(): void;
  /**
   * oomKills() of a container whose first process has ended. Where systemd has removed the cgroup already its parent
   * tells, if that was watched and it is known how the container ended; 0 where another one that ended at the same time
   * may be meant. Throws as oomKills().
   */
  oomKillsAtEnd(end?: MemberEnd): number;
  /**
   * What the OOM killer did, before this berthd looked for the first time and after the last look of an earlier one, in
   * all containers of this one's parent whose cgroups are gone: nobody can tell which of them.
   */
  unwatchedOomKills(): number;
  /** Memory that it uses now, in bytes; undefined when it is gone or the host does not count. */
  memoryUsageBytes(): number | undefined;
  /**
   * Limits huge pages, all sizes or none, and returns what takes that back: `runc update` knows none. Throws
   * `precondition` for a limit below what the container uses.
   */
  limitHugepages(limits: readonly HugepageLimit[]): () => void;
  /** Takes away the limit on processor time. */
  liftCpuQuota(): void;
  /** All processes in the cgroup and below; empty when it is gone. */
  pids(): number[];
  /** SIGKILL to all of them. It doesn't wait for their end. */
  killAll(): void;
  /** Lets processes go on that were paused; paused ones take no signal (of v1, not even SIGKILL). Gone is fine. */
  thaw(): void;
  /** Removes what the runtime left. Gone is success; processes that are left are a `precondition` error. */
  remove(signal: AbortSignal): Promise<void>;
}
