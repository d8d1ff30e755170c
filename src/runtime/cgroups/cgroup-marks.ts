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

/** What Berth writes down at a cgroup, for the next berthd; it lives and goes with the cgroup, as a mark does. */
export interface CgroupNotes {
  /** Undefined when there is none, or nobody can tell. */
  read(folder: string): string | undefined;
  /** Without effect at a cgroup that is gone, or where the kernel keeps no notes: the next berthd then knows nothing. */
  write(folder: string, text: string): void;
}

const ATTRIBUTE = 'trusted.berth.made';
/** Of OomLedger. */
const NOTE = 'trusted.berth.kills';
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

/** Notes by an extended attribute, as the marks. */
export const xattrNotes: CgroupNotes = Object.freeze({
  read(folder: string): string | undefined {
    try {
      return withFolder(folder, (fd) => fgetxattr(fd, NOTE))?.toString('utf8');
    } catch {
      return undefined;
    }
  },
  write(folder: string, text: string): void {
    try {
      withFolder(folder, (fd) => fsetxattr(fd, NOTE, Buffer.from(text)));
    } catch {
      // How a container ended is told now, and not kept up by what may be of use later.
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
