import { realpath } from 'node:fs/promises';
import { posix } from 'node:path';
import { isDeepStrictEqual } from 'node:util';

import { BerthError, invalid, wrap } from '../base/errors.ts';
import { makeFoldersAside } from '../base/make-folders.ts';
import type { MountInfo } from '../sys/mount-info.ts';
import type { MountSpec, UserNamespaceSpec } from './container-spec.ts';
import type { OciMount } from './oci-spec.ts';

/** A mount of the host, as far as propagation depends on it. */
export type HostMount = Pick<MountInfo, 'mountPoint' | 'propagation'>;

/** What resolving needs to know of the host and the handler. */
export interface MountAbilities {
  readonly recursiveReadOnly: boolean;
  /** The pod's, where it has one of its own. */
  readonly userNamespace?: UserNamespaceSpec | undefined;
  /** Name of the handler, for messages. */
  readonly handler: string;
  /** Where the images of image volumes are mounted, by the position of their mount; see openImagePath(). */
  readonly imageSources?: ReadonlyMap<number, string>;
  /** Called only when a mount asks for propagation. Later entries lie on top of earlier ones. */
  readHostMounts(): readonly HostMount[];
}

/** A client's mounts, ready for config.json. */
export interface ResolvedMounts {
  readonly mounts: readonly OciMount[];
  /** Those of them whose files must be seen under the ids of the pod's user namespace. */
  readonly mapped: readonly MappedMount[];
  /** What the container's root must be for its mounts to propagate as asked. */
  readonly rootfsPropagation: 'rshared' | 'rslave' | undefined;
}

/** A mount that must be bound with its ids mapped before the runtime gets it. */
export interface MappedMount {
  /** The CRI's field, for errors. */
  readonly field: string;
  readonly mount: OciMount;
}

/** Options that a client may add: they take rights away or concern access times; none changes what is mounted. */
const ALLOWED_OPTIONS: ReadonlySet<string> = new Set([
  'noatime',
  'nodev',
  'nodiratime',
  'noexec',
  'nosuid',
  'relatime',
  'strictatime',
]);

const PROPAGATION = { private: 'rprivate', hostToContainer: 'rslave', bidirectional: 'rshared' } as const;

/**
 * Checks a client's mounts against the host and turns them into the OCI's. Host paths are resolved through symbolic
 * links. Throws `invalid` naming the field: a source that is missing, a path that is not absolute, propagation that the
 * source cannot give, recursive read-only where it cannot be had.
 */
export async function resolveMounts(mounts: readonly MountSpec[], abilities: MountAbilities): Promise<ResolvedMounts> {
  const resolved: OciMount[] = [];
  const mapped: MappedMount[] = [];
  for (const [i, mount] of mounts.entries()) {
    const field = `config.mounts[${i}]`;
    if (mount.image) {
      // Its layers are under the ids of the pod already.
      resolved.push(resolveImageMount(field, mount, abilities.imageSources?.get(i)));
      continue;
    }
    const oci = await resolveMount(field, mount, abilities);
    resolved.push(oci);
    if (wantsMapping(field, mount, abilities.userNamespace)) mapped.push({ field, mount: oci });
  }
  return { mounts: resolved, mapped, rootfsPropagation: neededPropagation(mounts) };
}

function neededPropagation(mounts: readonly MountSpec[]): ResolvedMounts['rootfsPropagation'] {
  if (mounts.some((mount) => mount.propagation === 'bidirectional')) return 'rshared';
  return mounts.some((mount) => mount.propagation === 'hostToContainer') ? 'rslave' : undefined;
}

async function resolveMount(field: string, mount: MountSpec, abilities: MountAbilities): Promise<OciMount> {
  const destination = checkDestination(`${field}.container_path`, mount.containerPath);
  checkReadOnly(field, mount, abilities);
  checkOptions(field, mount);
  const source = await resolveSource(`${field}.host_path`, mount.hostPath);
  if (mount.propagation !== 'private') checkPropagation(field, mount, source, abilities.readHostMounts());
  return {
    destination,
    type: 'bind',
    source,
    options: ['rbind', PROPAGATION[mount.propagation], accessOption(mount), ...mount.options],
  };
}

// Nothing is mounted below an image, so that read-only is read-only all the way down.
function resolveImageMount(field: string, mount: MountSpec, source: string | undefined): OciMount {
  if (source === undefined) throw new BerthError('internal', `${field}.image is not mounted`);
  checkOptions(field, mount);
  return {
    destination: checkDestination(`${field}.container_path`, mount.containerPath),
    type: 'bind',
    source,
    options: ['rbind', 'rprivate', 'ro', 'nosuid', 'nodev', ...mount.options],
  };
}

