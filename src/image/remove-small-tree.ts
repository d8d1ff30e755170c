import { type Dirent, readdirSync } from 'node:fs';
import { rmdir, unlink } from 'node:fs/promises';
import { join } from 'node:path';

import { forEachLimited } from '../base/limited.ts';
import { isErrno, unlessGone } from '../sys/errno.ts';

/** Threads of the pool that a removal may hold. */
const AT_ONCE = 2;

/**
 * Removes a folder that has at most `limit` entries in all; of a larger one nothing. Returns whether it is gone. The
 * caller sees to it that nobody changes it meanwhile. What is removed is removed by libuv's pool: it may wait for the
 * disk, and for whoever has it mounted.
 */
export async function removeSmallTree(folder: string, limit: number): Promise<boolean> {
  // Folders behind what is in them.
  const folders: string[] = [];
  const files: string[] = [];
  const pending = [folder];
  for (let at = pending.pop(); at !== undefined; at = pending.pop()) {
    folders.push(at);
    for (const entry of entriesOf(at)) {
      if (folders.length + files.length + pending.length > limit) return false;
      (entry.isDirectory() ? pending : files).push(join(at, entry.name));
    }
  }
  await forEachLimited(files, AT_ONCE, async (file) => await unlessGone(unlink(file)));
  for (const each of folders.reverse()) await unlessGone(rmdir(each));
  return true;
}

function entriesOf(folder: string): Dirent[] {
  try {
    return readdirSync(folder, { withFileTypes: true });
  } catch (err) {
    if (isErrno(err, 'ENOENT')) return [];
    throw err;
  }
}
