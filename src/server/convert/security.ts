import {
  type Capability,
  type IDMapping,
  type LinuxContainerSecurityContext,
  type LinuxSandboxSecurityContext,
  type NamespaceOption,
  NamespaceMode as ProtoNamespaceMode,
  type SecurityProfile as ProtoProfile,
  SecurityProfile_ProfileType as ProtoProfileType,
  type SELinuxOption,
  SupplementalGroupsPolicy,
  type UserNamespace,
} from '../../../proto/gen/cri/api.ts';
import { invalid } from '../../base/errors.ts';
import type { IdMapping } from '../../base/id-mapping.ts';
import type { SandboxSecurity } from '../../pod/sandbox-spec.ts';
import type {
  Capabilities,
  ContainerSecurity,
  NamespaceMode,
  NamespaceModes,
  SecurityProfile,
  SelinuxOptions,
  UserNamespaceSpec,
} from '../../runtime/container-spec.ts';
import { toNumber } from './numbers.ts';
import { requirePath } from './paths.ts';

/** The largest id that the kernel gives to a user or group; the one above means "none". */
const MAX_ID = 2 ** 32 - 2;

/** A sandbox's security context; an absent one is that of a plain pod. Throws `invalid`. */
export function sandboxSecurityFromProto(
  proto: LinuxSandboxSecurityContext | undefined,
  field: string,
): SandboxSecurity {
  const runAsUser = optionalId(proto?.runAsUser?.value, `${field}.run_as_user`);
  const runAsGroup = optionalId(proto?.runAsGroup?.value, `${field}.run_as_group`);
  if (runAsGroup !== undefined && runAsUser === undefined)
    throw invalid(`${field}.run_as_group`, 'is given without run_as_user');
  return {
    namespaces: namespacesFromProto(proto?.namespaceOptions, `${field}.namespace_options`),
    privileged: proto?.privileged ?? false,
    selinux: selinuxFromProto(proto?.selinuxOptions, `${field}.selinux_options`),
    runAsUser,
    runAsGroup,
    readonlyRootfs: proto?.readonlyRootfs ?? false,
    supplementalGroups: groups(proto?.supplementalGroups, `${field}.supplemental_groups`),
    supplementalGroupsPolicy: groupsPolicy(proto?.supplementalGroupsPolicy, `${field}.supplemental_groups_policy`),
    seccomp:
      profileFromProto(proto?.seccomp, `${field}.seccomp`) ??
      profileFromName(proto?.seccompProfilePath, `${field}.seccomp_profile_path`),
    apparmor: profileFromProto(proto?.apparmor, `${field}.apparmor`),
  };
}

/** A container's security context; an absent one is that of a plain container. Throws `invalid`. */
export function containerSecurityFromProto(
  proto: LinuxContainerSecurityContext | undefined,
  field: string,
): ContainerSecurity {
  const runAsUser = optionalId(proto?.runAsUser?.value, `${field}.run_as_user`);
  const runAsGroup = optionalId(proto?.runAsGroup?.value, `${field}.run_as_group`);
  const runAsUsername = proto?.runAsUsername ?? '';
  if (runAsGroup !== undefined && runAsUser === undefined && runAsUsername === '') {
    throw invalid(`${field}.run_as_group`, 'is given without run_as_user or run_as_username');
  }
  return {
    capabilities: capabilitiesFromProto(proto?.capabilities),
    privileged: proto?.privileged ?? false,
    namespaces: namespacesFromProto(proto?.namespaceOptions, `${field}.namespace_options`),
    selinux: selinuxFromProto(proto?.selinuxOptions, `${field}.selinux_options`),
    runAsUser,
    runAsGroup,
    runAsUsername,
    readonlyRootfs: proto?.readonlyRootfs ?? false,
    supplementalGroups: groups(proto?.supplementalGroups, `${field}.supplemental_groups`),
    supplementalGroupsPolicy: groupsPolicy(proto?.supplementalGroupsPolicy, `${field}.supplemental_groups_policy`),
    noNewPrivs: proto?.noNewPrivs ?? false,
    // The wire cannot tell an empty list from none. A client that sends a security context means what it says, which is
    // how procMount "Unmasked" arrives; one that sends none gets the defaults.
    maskedPaths: proto ? absolutePaths(proto.maskedPaths, `${field}.masked_paths`) : undefined,
    readonlyPaths: proto ? absolutePaths(proto.readonlyPaths, `${field}.readonly_paths`) : undefined,
    seccomp:
      profileFromProto(proto?.seccomp, `${field}.seccomp`) ??
      profileFromName(proto?.seccompProfilePath, `${field}.seccomp_profile_path`),
    apparmor:
      profileFromProto(proto?.apparmor, `${field}.apparmor`) ??
      profileFromName(proto?.apparmorProfile, `${field}.apparmor_profile`),
  };
}

const NAMESPACE_MODES: Readonly<Record<number, NamespaceMode>> = Object.freeze({
  [ProtoNamespaceMode.POD]: 'pod',
  [ProtoNamespaceMode.CONTAINER]: 'container',
  [ProtoNamespaceMode.NODE]: 'node',
  [ProtoNamespaceMode.TARGET]: 'target',
});

