import { constants } from 'node:fs';
import { posix } from 'node:path';

import { BerthError } from '../../base/errors.ts';
import { findHostDevice, type HostDevice } from '../devices.ts';
import { addHooks } from '../hooks/add-hooks.ts';
import type { OciDevice, OciDeviceRule, OciMount, OciProcess, OciSpec } from '../oci-spec.ts';
import { sortMounts } from '../spec-mounts.ts';
import type { CdiDeviceNode, CdiEdits, CdiMount } from './cdi-spec.ts';

const EVERYTHING = 'rwm';

/**
 * A container's config.json with what its CDI devices change. Later edits win over earlier ones, and over what was
 * there: a variable, a device node or a mount of the same name is replaced. Throws `precondition` for a device that
 * this host has not.
 */
export function applyEdits(
  spec: OciSpec,
  edits: readonly CdiEdits[],
  findDevice: (path: string) => HostDevice | undefined = findHostDevice,
): OciSpec {
  return edits.reduce((edited, edit) => applyOne(edited, edit, findDevice), spec);
}

function applyOne(spec: OciSpec, edits: CdiEdits, findDevice: (path: string) => HostDevice | undefined): OciSpec {
  const { linux, process } = spec;
  const nodes = edits.deviceNodes.map((node) => toDevice(node, process, findDevice));
  const paths = new Set(nodes.map(({ path }) => path));
  const rules = edits.deviceNodes.flatMap(({ permissions }, index) => toRule(nodes[index], permissions));
  const targets = new Set(edits.mounts.map(({ containerPath }) => posix.normalize(containerPath)));
  const edited = {
    ...spec,
    process: {
      ...process,
      env: mergeEnv(process.env, edits.env),
      user: {
        ...process.user,
        additionalGids: [
          ...new Set([...process.user.additionalGids, ...edits.additionalGids.filter((gid) => gid !== 0)]),
        ],
      },
    },
    mounts: sortMounts([
      ...spec.mounts.filter(({ destination }) => !targets.has(destination)),
      ...edits.mounts.map(toMount),
    ]),
    linux: {
      ...linux,
      devices: [...linux.devices.filter(({ path }) => !paths.has(path)), ...nodes],
      resources: { ...linux.resources, devices: [...(linux.resources.devices ?? []), ...rules] },
      ...(edits.intelRdt ? { intelRdt: withoutNull(edits.intelRdt) } : {}),
    },
  };
  return addHooks(
    edited,
    edits.hooks.map(({ hookName, path, args, env, timeout }) => ({
      stage: hookName,
      hook: { path, args, env, ...(timeout ? { timeout } : {}) },
    })),
  );
}

function mergeEnv(env: readonly string[], added: readonly string[]): string[] {
  const byName = new Map([...env, ...added].map((entry) => [entry.split('=', 1)[0], entry]));
  return [...byName.values()];
}

function toMount({ hostPath, containerPath, type, options }: CdiMount): OciMount {
  const isBind = options.some((option) => option === 'bind' || option === 'rbind');
  const [realType, binding] = type === '' || type === 'bind' ? ['bind', isBind ? [] : ['rbind']] : [type, []];
  return {
    destination: posix.normalize(containerPath),
    type: realType,
    source: hostPath,
    options: [...binding, ...options],
  };
}

// What the file does not say is as on the host; the owner is the container's, so that it can open what it asked for.
function toDevice(
  node: CdiDeviceNode,
  process: OciProcess,
  findDevice: (path: string) => HostDevice | undefined,
): OciDevice {
  const { uid, gid } = process.user;
  const owner = { uid: node.uid ?? uid, gid: node.gid ?? gid };
  const path = posix.normalize(node.path);
  if (node.type === 'p') return { type: 'p', path, fileMode: node.fileMode ?? 0o666, ...owner };
  if (node.type !== '' && node.major !== 0) {
    return { type: node.type, path, major: node.major, minor: node.minor, fileMode: node.fileMode ?? 0o666, ...owner };
  }
  const hostPath = node.hostPath || node.path;
  const device = findDevice(hostPath);
  const wanted = node.type === 'u' ? 'c' : node.type;
  if (!device || (wanted !== '' && wanted !== device.type)) {
    const kind = { b: 'a block device', c: 'a character device', '': 'a device' }[wanted];
    throw new BerthError('precondition', `CDI device node ${path}: ${hostPath} is not ${kind} on this host`);
  }
  const { mode, rdevMajor, rdevMinor } = device.facts;
  return {
    type: node.type || device.type,
    path,
    major: rdevMajor,
    minor: rdevMinor,
    fileMode: node.fileMode ?? mode & ~constants.S_IFMT,
    ...owner,
  };
}

function toRule(device: OciDevice | undefined, permissions: string): OciDeviceRule[] {
  if (device?.major === undefined || device.minor === undefined) return [];
  const type = device.type === 'u' ? 'c' : device.type;
  return [{ allow: true, type, major: device.major, minor: device.minor, access: permissions || EVERYTHING }];
}

function withoutNull(value: object): object {
  return Object.fromEntries(
    Object.entries(value as Readonly<Record<string, unknown>>).filter(
      ([, part]) => part !== null && part !== undefined,
    ),
  );
}
