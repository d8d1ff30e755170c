import { readdirSync, readFileSync } from 'node:fs';

import { isErrno } from '../../src/sys/errno.ts';

/** How many descriptors this process has open, to see that none leaks. */
export function openFdCount(): number {
  // The folder's own descriptor is among them, in every count alike.
  return readdirSync('/proc/self/fd').length;
}

/** The pids of this process's children, zombies included. */
export function childPids(): number[] {
  return readdirSync('/proc/self/task')
    .flatMap((tid) => childrenOf(tid).split(' ').filter(Boolean))
    .map(Number);
}

/** None of a thread that has ended meanwhile: another one has them then. */
function childrenOf(tid: string): string {
  try {
    return readFileSync(`/proc/self/task/${tid}/children`, 'utf8');
  } catch (err) {
    if (isErrno(err, 'ENOENT', 'ESRCH')) return '';
    throw err;
  }
}