function namespacesFromProto(proto: NamespaceOption | undefined, field: string): NamespaceModes {
  const mode = (value: number | undefined, name: string): NamespaceMode => {
    const known = NAMESPACE_MODES[value ?? ProtoNamespaceMode.POD];
    if (!known) throw invalid(`${field}.${name}`, `${value} is not a namespace mode`);
    return known;
  };
  const modes: NamespaceModes = {
    network: mode(proto?.network, 'network'),
    pid: mode(proto?.pid, 'pid'),
    ipc: mode(proto?.ipc, 'ipc'),
    targetId: proto?.targetId ?? '',
    user: userNamespaceFromProto(proto?.usernsOptions, `${field}.userns_options`),
  };
  if (modes.pid === 'target' && modes.targetId === '')
    throw invalid(`${field}.target_id`, 'is empty, and pid is TARGET');
  return modes;
}

function userNamespaceFromProto(proto: UserNamespace | undefined, field: string): UserNamespaceSpec | undefined {
  if (!proto || proto.mode === ProtoNamespaceMode.NODE) return undefined;
  if (proto.mode !== ProtoNamespaceMode.POD) throw invalid(`${field}.mode`, 'must be POD or NODE');
  return { uids: mappingsFromProto(proto.uids), gids: mappingsFromProto(proto.gids) };
}

/** Id mappings in the domain's form. */
export function mappingsFromProto(mappings: readonly IDMapping[]): IdMapping[] {
  return mappings.map(({ hostId, containerId, length }) => ({ hostId, containerId, length }));
}

function profileFromProto(proto: ProtoProfile | undefined, field: string): SecurityProfile | undefined {
  if (!proto) return undefined;
  switch (proto.profileType) {
    case ProtoProfileType.RuntimeDefault:
      return { type: 'runtimeDefault' };
    case ProtoProfileType.Unconfined:
      return { type: 'unconfined' };
    case ProtoProfileType.Localhost:
      if (proto.localhostRef === '') throw invalid(`${field}.localhost_ref`, 'is empty, and profile_type is Localhost');
      return { type: 'localhost', reference: proto.localhostRef };
    default:
      throw invalid(`${field}.profile_type`, `${proto.profileType} is not a profile type`);
  }
}

// The deprecated fields, which kubelets up to 1.30 fill, and some clients still do: what SecurityProfile says in a word.
function profileFromName(name: string | undefined, field: string): SecurityProfile | undefined {
  if (name === undefined || name === '') return undefined;
  if (name === 'unconfined') return { type: 'unconfined' };
  if (name === 'runtime/default' || name === 'docker/default') return { type: 'runtimeDefault' };
  const reference = name.startsWith('localhost/') ? name.slice('localhost/'.length) : '';
  if (reference === '')
    throw invalid(field, `${JSON.stringify(name)} is none of runtime/default, unconfined and localhost/NAME`);
  return { type: 'localhost', reference };
}

// Checked also where nothing comes of it: a label is put together from these, and goes into options of mounts.
function selinuxFromProto(proto: SELinuxOption | undefined, field: string): SelinuxOptions | undefined {
  if (!proto) return undefined;
  for (const part of ['user', 'role', 'type'] as const) {
    if (!/^[\w.-]*$/.test(proto[part]))
      throw invalid(`${field}.${part}`, `${JSON.stringify(proto[part])} is no part of a label`);
  }
  if (!/^(s\d[sc\d.,:-]*)?$/.test(proto.level))
    throw invalid(`${field}.level`, `${JSON.stringify(proto.level)} is not a level such as s0:c12,c34`);
  const { user, role, type, level } = proto;
  return user + role + type + level === '' ? undefined : { user, role, type, level };
}

function capabilitiesFromProto(proto: Capability | undefined): Capabilities {
  const names = (list: readonly string[] | undefined): string[] =>
    (list ?? []).map((name) => name.toUpperCase().replace(/^CAP_/, ''));
  return {
    add: names(proto?.addCapabilities),
    drop: names(proto?.dropCapabilities),
    addAmbient: names(proto?.addAmbientCapabilities),
  };
}

function optionalId(value: bigint | undefined, field: string): number | undefined {
  return value === undefined ? undefined : toNumber(value, field, { min: 0, max: MAX_ID });
}

function groups(values: readonly bigint[] | undefined, field: string): number[] {
  return (values ?? []).map((value, index) => toNumber(value, `${field}[${index}]`, { min: 0, max: MAX_ID }));
}

function groupsPolicy(value: number | undefined, field: string): 'merge' | 'strict' {
  if (value === undefined || value === SupplementalGroupsPolicy.Merge) return 'merge';
  if (value === SupplementalGroupsPolicy.Strict) return 'strict';
  throw invalid(field, `${value} is not a policy`);
}

function absolutePaths(paths: readonly string[], field: string): string[] {
  for (const [index, path] of paths.entries()) requirePath(path, `${field}[${index}]`);
  return [...paths];
}
