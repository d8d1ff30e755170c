import { lstatSync, mkdirSync, readdirSync, rmdirSync, statSync, unlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { because } from '../base/errors.ts';
import type { MappedMount } from '../runtime/mounts.ts';
import type { OciSpec } from '../runtime/oci-spec.ts';
import { isErrno } from '../sys/errno.ts';
import { bindMapped, unmount } from '../sys/mount.ts';

/**
 * Binds a container's volumes with the ids of its pod's user namespace, below `folder`, and returns the spec with these
 * in place of the volumes: the OCI runtime then needs to know nothing of it. Throws `precondition` for a volume on a
 * file system that cannot show its files under other ids.
 */
export function mapVolumes(
  folder: string,
  spec: OciSpec,
  mapped: readonly MappedMount[],
  userNamespace: string,
): OciSpec {
  if (mapped.length === 0) return spec;
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const sources = new Map<string, string>();
  for (const [index, { field, mount }] of mapped.entries()) {
    const target = join(folder, String(index));
    if (statSync(mount.source).isDirectory()) mkdirSync(target, { mode: 0o700 });
    else writeFileSync(target, '', { mode: 0o600 });
    try {
      bindMapped(mount.source, target, userNamespace, { recursive: true });
    } catch (err) {
      if (!isErrno(err, 'EINVAL')) throw err;
      const problem = `the file system of ${mount.source}, or one below it, cannot show its files under other ids`;
      throw because('precondition', `${field}.uid_mappings: ${problem}`, err);
    }
    sources.set(mount.destination, target);
  }
  const mounts = spec.mounts.map((mount) => ({ ...mount, source: sources.get(mount.destination) ?? mount.source }));
  return { ...spec, mounts };
}

/**
 * Lets go of the volumes that mapVolumes() and mountImageVolumes() mounted in a folder: the container has copies of its
 * own once it is created. Safe to repeat. It removes only what is empty, so that it can never walk into a mount.
 */
export function unmountVolumes(folder: string): void {
  for (const name of readNames(folder)) {
    const path = join(folder, name);
    // Layers of an image under other ids: only a daemon that was killed in between leaves any.
    const layers = name.endsWith('-mapped') ? readNames(path).map((layer) => join(path, layer)) : [];
    for (const mountPoint of [...layers, path]) {
      unmount(mountPoint);
      if (lstatSync(mountPoint).isDirectory()) rmdirSync(mountPoint);
      else unlinkSync(mountPoint);
    }
  }
  rmdirIfThere(folder);
}

function rmdirIfThere(folder: string): void {
  try {
    rmdirSync(folder);
  } catch (err) {
    if (!isErrno(err, 'ENOENT')) throw err;
  }
}

function readNames(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch (err) {
    if (isErrno(err, 'ENOENT')) return [];
    throw err;
  }
}
