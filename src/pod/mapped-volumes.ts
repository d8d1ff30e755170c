import { mkdirSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
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

/** Lets go of what mapVolumes() bound: the container has its own copies once it is created. Safe to repeat. */
export function unmapVolumes(folder: string): void {
  for (const name of readNames(folder)) unmount(join(folder, name));
  rmSync(folder, { recursive: true, force: true });
}

function readNames(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch (err) {
    if (isErrno(err, 'ENOENT')) return [];
    throw err;
  }
}
