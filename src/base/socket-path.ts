import { chmodSync, chownSync, rmSync, statSync } from 'node:fs';
import { connect } from 'node:net';
import { dirname } from 'node:path';

import { BerthError, wrap } from './errors.ts';
import { makeFolders } from './make-folders.ts';

/**
 * Has `bind` make a unix socket that root and its group may use. A socket that a dead process left is replaced; one that
 * answers is not. Throws `precondition` then, naming the path, and also where others could put a socket of theirs in its
 * place.
 */
export async function bindForRoot(socketPath: string, bind: () => Promise<void>): Promise<void> {
  makeFolderOf(socketPath);
  checkFolder(dirname(socketPath));
  await clearStaleSocket(socketPath);
  // Between bind and chmod the socket has the umask's mode; nobody but root may connect meanwhile.
  const umask = process.umask(0o177);
  try {
    await bind();
  } catch (err) {
    throw wrap(`listen on ${socketPath}`, err);
  } finally {
    process.umask(umask);
  }
  // A folder may hand its own group on.
  chownSync(socketPath, process.geteuid?.() ?? 0, process.getegid?.() ?? 0);
  chmodSync(socketPath, 0o660);
}

/** Who may write to the folder decides who answers the kubelet, with root's rights; a sticky one keeps files apart. */
function checkFolder(folder: string): void {
  const { uid, gid, mode } = statSync(folder);
  const isOwn = uid === 0 || uid === process.geteuid?.();
  const isOpen = (mode & 0o002) !== 0 || ((mode & 0o020) !== 0 && gid !== 0 && gid !== process.getegid?.());
  if (isOwn && (!isOpen || (mode & 0o1000) !== 0)) return;
  const who = isOwn ? `others than root may write there (mode ${(mode & 0o7777).toString(8)})` : `user ${uid} owns it`;
  const remedy = `chown root:root ${folder} && chmod go-w ${folder}`;
  throw new BerthError('precondition', `listen in ${folder}: ${who}, and could answer in place of berthd; ${remedy}`);
}

async function clearStaleSocket(path: string): Promise<void> {
  const stat = statSync(path, { throwIfNoEntry: false });
  if (!stat) return;
  if (!stat.isSocket())
    throw new BerthError('precondition', `listen on ${path}: it is there and is no socket; move it away`);
  if (await answers(path)) {
    throw new BerthError(
      'precondition',
      `listen on ${path}: another program answers there; stop it or set another listen`,
    );
  }
  rmSync(path, { force: true });
}

async function answers(path: string): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<boolean>();
  const socket = connect(path);
  socket.once('connect', () => resolve(true));
  socket.once('error', () => resolve(false));
  try {
    return await promise;
  } finally {
    socket.destroy();
  }
}

function makeFolderOf(socketPath: string): void {
  try {
    makeFolders(dirname(socketPath), 0o711);
  } catch (err) {
    throw wrap(`make the folder of socket ${socketPath}`, err);
  }
}
