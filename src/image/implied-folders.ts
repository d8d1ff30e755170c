/**
 * Folders that a layer has on the way to its files and does not describe. They are in a file beside its tree, and their
 * names stay there and in threads: an archive of a few MB may imply far more of them than berthd has time to look at.
 *
 * The file has their paths, one character per byte, with a NUL between; `.` for the layer's root, which comes first.
 */

import { closeSync, fstatSync, openSync, readFileSync, readSync, writeFileSync } from 'node:fs';

import { invalid } from '../base/errors.ts';
import { isErrno, wrapErrno } from '../sys/errno.ts';

/** All paths together. Hundreds of thousands of folders have less; what has more was made to have it. */
const MAX_BYTES = 32 * 1024 * 1024;
const ROOT = '.';
const BETWEEN = '\0';

/** What a look at the file tells, however long it is. */
export interface ImpliedGlance {
  /** Whether the layer does not describe its root. */
  readonly root: boolean;
  /** Whether it implies folders below that. */
  readonly inner: boolean;
}

/** The folders that a layer implies, while it is unpacked. Paths have no links in them, and one character per byte. */
export class ImpliedFolders {
  readonly #paths = new Set<string>();
  #bytes = 0;

  /** Throws `invalid` when they get too many. */
  add(path: string): void {
    if (this.#paths.has(path)) return;
    this.#paths.add(path);
    this.#bytes += path.length + BETWEEN.length;
    if (this.#bytes > MAX_BYTES)
      throw invalid('path', `folders that no member describes have names of more than ${MAX_BYTES} bytes together`);
  }

  /** A folder is described after all, or gone. */
  delete(path: string): void {
    if (this.#paths.delete(path)) this.#bytes -= path.length + BETWEEN.length;
  }

  /** A folder is gone, and all below it. */
  deleteTree(path: string): void {
    for (const other of this.#paths) if (other === path || other.startsWith(`${path}/`)) this.delete(other);
  }

  /** Writes the file, unless there is nothing to say. */
  write(file: string, isRootImplied: boolean): void {
    const paths = [...(isRootImplied ? [ROOT] : []), ...this.#paths];
    if (paths.length > 0) writeFileSync(file, paths.join(BETWEEN), 'latin1');
  }
}

/** Looks at the beginning of the file; one that is not there implies nothing. */
export function glanceAtImplied(file: string): ImpliedGlance {
  const fd = openUnlessMissing(file);
  if (fd === undefined) return { root: false, inner: false };
  try {
    const head = Buffer.alloc(ROOT.length + BETWEEN.length);
    const text = head.toString('latin1', 0, readSync(fd, head, 0, head.length, 0));
    const root = text === ROOT || text === ROOT + BETWEEN;
    return { root, inner: fstatSync(fd).size > (root ? ROOT.length : 0) };
  } finally {
    closeSync(fd);
  }
}

/** The folders below the root. For threads. */
export function readInnerImplied(file: string): string[] {
  const fd = openUnlessMissing(file);
  if (fd === undefined) return [];
  try {
    return readFileSync(fd, 'latin1')
      .split(BETWEEN)
      .filter((path) => path !== ROOT && path !== '');
  } finally {
    closeSync(fd);
  }
}

function openUnlessMissing(file: string): number | undefined {
  try {
    return openSync(file, 'r');
  } catch (err) {
    if (isErrno(err, 'ENOENT')) return undefined;
    throw wrapErrno(`read what a layer implies from ${file}`, err);
  }
}
