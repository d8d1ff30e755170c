import { lstatSync, rmSync } from 'node:fs';
import { basename } from 'node:path';

import { sleep } from '../base/deadline.ts';
import type { Logger } from '../base/log.ts';
import { unmount } from '../sys/mount.ts';
import type { MountInfo } from '../sys/mount-info.ts';

/** A copy is there for less than a millisecond. */
const LONGEST_USE_MS = 3000;

/** Mounts of runtimes' programs where crun makes one of its own for a moment (its cloned_binary.c, after LXC's). */
export function copiesAmong(mounts: readonly MountInfo[], programs: readonly string[]): string[] {
  const names = new Set(programs.map((path) => basename(path)));
  return mounts
    .filter(({ root, mountPoint }) => names.has(basename(root)) && /^\/tmp\/crun\.[A-Za-z0-9]{6}$/.test(mountPoint))
    .map(({ mountPoint }) => mountPoint);
}

/**
 * Takes away what crun leaves when it is killed while it copies itself: its program, mounted on a file in /tmp. Looks
 * twice, as one that is at work must keep its own.
 */
export async function removeLeftCopies(
  programs: readonly string[],
  readMounts: () => readonly MountInfo[],
  log: Logger,
  signal: AbortSignal,
): Promise<void> {
  const before = new Set(copiesAmong(readMounts(), programs));
  if (before.size === 0) return;
  await sleep(LONGEST_USE_MS, signal);
  for (const path of copiesAmong(readMounts(), programs).filter((copy) => before.has(copy))) {
    unmount(path);
    // Empty, as crun made it; never what somebody else has there.
    if (lstatSync(path, { throwIfNoEntry: false })?.size === 0) rmSync(path);
    log.info({ path }, 'removed what a runtime that was killed had mounted of itself');
  }
}
