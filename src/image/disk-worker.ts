/** A thread that does disk jobs, one at a time (see disk-jobs.ts). */

import { createHash } from 'node:crypto';
import { closeSync, constants, openSync, readSync } from 'node:fs';
import * as threads from 'node:worker_threads';

import { BerthError, describe, kindOf } from '../base/errors.ts';
import { closeFd, openat2, RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS } from '../sys/at.ts';
import { setThreadNice } from '../sys/process.ts';
import { syncfs } from '../sys/sync.ts';
import { checkLayer } from './assemble-layer.ts';
import type { DiskAnswer, DiskJobs, DiskRequest } from './disk-jobs.ts';
import { extractArchive } from './extract-archive.ts';
import { describeFolders, inheritedFolders } from './inherited-folders.ts';
import { removeTree } from './remove-tree.ts';
import { treeUsage } from './tree-usage.ts';
import { unpackLayer } from './unpack-layer.ts';
import { upperChanges } from './upper-changes.ts';
import { writeArchive } from './write-archive.ts';

type Answer = DiskJobs[keyof DiskJobs]['answer'];

async function perform(message: DiskRequest): Promise<Answer> {
  const { job, request, cancelled } = message;
  const throwIfCancelled = (): void => {
    if (Atomics.load(cancelled, 0) !== 0) throw new BerthError('cancelled', `${job} cancelled`);
  };
  switch (job) {
    case 'unpack':
      return await orRemove(request.target, () => unpackLayer(request, throwIfCancelled));
    case 'extract':
      return await orRemove(request.target, () => extractArchive(request, throwIfCancelled));
    case 'check':
      return await checkLayer(request, throwIfCancelled);
    case 'archive':
      await writeArchive(request.fd, request.entries, throwIfCancelled);
      return undefined;
    case 'digest':
      return digestBeneath(request.folder, request.name, throwIfCancelled);
    case 'remove':
      removeTree(request);
      return undefined;
    case 'discard':
      removeTree(request, throwIfCancelled);
      return undefined;
    case 'usage':
      return usageOf(request);
    case 'inherit':
      return inheritedFolders(request);
    case 'describe':
      describeFolders(request);
      return undefined;
    case 'changes':
      return upperChanges(request);
    case 'sync':
      syncFolder(request);
      return undefined;
  }
}

async function orRemove<T>(folder: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (err) {
    removeTree(folder);
    throw err;
  }
}

function digestBeneath(folder: string, name: string, throwIfCancelled: () => void): string {
  const dirfd = openSync(folder, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    const resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS;
    const fd = openat2(dirfd, name, { flags: constants.O_RDONLY | constants.O_NONBLOCK, resolve });
    try {
      const hash = createHash('sha256');
      const buffer = Buffer.allocUnsafe(256 * 1024);
      for (let length = readSync(fd, buffer); length > 0; length = readSync(fd, buffer)) {
        throwIfCancelled();
        hash.update(buffer.subarray(0, length));
      }
      return `sha256:${hash.digest('hex')}`;
    } finally {
      closeFd(fd);
    }
  } finally {
    closeSync(dirfd);
  }
}

function usageOf(groups: readonly (readonly string[])[]): Answer {
  return groups.map((paths) => {
    const startedMs = performance.now();
    const all = paths.map((path) => treeUsage(path));
    return {
      usedBytes: all.reduce((sum, usage) => sum + usage.usedBytes, 0),
      inodesUsed: all.reduce((sum, usage) => sum + usage.inodesUsed, 0),
      walkMs: performance.now() - startedMs,
    };
  });
}

function syncFolder(path: string): void {
  const fd = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    syncfs(fd);
  } finally {
    closeSync(fd);
  }
}

// Programs that start pods come first when there are fewer processors than work.
const { parentPort, workerData }: { parentPort: threads.MessagePort | null; workerData: unknown } = threads;
if (typeof workerData === 'number') setThreadNice(workerData);

parentPort?.on('message', (message: DiskRequest) => {
  perform(message).then(
    (answer) => parentPort?.postMessage({ answer } satisfies DiskAnswer),
    (err: unknown) => parentPort?.postMessage({ kind: kindOf(err), message: describe(err) } satisfies DiskAnswer),
  );
});
