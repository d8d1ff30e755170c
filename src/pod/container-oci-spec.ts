import { join } from 'node:path';

import { BerthError, invalid } from '../base/errors.ts';
import { resolveCapabilities } from '../runtime/capabilities.ts';
import { applyEdits } from '../runtime/cdi/apply-edits.ts';
import { requestedCdiDevices } from '../runtime/cdi/cdi-devices.ts';
import type { ContainerSpec, NamespaceMode } from '../runtime/container-spec.ts';
import { resolveDevices } from '../runtime/devices.ts';
import { addHooks } from '../runtime/hooks/add-hooks.ts';
import { type MappedMount, resolveMounts } from '../runtime/mounts.ts';
import type { OciMount, OciSpec } from '../runtime/oci-spec.ts';
import type { ProcessIdentity } from '../runtime/process-identity.ts';
import { relabelTree } from '../runtime/relabel.ts';
import { buildSpec } from '../runtime/spec.ts';
import type { NamespaceSource, SpecSandbox } from '../runtime/spec-input.ts';
import { listUser, resolveUser } from '../runtime/users.ts';
import { readMounts } from '../sys/mount.ts';
import { imageOf } from './container-image.ts';
import type { PodDeps } from './pod-deps.ts';
import type { ContainerRecord, ResolvedUser, SandboxRecord } from './records.ts';
import { sandboxPaths } from './sandbox-files.ts';
import { selinuxLabels } from './selinux-labels.ts';

/** A container's config.json, and who its first process is. */
export interface BuiltSpec {
  readonly spec: OciSpec;
  /** Mounts whose files must be seen under the ids of the pod's user namespace. */
  readonly mapped: readonly MappedMount[];
  readonly user: ResolvedUser;
  /** The process whose PID namespace the container joins by its pid: only while it is still that one. */
  readonly target: ProcessIdentity | undefined;
}

/** What was mounted for a container. */
export interface MountedImages {
  readonly rootfs: string;
  /** Where the images of its image volumes are, by the position of their mounts. */
  readonly imageSources: ReadonlyMap<number, string>;
}

/**
 * Looks up what a container's config.json depends on (its mounted root filesystem, its image, its sandbox, the host)
 * and builds it. Throws `invalid` naming the CRI's field for what its client got wrong.
 */
export async function buildContainerSpec(
  deps: PodDeps,
  record: ContainerRecord,
  { rootfs, imageSources }: MountedImages,
  signal: AbortSignal,
): Promise<BuiltSpec> {
  const { spec } = record;
  const { security } = spec;
  const sandbox = deps.sandboxes.get(record.sandboxId);
  const image = imageOf(deps, record.imageId);
  const handler = deps.handlers.get(record.handler);
  const deviceEdits = await deps.security.cdi.resolve(requestedCdiDevices(spec));
  const user = resolveUser({ rootfs, imageUser: image.config.user, security });
  listUser(rootfs, user);
  const capabilities = resolveCapabilities({
    wanted: security.capabilities,
    privileged: security.privileged,
    uid: user.uid,
    defaults: deps.security.defaultCapabilities,
    host: deps.security.hostCapabilities,
  });
  if (capabilities.missing.length > 0) {
    deps.log.warn(
      { container: record.id, missing: capabilities.missing },
      'this host cannot give capabilities that the container asks for',
    );
  }
  const mounts = await resolveMounts(spec.mounts, {
    recursiveReadOnly: handler.features.recursiveReadOnlyMounts,
    userNamespace: sandbox.spec.security.namespaces.user,
    handler: handler.name,
    imageSources,
    readHostMounts: readMounts,
  });
  const selinux = selinuxLabels(deps, sandbox, security);
  if (selinux) await relabelVolumes(spec, mounts.mounts, selinux.files, signal);
  const built = buildSpec({
    spec,
    sandbox: specSandbox(deps, sandbox, record),
    image: image.config,
    user,
    capabilities: capabilities.sets,
    seccomp: security.privileged
      ? undefined
      : deps.security.seccomp.resolve(security.seccomp, capabilities.sets.bounding),
    apparmorProfile: security.privileged ? undefined : await deps.security.apparmor.resolve(security.apparmor, signal),
    selinux,
    devices: resolveDevices(spec.devices, security.privileged && !handler.privilegedWithoutHostDevices),
    mounts,
    rootfs,
    cgroupsPath: deps.cgroups.containerCgroupsPath(sandbox.spec.cgroupParent, record.id),
    cgroupAnnotations: deps.cgroups.containerAnnotations(spec.resources, deps.security.pidsLimit),
    pidsLimit: deps.security.pidsLimit,
    defaultEnv: deps.security.defaultEnv,
    ulimits: deps.security.ulimits,
    visibleAnnotations: handler.annotations,
    host: deps.host,
  });
  const ociSpec = await withHooks(deps, sandbox, spec, applyEdits(built, deviceEdits));
  const { uid, gid, additionalGids } = ociSpec.process.user;
  const resolved = { uid, gid, supplementalGroups: additionalGids };
  const target = security.namespaces.pid === 'target' ? targetOf(deps, record) : undefined;
  return { spec: ociSpec, mapped: mounts.mapped, user: resolved, target };
}

