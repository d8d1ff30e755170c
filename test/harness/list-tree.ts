import { type Dirent, readdirSync } from 'node:fs';
import { join } from 'node:path';

import { isErrno } from '../../src/sys/errno.ts';

/**
 * All names below a folder, relative to it. What somebody removes meanwhile is left out; `readdirSync` with `recursive`
 * would throw.
 */
export function listTree(folder: string, below = ''): string[] {
  return entriesOf(join(folder, below)).flatMap((entry) => {
    const name = join(below, entry.name);
    return entry.isDirectory() ? [name, ...listTree(folder, name)] : [name];
  });
}

function entriesOf(folder: string): Dirent[] {
  try {
    return readdirSync(folder, { withFileTypes: true });
  } catch (err) {
    if (isErrno(err, 'ENOENT', 'ENOTDIR')) return [];
    throw err;
  }
}
