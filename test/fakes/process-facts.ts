import { readdirSync, readFileSync } from 'node:fs';

/** How many descriptors this process has open, to see that none leaks. */
export function openFdCount(): number {
  // The folder's own descriptor is among them, in every count alike.
  return readdirSync('/proc/self/fd').length;
}

/** The pids of this process's children, zombies included. */
export function childPids(): number[] {
  return readdirSync('/proc/self/task')
    .map((tid) => readFileSync(`/proc/self/task/${tid}/children`, 'utf8'))
    .flatMap((text) => text.split(' ').filter((word) => word !== ''))
    .map(Number);
}
