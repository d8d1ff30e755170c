import { constants, readdirSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { setImmediate } from 'node:timers/promises';

import { BerthError, wrap } from '../base/errors.ts';
import { AT_FDCWD, closeFd, O_PATH, openat, pathAt } from '../sys/at.ts';
import { isErrno } from '../sys/errno.ts';
import { lsetxattrat } from '../sys/xattr.ts';

const ATTRIBUTE = 'security.selinux';
/** Names between two breaths of the event loop: some milliseconds. */
const AT_A_TIME = 500;
/** Folders are held open while they are walked through. */
const MAX_DEPTH = 400;

/** What the whole host needs keeps its label, whatever a pod mounts. */
const PROTECTED: ReadonlySet<string> = new Set(
  `/ /bin /boot /dev /etc /etc/passwd /etc/pki /etc/shadow /home /lib /lib64 /media /mnt /opt /proc /root /run /sbin /srv
  /sys /system /tmp /usr /var /var/lib /var/log /var/tmp`.split(/\s+/),
);

/**
 * Gives a file, or a folder with all in it, another SELinux label. `path` has no symbolic links in it; those below get
 * the label themselves and are not followed, also when somebody puts them there meanwhile. File systems without labels
 * stay as they are. Throws `precondition` for what the whole host needs, and for a tree that is too deep.
 */
export async function relabelTree(path: string, label: string, signal: AbortSignal): Promise<void> {
  if (PROTECTED.has(path)) throw new BerthError('precondition', `${path} belongs to the host, and is not relabelled`);
  // The kernel's own tools end a label with a NUL.
  const walk = { value: Buffer.from(`${label}\0`), left: AT_A_TIME, signal };
  try {
    const parent = openat(AT_FDCWD, dirname(path), O_PATH | constants.O_DIRECTORY);
    try {
      const name = Buffer.from(basename(path));
      if (setLabel(parent, name, walk.value)) await relabelBelow(walk, parent, name, 0);
    } finally {
      closeFd(parent);
    }
  } catch (err) {
    throw wrap(`relabel ${path}`, err);
  }
}

/** Gives one file of the daemon's own a label. */
export function relabelFile(path: string, label: string): void {
  const parent = openat(AT_FDCWD, dirname(path), O_PATH | constants.O_DIRECTORY);
  try {
    setLabel(parent, Buffer.from(basename(path)), Buffer.from(`${label}\0`));
  } finally {
    closeFd(parent);
  }
}

interface Walk {
  readonly value: Buffer;
  readonly signal: AbortSignal;
  /** Names until the next breath. */
  left: number;
}

async function relabelBelow(walk: Walk, parent: number, name: Buffer, depth: number): Promise<void> {
  const folder = openFolder(parent, name);
  if (folder === undefined) return;
  try {
    if (depth > MAX_DEPTH) throw new BerthError('precondition', `it has folders more than ${MAX_DEPTH} deep`);
    // Names need not be UTF-8.
    for (const entry of readdirSync(String(pathAt(folder, '.')), { encoding: 'buffer', withFileTypes: true })) {
      walk.left -= 1;
      if (walk.left <= 0) {
        await setImmediate();
        walk.signal.throwIfAborted();
        walk.left = AT_A_TIME;
      }
      const isLeaf = entry.isFile() || entry.isSymbolicLink();
      if (setLabel(folder, entry.name, walk.value) && !isLeaf) await relabelBelow(walk, folder, entry.name, depth + 1);
    }
  } finally {
    closeFd(folder);
  }
}

/** Undefined for what is no folder, or has gone meanwhile. */
function openFolder(parent: number, name: Buffer): number | undefined {
  try {
    return openat(parent, name, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW);
  } catch (err) {
    if (isErrno(err, 'ENOENT', 'ENOTDIR', 'ELOOP')) return undefined;
    throw err;
  }
}

/** False for what has gone meanwhile, and where the file system has no labels or is read-only. */
function setLabel(parent: number, name: Buffer, value: Buffer): boolean {
  try {
    lsetxattrat(parent, name, ATTRIBUTE, value);
    return true;
  } catch (err) {
    if (isErrno(err, 'ENOENT', 'ENOTSUP', 'EROFS')) return false;
    throw err;
  }
}