/** The client's own volumes, where it says so: the container could not open their files under another label. */
async function relabelVolumes(
  { mounts }: ContainerSpec,
  resolved: readonly OciMount[],
  label: string,
  signal: AbortSignal,
): Promise<void> {
  for (const [index, { selinuxRelabel, image }] of mounts.entries()) {
    const source = resolved[index]?.source;
    if (selinuxRelabel && !image && source !== undefined) await relabelTree(source, label, signal);
  }
}

/** Adds the hooks of this node. They see the pod's annotations too, as CRI-O's do: the kubelet gives containers few. */
async function withHooks(
  { security }: PodDeps,
  sandbox: SandboxRecord,
  { annotations, mounts }: ContainerSpec,
  spec: OciSpec,
): Promise<OciSpec> {
  const hooks = await security.hooks.hooksFor({
    command: spec.process.args[0] ?? '',
    annotations: { ...sandbox.spec.annotations, ...annotations },
    hasBindMounts: mounts.some(({ image }) => !image),
  });
  return addHooks(spec, hooks);
}

function specSandbox(deps: PodDeps, sandbox: SandboxRecord, record: ContainerRecord): SpecSandbox {
  const { spec } = sandbox;
  const paths = sandboxPaths(deps, sandbox.id);
  // What the sandbox has made is joined; a container on the host's has nothing to join.
  const shared = (mode: NamespaceMode, kind: string): NamespaceSource =>
    mode === 'pod' ? { path: join(paths.namespaces, kind) } : 'host';
  const { network, ipc, user } = spec.security.namespaces;
  return {
    userNamespace: user && { path: join(paths.namespaces, 'user'), maps: user },
    id: sandbox.id,
    name: spec.name,
    namespace: spec.namespace,
    uid: spec.uid,
    annotations: spec.annotations,
    hostname: sandbox.hostname,
    namespaces: {
      network: shared(network, 'net'),
      uts: shared(network, 'uts'),
      ipc: shared(ipc, 'ipc'),
      pid: pidNamespace(deps, sandbox, record),
    },
    files: {
      resolvConf: paths.resolvConf,
      hostname: paths.hostname,
      hosts: paths.hosts,
      shm: ipc === 'node' ? '/dev/shm' : paths.shm,
    },
  };
}

function pidNamespace(deps: PodDeps, sandbox: SandboxRecord, record: ContainerRecord): NamespaceSource {
  switch (record.spec.security.namespaces.pid) {
    case 'container':
      return 'new';
    case 'node':
      return 'host';
    case 'pod':
      // The wire's zero value: as the pod has it.
      switch (sandbox.spec.security.namespaces.pid) {
        case 'pod':
          return { path: join(sandboxPaths(deps, sandbox.id).namespaces, 'pid') };
        case 'node':
          return 'host';
        default:
          return 'new';
      }
    case 'target':
      return { path: `/proc/${targetOf(deps, record).pid}/ns/pid` };
  }
}

function targetOf(deps: PodDeps, { spec, sandboxId }: ContainerRecord): ProcessIdentity {
  const field = 'config.linux.security_context.namespace_options.target_id';
  const { targetId } = spec.security.namespaces;
  const target = deps.containers.find(targetId);
  if (target?.sandboxId !== sandboxId) throw invalid(field, `${targetId} is no container of this sandbox`);
  if (target.state !== 'running' || !target.init)
    throw new BerthError('precondition', `${field}: container ${target.id} does not run`);
  return target.init;
}
