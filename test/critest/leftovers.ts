/** What the suite itself leaves on a machine, and how it is taken away. */

import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';

import { readMounts } from '../harness/machine-state.ts';

/** Of the two specs that look whether a pod sees the host's shared memory. */
const SEGMENT_BYTES = 1_048_576;

/** The shared memory segments of this IPC namespace, by id. */
export function readSegments(): Set<string> {
  return new Set(readTable().map(({ id }) => id));
}

/** Removes what the suite has made since `before` and has not removed: it never does. */
export function removeSegments(before: ReadonlySet<string>): void {
  for (const { id, bytes, creator, attached } of readTable()) {
    const isSuites = bytes === SEGMENT_BYTES && attached === 0 && !existsSync(`/proc/${creator}`);
    if (isSuites && !before.has(id)) execFileSync('ipcrm', ['--shmem-id', id]);
  }
}

/** Unmounts what a suite that was stopped has left mounted below a folder. */
export function unmountBelow(folder: string): void {
  const points = readMounts().filter((point) => point.startsWith(`${folder}/`));
  for (const point of points.reverse()) execFileSync('umount', ['--lazy', point]);
}

function readTable(): { id: string; bytes: number; creator: number; attached: number }[] {
  const [, ...lines] = readFileSync('/proc/sysvipc/shm', 'utf8').trimEnd().split('\n');
  return lines.map((line) => {
    const [, id = '', , bytes, creator, , attached] = line.trim().split(/\s+/);
    return { id, bytes: Number(bytes), creator: Number(creator), attached: Number(attached) };
  });
}
