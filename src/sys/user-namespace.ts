import { readSync, writeFileSync, writeSync } from 'node:fs';

import { BerthError } from '../base/errors.ts';
import { closeFd } from './at.ts';
import { syscallError, wrapErrno } from './errno.ts';
import { flagsOf } from './namespace-calls.ts';
import type { IdMaps, IdRange, NamespaceKind } from './namespace-request.ts';
import { reapKilled } from './pidfd.ts';
import { createPipe } from './pipe.ts';

/** A pause process that waits in its own namespaces until release(). */
export interface HeldPause {
  readonly pid: number;
  /** Lets it go on without the daemon. Until then it ends with this process. */
  release(): void;
  /** Closes the pipes: a process that was not released ends. */
  close(): void;
}

/**
 * Starts a pause process that makes a user namespace and, inside it, namespaces of these kinds: the daemon's side of
 * the talk that native/pause.c describes. `spawn` starts it with descriptors 4 and 5 as given; `onPid` hears of every
 * process of it that there is. Blocks the thread until it is done. On an error no process is left.
 */
export function startInUserNamespace(
  maps: IdMaps,
  kinds: readonly NamespaceKind[],
  spawn: (orders: number, answers: number) => number,
  onPid: (pid: number) => void,
): HeldPause {
  const orders = createPipe();
  const answers = createPipe();
  const close = (): void => {
    closeFd(orders.writeFd);
    closeFd(answers.readFd);
  };
  try {
    let first: number;
    try {
      first = spawn(orders.readFd, answers.writeFd);
    } finally {
      // The process has its own copies; with these open its end would not be seen here.
      closeFd(orders.readFd);
      closeFd(answers.writeFd);
    }
    onPid(first);
    const flags = Buffer.alloc(4);
    flags.writeUInt32LE(flagsOf(kinds));
    writeSync(orders.writeFd, flags);
    hear(answers.readFd, 'a user namespace');
    writeIdMaps(first, maps);
    writeSync(orders.writeFd, 'm');
    const pid = hear(answers.readFd, `namespaces ${kinds.join()} in a user namespace`);
    onPid(pid);
    // In a PID namespace its child has taken its place.
    if (pid !== first) reapKilled(first);
    return { pid, release: () => void writeSync(orders.writeFd, 'r'), close };
  } catch (err) {
    close();
    throw err;
  }
}

function writeIdMaps(pid: number, { uids, gids }: IdMaps): void {
  for (const [file, ranges] of [
    ['uid_map', uids],
    ['gid_map', gids],
  ] as const) {
    try {
      writeFileSync(`/proc/${pid}/${file}`, ranges.map(toRow).join(''), { flag: 'r+' });
    } catch (err) {
      throw wrapErrno(`write ${file} of pause process ${pid}`, err);
    }
  }
}

function toRow({ containerId, hostId, length }: IdRange): string {
  return `${containerId} ${hostId} ${length}\n`;
}

/** A number from the pause process; a negative one is an errno. */
function hear(fd: number, what: string): number {
  const answer = Buffer.alloc(4);
  if (readSync(fd, answer) !== answer.length) {
    throw new BerthError('internal', `the pause process ended before it had made ${what}`);
  }
  const number = answer.readInt32LE(0);
  if (number < 0) throw syscallError('unshare', what, -number);
  return number;
}
