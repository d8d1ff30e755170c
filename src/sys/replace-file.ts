import { renameSync, unlinkSync } from 'node:fs';

import { AT_FDCWD } from './at.ts';
import { check, isErrno } from './errno.ts';
import { cString, libc, type Name } from './libc.ts';

const renameat2Call: (olddir: number, oldpath: Name, newdir: number, newpath: Name, flags: number) => number =
  libc.func('renameat2', 'int', ['int', 'str', 'int', 'str', 'uint']);
const RENAME_EXCHANGE = 2;

/**
 * Renames a file, in place of what has that name, as rename(2): at each moment there is one of the two. But the data is
 * not brought to the disk first, as ext4 does it for who renames over a file (ext4(5), auto_da_alloc): while the disk is
 * busy that takes hundreds of milliseconds, and after a power cut the file may be empty.
 */
export function replaceFile(from: string, to: string): void {
  try {
    check('renameat2', to, renameat2Call(AT_FDCWD, cString(from), AT_FDCWD, cString(to), RENAME_EXCHANGE));
  } catch (err) {
    // Nothing has that name, or the file system cannot exchange.
    if (!isErrno(err, 'ENOENT', 'EINVAL', 'ENOSYS')) throw err;
    renameSync(from, to);
    return;
  }
  unlinkSync(from);
}
