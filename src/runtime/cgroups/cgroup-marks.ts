import { closeSync, openSync } from 'node:fs';

import { wrap } from '../../base/errors.ts';
import { isErrno } from '../../sys/errno.ts';
import { fgetxattr, fsetxattr } from '../../sys/xattr.ts';

/**
 * Tells cgroups that Berth made from those that it found, so that only its own are ever removed. The mark lives and
 * goes with the cgroup, so it is right after a crash and after a reboot.
 */
export interface CgroupMarks {
  /** Marks a folder as made by Berth. */
  set(folder: string): void;
  /** False also for a folder that is gone. Throws when nobody can tell: what is taken for a stranger's stays for good. */
  has(folder: string): boolean;
}

const ATTRIBUTE = 'trusted.berth.made';
const YES = Buffer.from('1');

/** Marks by an extended attribute that only root may see; every cgroup file system has those (kernfs). */
export const xattrMarks: CgroupMarks = Object.freeze({
  set(folder: string): void {
    withFolder(folder, (fd) => fsetxattr(fd, ATTRIBUTE, YES));
  },
  has(folder: string): boolean {
    try {
      return withFolder(folder, (fd) => fgetxattr(fd, ATTRIBUTE) !== undefined);
    } catch (err) {
      if (isErrno(err, 'ENOENT', 'ENODEV')) return false;
      throw wrap(`read mark of cgroup ${folder}`, err);
    }
  },
});

function withFolder<T>(folder: string, use: (fd: number) => T): T {
  const fd = openSync(folder, 'r');
  try {
    return use(fd);
  } finally {
    closeSync(fd);
  }
}
