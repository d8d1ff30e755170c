import { readdirSync, readFileSync } from 'node:fs';

import { isErrno } from '../../src/sys/errno.ts';

/** How many descriptors this process has open, to see that none leaks. */
export function openFdCount(): number {
  // The folder's own descriptor is among them, in every count alike.
  return readdirSync('/proc/self/fd').length;
}

/** The pids of a process's children, whichever of its threads has started them, zombies included. */
export function childPids(pid: number | 'self' = 'self'): number[] {
  return readdirSync(`/proc/${pid}/task`)
    .flatMap((tid) => childrenOf(pid, tid).split(' ').filter(Boolean))
    .map(Number);
}

/** None of a thread that has ended meanwhile: another one has them then. */
function childrenOf(pid: number | 'self', tid: string): string {
  try {
    return readFileSync(`/proc/${pid}/task/${tid}/children`, 'utf8');
  } catch (err) {
    if (isErrno(err, 'ENOENT', 'ESRCH')) return '';
    throw err;
  }
}
