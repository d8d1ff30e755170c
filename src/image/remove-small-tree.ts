import { type Dirent, readdirSync, rmdirSync, unlinkSync } from 'node:fs';
import { join } from 'node:path';

import { isErrno } from '../sys/errno.ts';

/**
 * Removes a folder that has at most `limit` entries in all, at once; of a larger one nothing. Returns whether it is
 * gone. The caller sees to it that nobody changes it meanwhile.
 */
export function removeSmallTree(folder: string, limit: number): boolean {
  // Folders behind what is in them.
  const found: { path: string; isFolder: boolean }[] = [];
  const pending = [folder];
  for (let at = pending.pop(); at !== undefined; at = pending.pop()) {
    found.push({ path: at, isFolder: true });
    for (const entry of entriesOf(at)) {
      if (found.length + pending.length > limit) return false;
      const path = join(at, entry.name);
      if (entry.isDirectory()) pending.push(path);
      else found.push({ path, isFolder: false });
    }
  }
  for (const { path, isFolder } of found.reverse()) removeOne(path, isFolder);
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

function removeOne(path: string, isFolder: boolean): void {
  try {
    if (isFolder) rmdirSync(path);
    else unlinkSync(path);
  } catch (err) {
    if (!isErrno(err, 'ENOENT')) throw err;
  }
}
