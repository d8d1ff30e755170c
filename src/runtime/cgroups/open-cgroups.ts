import { existsSync } from 'node:fs';

import { BerthError } from '../../base/errors.ts';
import { xattrMarks, xattrNotes } from './cgroup-marks.ts';
import { CgroupTree } from './cgroup-tree.ts';
import { CgroupfsDriver } from './cgroupfs-driver.ts';
import type { CgroupDriver, Cgroups } from './cgroups.ts';
import { type Hierarchy, modeOf, readHierarchies } from './hierarchies.ts';
import { SystemdDriver } from './systemd-driver.ts';
import { SystemdManager } from './systemd-manager.ts';

/** There when systemd is PID 1 (sd_booted(3)). */
const SYSTEMD_MARK = '/run/systemd/system';

/**
 * The cgroups of this host by the configured driver. `auto` takes systemd where it runs the machine and manages the
 * cgroups, else cgroupfs. Throws `precondition` when no cgroup is mounted, or systemd is asked for and isn't there.
 */
export function openCgroups(manager: CgroupDriver | 'auto'): Cgroups {
  const hierarchies = readHierarchies();
  const tree = new CgroupTree(hierarchies, xattrMarks);
  const driver = chooseDriver(manager, hierarchies, existsSync(SYSTEMD_MARK));
  return driver === 'systemd' ? new SystemdDriver(tree, new SystemdManager(), xattrNotes) : new CgroupfsDriver(tree);
}

/** Which driver a setting means on a host with these hierarchies. */
export function chooseDriver(
  manager: CgroupDriver | 'auto',
  hierarchies: readonly Hierarchy[],
  systemdRuns: boolean,
): CgroupDriver {
  if (manager === 'cgroupfs') return manager;
  const managed = modeOf(hierarchies) === 'v2' || hierarchies.some((hierarchy) => hierarchy.name === 'systemd');
  if (systemdRuns && managed) return 'systemd';
  if (manager === 'auto') return 'cgroupfs';
  throw new BerthError('precondition', 'cgroup_manager is systemd, but systemd does not run this host (is it PID 1?)');
}
