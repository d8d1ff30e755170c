import { closeSync, existsSync, mkdirSync, openSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { BerthError, because } from '../base/errors.ts';
import { mknodat } from '../sys/at.ts';
import { isErrno } from '../sys/errno.ts';
import { mount, unmount } from '../sys/mount.ts';
import { lsetxattrat } from '../sys/xattr.ts';
import { overlayOptions } from './overlay-options.ts';
import { OPAQUE_XATTR } from './whiteout.ts';

const S_IFCHR = 0o020000;

/**
 * Tries what layers and snapshots need, in a folder that is made for it and removed again: device files, trusted
 * attributes, an overlay mount that can be written to and hides what whiteouts hide (it does not on file systems
 * without d_type). Tells whether the kernel (5.10 and newer) takes such mounts that need not be written out at their end
 * (overlayfs.rst, "Volatile mount"). Throws `precondition` naming the folder and what failed.
 */
export function probeOverlay(folder: string, flags: readonly string[]): { readonly takesVolatile: boolean } {
  const at = (...parts: string[]): string => join(folder, ...parts);
  try {
    for (const name of ['base/opaque', 'top/opaque', 'upper', 'work', 'plain-work', 'merged'])
      mkdirSync(at(name), { recursive: true });
    for (const name of ['base/hidden', 'base/opaque/hidden']) writeFileSync(at(name), '');
    markTop(at('top'));
    const overlay = (work: string, ...more: string[]): void => {
      const upper = { upperDir: at('upper'), workDir: at(work) };
      const data = overlayOptions({ lowers: [at('top'), at('base')], upper, flags: [...flags, ...more] });
      mount({ source: 'overlay', target: at('merged'), type: 'overlay', data });
    };
    let takesVolatile = true;
    try {
      overlay('work', 'volatile');
    } catch (err) {
      // Not of a kernel that is too old, but of a disk that has had an error.
      takesVolatile = isErrno(err, 'EIO');
      overlay('plain-work');
    }
    writeFileSync(at('merged/written'), '');
    const seen = [...readdirSync(at('merged')), ...readdirSync(at('merged/opaque'))].sort().join();
    if (seen !== 'opaque,written' || !existsSync(at('upper/written'))) {
      throw new BerthError('precondition', `whiteouts do not hide there (seen: ${seen})`);
    }
    return { takesVolatile };
  } catch (cause) {
    const where = join(folder, '..');
    const advice = 'use ext4, or xfs with ftype=1, for the root folder';
    throw because('precondition', `the file system of ${where} cannot carry overlays: ${advice}`, cause);
  } finally {
    unmount(at('merged'));
    rmSync(folder, { recursive: true, force: true });
  }
}

function markTop(top: string): void {
  const dirfd = openSync(top, 'r');
  try {
    mknodat(dirfd, 'hidden', S_IFCHR);
    lsetxattrat(dirfd, 'opaque', OPAQUE_XATTR, Buffer.from('y'));
  } finally {
    closeSync(dirfd);
  }
}
