import { execFileSync } from 'node:child_process';

import { readMounts } from '../harness/machine-state.ts';

/** Makes a folder a file system of its own that holds only so much. */
export function mountSmallDisk(folder: string, bytes: number): void {
  execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${bytes},mode=755`, 'berth-kubelet', folder]);
  execFileSync('mount', ['--make-rshared', folder]);
}

/** Makes a folder a mount whose own mounts reach other mount namespaces. */
export function shareFolder(folder: string): void {
  execFileSync('mount', ['--bind', folder, folder]);
  execFileSync('mount', ['--make-rshared', folder]);
}

/** Unmounts a folder and all that is mounted in it. */
export function unmount(folder: string): void {
  const points = readMounts().filter((point) => point === folder || point.startsWith(`${folder}/`));
  for (const point of points.reverse()) execFileSync('umount', ['--lazy', point]);
}
