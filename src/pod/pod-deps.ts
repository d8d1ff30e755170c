import type { Clock } from '../base/clock.ts';
import type { FaultPoints } from '../base/fault-points.ts';
import type { KeyedLock } from '../base/keyed-lock.ts';
import type { Logger } from '../base/log.ts';
import type { Meter } from '../base/meter.ts';
import type { Notices } from '../base/notices.ts';
import type { Journal } from '../base/steps.ts';
import type { Cni } from '../cni/cni.ts';
import type { Ulimit } from '../config/parse-setting.ts';
import type { ExtractedMember } from '../image/extract-archive.ts';
import type { Images } from '../image/images.ts';
import type { Snapshots } from '../image/snapshots.ts';
import type { Processes } from '../proc/processes.ts';
import type { AppArmor } from '../runtime/apparmor.ts';
import type { CdiDevices } from '../runtime/cdi/cdi-devices.ts';
import type { Cgroups } from '../runtime/cgroups/cgroups.ts';
import type { ContainerRuntime } from '../runtime/container-runtime.ts';
import type { DefaultSysctls } from '../runtime/default-sysctls.ts';
import type { Handlers } from '../runtime/handlers.ts';
import type { HookFolders } from '../runtime/hooks/hook-folders.ts';
import type { HostFacts } from '../runtime/host-facts.ts';
import type { SeccompProfiles } from '../runtime/seccomp.ts';
import type { Selinux } from '../runtime/selinux.ts';
import type { NamespaceMaker } from '../sys/namespaces.ts';
import type { RecordIndex } from './record-index.ts';
import type { ContainerRecord, SandboxRecord } from './records.ts';
import type { SpareNetworks } from './spare-networks.ts';

/** What the lifecycle verbs of this room work with. src/main.ts builds the parts, Pods puts them together. */
export interface PodDeps {
  readonly log: Logger;
  readonly meter: Meter;
  /** Whom what the kubelet cannot see is told; nobody in most tests. */
  readonly notices?: Notices;
  readonly clock: Clock;
  /** In tests alone. */
  readonly faults?: FaultPoints | undefined;
  /** The state folder (tmpfs): what must not survive a reboot. */
  readonly stateDir: string;
  /** On the root folder's disk: a folder for each sandbox, for files that its containers may write to. */
  readonly sandboxDir: string;
  /** On the root folder's disk: where checkpoints are put together and taken apart. */
  readonly checkpointDir: string;
  /** Takes the files out of a tar archive into a new folder, under names of its own. */
  extractArchive(archive: string, target: string, signal: AbortSignal): Promise<readonly ExtractedMember[]>;
  /** The static pause program. */
  readonly pausePath: string;
  readonly sandboxes: RecordIndex<SandboxRecord>;
  readonly containers: RecordIndex<ContainerRecord>;
  /** Keys are sandbox and container ids; a sandbox's is taken before its containers'. */
  readonly locks: KeyedLock;
  readonly journals: Journals;
  readonly namespaces: NamespaceMaker;
  readonly processes: Processes;
  readonly cni: Cni;
  readonly spareNetworks: SpareNetworks;
  readonly images: Images;
  readonly snapshots: Snapshots;
  readonly host: HostFacts;
  readonly security: SecurityParts;
  readonly handlers: Handlers;
  readonly cgroups: Cgroups;
  readonly runtime: ContainerRuntime;
}

/** What containers may do, as far as the node's owner and kernel decide. */
export interface SecurityParts {
  readonly seccomp: SeccompProfiles;
  readonly apparmor: AppArmor;
  readonly selinux: Selinux;
  readonly cdi: CdiDevices;
  readonly hooks: HookFolders;
  readonly defaultCapabilities: readonly string[];
  /** What the kernel lets containers have at most. */
  readonly hostCapabilities: ReadonlySet<string>;
  /** Undefined: as many processes as the pod may have. */
  readonly pidsLimit: number | undefined;
  /** `NAME=value`. */
  readonly defaultEnv: readonly string[];
  readonly defaultSysctls: DefaultSysctls;
  readonly ulimits: readonly Ulimit[];
}

/** Opens and closes the journal of one pipeline on one sandbox or container. */
export interface Journals {
  /** Throws when it cannot be written. */
  open(pipeline: string, subject: string): Journal;
  /** The pipeline is through or fully undone: nothing is left for reconcile. Its times stay until forget(). Never throws. */
  finish(pipeline: string, subject: string): void;
  /** Never throws. */
  forget(subject: string): void;
}