function checkOptions(field: string, { options }: MountSpec): void {
  const bad = options.find((option) => !ALLOWED_OPTIONS.has(option));
  if (bad !== undefined) throw invalid(`${field}.mount_options`, `${JSON.stringify(bad)} is not allowed`);
}

// Other maps than the pod's would show the files to ids that no process of the pod has.
function wantsMapping(
  field: string,
  { uidMappings, gidMappings }: MountSpec,
  pod: UserNamespaceSpec | undefined,
): boolean {
  if (uidMappings.length + gidMappings.length === 0) return false;
  if (!pod) throw invalid(`${field}.uid_mappings`, 'need a pod with a user namespace');
  if (!isDeepStrictEqual([uidMappings, gidMappings], [pod.uids, pod.gids]))
    throw invalid(`${field}.uid_mappings`, "must be the mappings of the pod's user namespace");
  return true;
}

function accessOption(mount: MountSpec): string {
  if (!mount.readonly) return 'rw';
  return mount.recursiveReadOnly ? 'rro' : 'ro';
}

function checkDestination(field: string, path: string): string {
  if (!path.startsWith('/')) throw invalid(field, `${JSON.stringify(path)} is not absolute`);
  if (path.includes('\0')) throw invalid(field, 'has a NUL byte in it');
  const normal = posix.normalize(path).replace(/(.)\/$/, '$1');
  if (normal === '/') throw invalid(field, 'is the root of the container');
  return normal;
}

// The CRI's own rule for recursive_read_only, word for word.
function checkReadOnly(field: string, mount: MountSpec, abilities: MountAbilities): void {
  if (!mount.recursiveReadOnly) return;
  const at = `${field}.recursive_read_only`;
  if (!mount.readonly) throw invalid(at, 'needs readonly');
  if (mount.propagation !== 'private') throw invalid(at, 'needs private propagation');
  // The first word is the kubelet's own (cri-api, pkg/errors), which it looks for.
  if (!abilities.recursiveReadOnly)
    throw invalid(at, `RROUnsupported: runtime handler ${abilities.handler} cannot do it on this host`);
}

/** The real path; a folder is made where there is nothing, as the other runtimes do it. */
async function resolveSource(field: string, path: string): Promise<string> {
  if (!path.startsWith('/')) throw invalid(field, `${JSON.stringify(path)} is not absolute`);
  if (path.includes('\0')) throw invalid(field, 'has a NUL byte in it');
  try {
    return await realpath(path).catch(async (err: unknown) => {
      if (!isErrorWithCode(err, 'ENOENT')) throw err;
      // Volumes without a type are not looked at by the kubelet, and pods count on the folder that other runtimes make.
      await makeFoldersAside(path, 0o755);
      return await realpath(path);
    });
  } catch (err) {
    if (err instanceof Error && 'code' in err) {
      if (err.code === 'EEXIST') throw invalid(field, `${path} is a symbolic link to nowhere`);
      if (err.code === 'ENOENT') throw invalid(field, `${path} does not exist, and no folder can be made there`);
      if (err.code === 'ENOTDIR') throw invalid(field, `${path} does not exist: a part of it is no folder`);
      if (err.code === 'ELOOP') throw invalid(field, `${path} is a loop of symbolic links`);
    }
    throw wrap(`${field} ${path}`, err);
  }
}

function checkPropagation(field: string, mount: MountSpec, source: string, hostMounts: readonly HostMount[]): void {
  const holder = findHostMount(source, hostMounts);
  const has = (kind: string): boolean => holder?.propagation.some((field) => field.startsWith(kind)) ?? false;
  if (has('shared:') || (mount.propagation === 'hostToContainer' && has('master:'))) return;
  const where = holder ? `the mount ${holder.mountPoint} that holds it` : 'the mount that holds it';
  const needed = mount.propagation === 'bidirectional' ? 'shared' : 'shared or slave';
  throw invalid(`${field}.propagation`, `${source} cannot propagate mounts: ${where} is not ${needed}`);
}

/** The mount that `path` lies on: the longest mount point above it, of several on the same point the last. */
export function findHostMount(path: string, hostMounts: readonly HostMount[]): HostMount | undefined {
  let found: HostMount | undefined;
  for (const mount of hostMounts) {
    const point = mount.mountPoint;
    const holds = point === '/' || path === point || path.startsWith(`${point}/`);
    if (holds && point.length >= (found?.mountPoint.length ?? 0)) found = mount;
  }
  return found;
}

function isErrorWithCode(err: unknown, code: string): boolean {
  return err instanceof Error && 'code' in err && err.code === code;
}
