import { constants, readdirSync, realpathSync } from 'node:fs';
import { posix } from 'node:path';

import { BerthError, invalid } from '../base/errors.ts';
import { AT_FDCWD, type FileFacts, fstatat } from '../sys/at.ts';
import { isErrno } from '../sys/errno.ts';
import type { DeviceSpec } from './container-spec.ts';
import type { OciDevice, OciDeviceRule } from './oci-spec.ts';

/** What a container may do with devices: nodes below its root, and rules for its device cgroup. */
export interface ResolvedDevices {
  readonly nodes: readonly OciDevice[];
  readonly rules: readonly OciDeviceRule[];
}

/** A device of the host. */
export interface HostDevice {
  readonly path: string;
  readonly type: 'b' | 'c';
  readonly facts: FileFacts;
}

/** Below /dev, and none of a container's business: terminals and file systems that it has its own of. */
const SKIPPED_FOLDERS: ReadonlySet<string> = new Set(['pts', 'shm', 'fd', 'mqueue', '.lxc', '.lxd-mounts', '.udev']);
const MAX_DEVICES = 10_000;
const EVERYTHING = 'rwm';

/**
 * The devices of a container. The OCI runtimes themselves add those that every container has (null, zero, full, random,
 * urandom, tty, the terminals) with their rules; all others are denied. A host path may be a link, or a folder below
 * /dev, which stands for all devices in it. `all`: every device of the host, and no rule against any.
 * Throws `invalid` by field for what is not there, not a device, or not a permission.
 */
export function resolveDevices(specs: readonly DeviceSpec[], all: boolean): ResolvedDevices {
  const nodes = new Map<string, OciDevice>();
  const own = new Map<string, HostDevice>();
  const rules: OciDeviceRule[] = [{ allow: all, access: EVERYTHING }];
  if (all) for (const device of hostDevices()) nodes.set(device.path, toNode(device.path, device));
  for (const [index, spec] of specs.entries()) {
    const field = `config.devices[${index}]`;
    const access = checkPermissions(`${field}.permissions`, spec.permissions);
    const containerPath = checkPath(`${field}.container_path`, spec.containerPath || spec.hostPath);
    for (const { device, below } of findDevices(`${field}.host_path`, spec.hostPath)) {
      const path = posix.join(containerPath, below);
      const known = own.get(path);
      // Said twice it is the same; OCI runtimes would make one of two, and the rules allow both.
      if (known && !isSameDevice(known, device))
        throw invalid(`${field}.container_path`, `${path} is that of another device too, ${known.path}`);
      own.set(path, device);
      nodes.set(path, toNode(path, device));
      const { type, facts } = device;
      if (!all) rules.push({ allow: true, type, major: facts.rdevMajor, minor: facts.rdevMinor, access });
    }
  }
  return { nodes: [...nodes.values()], rules };
}

/** All device files below a folder, /dev by default. Links aren't followed. */
export function hostDevices(top = '/dev'): HostDevice[] {
  const devices: HostDevice[] = [];
  const folders = [top];
  for (let folder = folders.pop(); folder !== undefined; folder = folders.pop()) {
    for (const entry of readFolder(folder)) {
      const path = posix.join(folder, entry.name);
      if (entry.isDirectory() && !SKIPPED_FOLDERS.has(entry.name)) folders.push(path);
      if (!entry.isBlockDevice() && !entry.isCharacterDevice()) continue;
      // Each container has a console of its own there.
      const device = path === '/dev/console' ? undefined : findDevice(path);
      if (device) devices.push(device);
      if (devices.length > MAX_DEVICES)
        throw new BerthError('exhausted', `${top} has more than ${MAX_DEVICES} devices`);
    }
  }
  return devices;
}

/** The device at a path of the host, behind links; undefined where there is none. */
export function findHostDevice(path: string): HostDevice | undefined {
  try {
    return findDevice(realpathSync(path));
  } catch (err) {
    if (isErrno(err, 'ENOENT', 'ENOTDIR', 'ELOOP')) return undefined;
    throw err;
  }
}

function findDevices(field: string, hostPath: string): { readonly device: HostDevice; readonly below: string }[] {
  const path = realPath(field, checkPath(field, hostPath));
  const facts = fstatat(AT_FDCWD, path);
  if ((facts.mode & constants.S_IFMT) !== constants.S_IFDIR) {
    const device = toDevice(path, facts);
    if (!device) throw invalid(field, `${hostPath} is not a device`);
    return [{ device, below: '' }];
  }
  // Elsewhere a folder may be a whole file system, and looking through it would take forever.
  if (path !== '/dev' && !path.startsWith('/dev/')) throw invalid(field, `${hostPath} is a folder outside /dev`);
  const found = hostDevices(path).map((device) => ({ device, below: posix.relative(path, device.path) }));
  if (found.length === 0) throw invalid(field, `${hostPath} is a folder without devices`);
  return found;
}

function realPath(field: string, path: string): string {
  try {
    return realpathSync(path);
  } catch (err) {
    if (isErrno(err, 'ENOENT', 'ENOTDIR')) throw invalid(field, `${path} does not exist`);
    if (isErrno(err, 'ELOOP')) throw invalid(field, `${path} is a link to itself`);
    throw err;
  }
}

function findDevice(path: string): HostDevice | undefined {
  try {
    return toDevice(path, fstatat(AT_FDCWD, path));
  } catch (err) {
    // Unplugged since the folder was read.
    if (isErrno(err, 'ENOENT')) return undefined;
    throw err;
  }
}

function toDevice(path: string, facts: FileFacts): HostDevice | undefined {
  const kind = facts.mode & constants.S_IFMT;
  if (kind === constants.S_IFBLK) return { path, type: 'b', facts };
  return kind === constants.S_IFCHR ? { path, type: 'c', facts } : undefined;
}

function isSameDevice(one: HostDevice, other: HostDevice): boolean {
  const { facts, type } = one;
  return type === other.type && facts.rdevMajor === other.facts.rdevMajor && facts.rdevMinor === other.facts.rdevMinor;
}

function toNode(path: string, { type, facts }: HostDevice): OciDevice {
  return {
    type,
    path,
    major: facts.rdevMajor,
    minor: facts.rdevMinor,
    fileMode: facts.mode & 0o7777,
    uid: facts.uid,
    gid: facts.gid,
  };
}

function checkPath(field: string, path: string): string {
  if (path === '') throw invalid(field, 'is empty');
  if (!path.startsWith('/') || path.includes('\0'))
    throw invalid(field, `${JSON.stringify(path)} is not an absolute path`);
  if (path.split('/').includes('..')) throw invalid(field, `${JSON.stringify(path)} must not contain ..`);
  return posix.normalize(path);
}

function checkPermissions(field: string, permissions: string): string {
  if (!/^[rwm]*$/.test(permissions)) throw invalid(field, `${JSON.stringify(permissions)} is not made of r, w and m`);
  return permissions === '' ? EVERYTHING : [...new Set(permissions)].join('');
}

function readFolder(folder: string) {
  try {
    return readdirSync(folder, { withFileTypes: true });
  } catch (err) {
    if (isErrno(err, 'ENOENT')) return [];
    throw err;
  }
}
