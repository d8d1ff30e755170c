import { matchesGlob } from '../base/glob.ts';
import type { IdMapping } from '../base/id-mapping.ts';
import type { LinuxResources, UserNamespaceSpec } from './container-spec.ts';
import type { OciIdMapping, OciLinux, OciNamespace, OciSpec } from './oci-spec.ts';
import type { SpecInput } from './spec-input.ts';
import { buildMounts } from './spec-mounts.ts';
import { buildProcess } from './spec-process.ts';
import { toOciResources } from './spec-resources.ts';

/** The oldest version whose fields suffice: runc 1.1 and crun 1.8 accept it, and so does what came after. */
const OCI_VERSION = '1.0.2';

const MASKED_PATHS: readonly string[] = Object.freeze([
  '/proc/acpi',
  '/proc/asound',
  '/proc/interrupts',
  '/proc/kcore',
  '/proc/keys',
  '/proc/latency_stats',
  '/proc/sched_debug',
  '/proc/scsi',
  '/proc/timer_list',
  '/proc/timer_stats',
  '/sys/devices/virtual/powercap',
  '/sys/firmware',
]);

const READONLY_PATHS: readonly string[] = Object.freeze([
  '/proc/bus',
  '/proc/fs',
  '/proc/irq',
  '/proc/sys',
  '/proc/sysrq-trigger',
]);

/** A new cgroup has no quota, and crun 1.8 cannot write the -1 that says so on v1. */
function ofNewCgroup({ cpuQuotaUs, ...others }: LinuxResources): LinuxResources {
  return cpuQuotaUs !== undefined && cpuQuotaUs > 0 ? { ...others, cpuQuotaUs } : others;
}

/**
 * The OCI configuration of a container. Pure: whatever must be looked up on the host comes in. Throws `invalid` naming
 * the CRI's field for what a client got wrong.
 */
export function buildSpec(input: SpecInput): OciSpec {
  const { spec, mounts } = input;
  const { security } = spec;
  const resources = toOciResources(ofNewCgroup(spec.resources), input.host);
  return {
    ociVersion: OCI_VERSION,
    process: buildProcess(input),
    root: { path: input.rootfs, readonly: security.readonlyRootfs },
    mounts: buildMounts(input.sandbox.files, mounts, { ...security, bindSys: mustBindSys(input.sandbox) }),
    annotations: buildAnnotations(input),
    linux: {
      namespaces: buildNamespaces(input),
      ...idMappings(input.sandbox.userNamespace?.maps),
      devices: input.devices.nodes,
      cgroupsPath: input.cgroupsPath,
      resources: {
        ...resources,
        devices: input.devices.rules,
        ...(input.pidsLimit !== undefined ? { pids: { limit: input.pidsLimit } } : {}),
      },
      ...(input.selinux ? { mountLabel: input.selinux.files } : {}),
      ...(mounts.rootfsPropagation !== undefined ? { rootfsPropagation: mounts.rootfsPropagation } : {}),
      ...(input.seccomp !== undefined && !security.privileged ? { seccomp: input.seccomp } : {}),
      maskedPaths: security.privileged ? [] : choosePaths(security.maskedPaths, MASKED_PATHS),
      readonlyPaths: security.privileged ? [] : choosePaths(security.readonlyPaths, READONLY_PATHS),
    },
  };
}

// A client's list is often older than the leak it should cover, so ours goes on top. An empty one is a wish of its own:
// procMount "Unmasked".
function choosePaths(wanted: readonly string[] | undefined, defaults: readonly string[]): readonly string[] {
  if (wanted === undefined) return defaults;
  if (wanted.length === 0) return [];
  return [...new Set([...wanted, ...defaults])];
}

function buildNamespaces({ spec, sandbox, host }: SpecInput): OciNamespace[] {
  const namespaces: OciNamespace[] = [{ type: 'mount' }];
  if (sandbox.userNamespace) namespaces.push({ type: 'user', path: sandbox.userNamespace.path });
  // A privileged one sees all cgroups (KEP-2254): agents that manage the node's depend on it. In a user namespace none
  // of the host's could be mounted.
  const seesAll = spec.security.privileged && !sandbox.userNamespace;
  if (host.cgroupVersion === 2 && !seesAll) namespaces.push({ type: 'cgroup' });
  for (const type of ['network', 'ipc', 'uts', 'pid'] as const) {
    const source = sandbox.namespaces[type];
    if (source === 'new') namespaces.push({ type });
    else if (source !== 'host') namespaces.push({ type, path: source.path });
  }
  return namespaces;
}

function mustBindSys({ userNamespace, namespaces }: SpecInput['sandbox']): boolean {
  return userNamespace !== undefined && namespaces.network === 'host';
}

// The namespace has its maps already, but runc before 1.2 wants to be told.
function idMappings(maps: UserNamespaceSpec | undefined): Pick<OciLinux, 'uidMappings' | 'gidMappings'> {
  if (!maps) return {};
  const toOci = ({ containerId, hostId, length }: IdMapping): OciIdMapping => ({
    containerID: containerId,
    hostID: hostId,
    size: length,
  });
  return { uidMappings: maps.uids.map(toOci), gidMappings: maps.gids.map(toOci) };
}

// Handlers that run virtual machines read these. Of the client's own only those that the node's owner has allowed get
// in: several runtimes take orders from annotations, and a pod's author must not give any.
function buildAnnotations({ spec, sandbox, visibleAnnotations, cgroupAnnotations }: SpecInput): Record<string, string> {
  const asked = Object.entries({ ...sandbox.annotations, ...spec.annotations });
  return {
    ...Object.fromEntries(asked.filter(([name]) => visibleAnnotations.some((pattern) => matchesGlob(name, pattern)))),
    ...cgroupAnnotations,
    'io.kubernetes.cri.container-type': 'container',
    'io.kubernetes.cri.container-name': spec.name,
    'io.kubernetes.cri.image-name': spec.image.userSpecified || spec.image.reference,
    'io.kubernetes.cri.sandbox-id': sandbox.id,
    'io.kubernetes.cri.sandbox-name': sandbox.name,
    'io.kubernetes.cri.sandbox-namespace': sandbox.namespace,
    'io.kubernetes.cri.sandbox-uid': sandbox.uid,
  };
}
