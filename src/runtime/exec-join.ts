import { BerthError } from '../base/errors.ts';
import { capabilityBits, isKnownCapability } from '../sys/capabilities.ts';
import { openProcess } from '../sys/process.ts';
import type { CgroupEntries } from './cgroups/cgroups.ts';
import type { Handler } from './handler.ts';
import type { OciSeccomp } from './oci-seccomp.ts';
import type { OciProcess, OciSpec } from './oci-spec.ts';
import type { ProcessIdentity } from './process-identity.ts';

/** By the numbers of asm-generic/resource.h. */
const RESOURCES: readonly string[] = Object.freeze(
  'CPU FSIZE DATA STACK CORE RSS NPROC NOFILE MEMLOCK AS LOCKS SIGPENDING MSGQUEUE NICE RTPRIO RTTIME'
    .split(' ')
    .map((name) => `RLIMIT_${name}`),
);
/** RLIM_INFINITY; what JSON has for it may have been rounded up. */
const UNLIMITED = 2n ** 64n - 1n;
const NAMESPACES = new Set(['pid', 'network', 'mount', 'ipc', 'uts', 'cgroup']);

/** An argument of a program can have 128 KiB, all of them 2 MiB and more (execve(2)); a runtime reads its own from a file. */
const MOST_BYTES = 100_000;
/** What runc takes for an id. */
const LAST_ID = 2 ** 31 - 1;
const MOST_IDS = 1000;
const SETS = Object.freeze(['bounding', 'effective', 'permitted', 'inheritable', 'ambient'] as const);

/** Flags of seccomp(2) that a filter may be loaded with; what else there is has somebody wait for its calls. */
const FILTER_FLAGS: Readonly<Record<string, number>> = Object.freeze({
  SECCOMP_FILTER_FLAG_TSYNC: 1,
  SECCOMP_FILTER_FLAG_LOG: 2,
  SECCOMP_FILTER_FLAG_SPEC_ALLOW: 4,
});
const NOTIFY = 'SCMP_ACT_NOTIFY';

/** A seccomp filter that the runtime has compiled. */
export interface CompiledFilter {
  /** Of `struct sock_filter`. */
  readonly file: string;
  /** Of seccomp(2). */
  readonly flags: number;
}

/** A container's process and cgroups, for a command that joins it. */
export interface JoinTarget {
  readonly init: ProcessIdentity;
  readonly cgroups: CgroupEntries;
}

/** What a command joins, and the seccomp filter that it is held to. */
export interface Joinable extends JoinTarget {
  /** 'none' only where the container's spec has no seccomp section. */
  readonly filter: CompiledFilter | 'none';
}

/**
 * Whether native/exec-join.c does for this container all that its runtime would, given the container's seccomp filter as
 * the runtime has compiled it. Not where a filter asks somebody, nor in user namespaces, resctrl groups or SELinux domains,
 * nor for runtimes of which it is not known what they do.
 */
export function canJoin({ isRunc }: Pick<Handler, 'isRunc'>, { linux, process }: OciSpec): boolean {
  if (linux.seccomp && filterFlags(linux.seccomp) === undefined) return false;
  const needsRuntime = linux.intelRdt ?? process.selinuxLabel;
  const areKnown = linux.namespaces.every(({ type }) => NAMESPACES.has(type));
  const limitsAreKnown = process.rlimits.every(({ type }) => RESOURCES.includes(type));
  const { capabilities } = process;
  const setsAreKnown = SETS.every((set) => capabilities[set].every(isKnownCapability));
  return isRunc && !needsRuntime && areKnown && limitsAreKnown && setsAreKnown;
}

/**
 * The flags that a filter is loaded with; undefined for one that exec-join cannot load. Where none are listed runc since 1.2
 * takes SPEC_ALLOW, which spares a process a mitigation and allows it nothing: commands do without.
 */
export function filterFlags({ defaultAction, flags = [], listenerPath, syscalls }: OciSeccomp): number | undefined {
  const asks =
    listenerPath !== undefined || defaultAction === NOTIFY || syscalls.some(({ action }) => action === NOTIFY);
  const bits = flags.map((flag) => FILTER_FLAGS[flag]);
  return asks || bits.includes(undefined) ? undefined : bits.reduce<number>((all, bit = 0) => all | bit, 0);
}

/** Whether native/exec-join.c can be told of this process, and has all that it asks for: a terminal is the runtime's. */
export function canExecute({ terminal, user, args, env }: OciProcess): boolean {
  const bytes = [...args, ...env].reduce((sum, text) => sum + Buffer.byteLength(text) + 1, 0);
  // A variable without a value, or a name: the runtime says so. A name that is a number would lose its place.
  const canBeTold = env.every((entry) => /^[^=]*[^=0-9][^=]*=/.test(entry));
  const ids = [user.uid, user.gid, ...user.additionalGids];
  return (
    !terminal &&
    canBeTold &&
    bytes <= MOST_BYTES &&
    ids.every((id) => id >= 0 && id <= LAST_ID) &&
    ids.length <= MOST_IDS
  );
}

/** A pidfd of the container's first process. Throws `precondition` when it has ended. */
export function openInit(containerId: string, { pid, startTime }: ProcessIdentity): number {
  const pidfd = openProcess(pid, startTime);
  if (pidfd !== undefined) return pidfd;
  throw new BerthError('precondition', `container ${containerId} does not run: its first process has ended`);
}

/** The arguments of exec-join for a command. */
export function joinArgs(
  containerId: string,
  { cgroups, filter }: Joinable,
  process: OciProcess,
  files: { readonly pid: string; readonly log: string },
): string[] {
  const { user, capabilities, rlimits } = process;
  return [
    `pid-file=${files.pid}`,
    `log=${files.log}`,
    ...cgroups.v1.map((folder) => `cgroup=${folder}`),
    `unified=${cgroups.unified ?? ''}`,
    `unified-of-init=${cgroups.unifiedOfInit ?? ''}`,
    `cwd=${process.cwd}`,
    `uid=${user.uid}`,
    `gid=${user.gid}`,
    ...user.additionalGids.map((gid) => `group=${gid}`),
    ...SETS.map((set) => `${set}=${capabilityBits(capabilities[set])}`),
    `no-new-privs=${process.noNewPrivileges ? 1 : 0}`,
    ...rlimits.map(({ type, soft, hard }) => `rlimit=${RESOURCES.indexOf(type)}:${limitOf(soft)}:${limitOf(hard)}`),
    // As runc names it: a container's commands share its first process's keys.
    `keyring=_ses.${containerId}`,
    `apparmor=${process.apparmorProfile ?? ''}`,
    ...(filter === 'none' ? ['filter=none'] : [`filter=${filter.file}`, `filter-flags=${filter.flags}`]),
    '--',
    ...process.args,
  ];
}

/** The environment of a command that canExecute(); of a variable that is there twice the last one counts, as with runc. */
export function joinEnv({ env }: OciProcess): Record<string, string> {
  return Object.fromEntries(
    env.map((entry) => {
      const at = entry.indexOf('=');
      return [entry.slice(0, at), entry.slice(at + 1)];
    }),
  );
}

function limitOf(value: number): string {
  const limit = Number.isFinite(value) ? BigInt(Math.trunc(value)) : UNLIMITED;
  return String(limit > UNLIMITED ? UNLIMITED : limit);
}
