import { closeSync, constants, openSync } from 'node:fs';

import { O_PATH } from './at.ts';
import { MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, mount, setPropagation, unmount } from './mount.ts';
import { changeRoot, enterMountNamespace, pivotRoot, unshareMounts } from './namespace-calls.ts';

/**
 * Makes a mount namespace in which there is nothing but an empty, read-only folder, and returns a descriptor of it that
 * setns(2) takes. The calling thread is back where it was afterwards, with a root and a working directory that are no
 * longer shared with the other threads. Only for a thread of its own; if this throws, the thread must end.
 */
export function makeEmptyRoot(): number {
  const own = openSync('/proc/thread-self/ns/mnt', 'r');
  const root = openSync('/', O_PATH | constants.O_DIRECTORY);
  const folder = openSync('.', O_PATH | constants.O_DIRECTORY);
  try {
    unshareMounts();
    const empty = openSync('/proc/thread-self/ns/mnt', 'r');
    // Before anything is unmounted: from a shared mount it would vanish on the host too.
    setPropagation('/', 'rprivate');
    // Any folder will do; this one is there on every Linux.
    mount({
      source: 'empty',
      target: '/proc',
      type: 'tmpfs',
      flags: MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC,
      data: 'mode=0555,nr_blocks=1,nr_inodes=1',
    });
    pivotRoot('/proc');
    unmount('.');
    enterMountNamespace(own);
    changeRoot(root, folder);
    return empty;
  } finally {
    for (const fd of [own, root, folder]) closeSync(fd);
  }
}
