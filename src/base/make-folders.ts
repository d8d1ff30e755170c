import { mkdirSync, type Stats, statSync } from 'node:fs';
import { mkdir, stat } from 'node:fs/promises';
import { dirname } from 'node:path';

/**
 * Makes a folder with all above it, as `mkdir -p`; one that is there is fine. Throws what mkdir(2) says: EEXIST for what is
 * no folder, also a link to nowhere, ENOENT where none can be made, as in /proc. There Node's own `recursive` goes round
 * for ever.
 */
export function makeFolders(path: string, mode: number): void {
  try {
    makeFolder(path, mode);
  } catch (err) {
    const parent = dirname(path);
    if (!isCode(err, 'ENOENT') || parent === path || statSync(parent, { throwIfNoEntry: false })) throw err;
    makeFolders(parent, mode);
    makeFolder(path, mode);
  }
}

/** As makeFolders(), by libuv's pool: for a disk that may hang. */
export async function makeFoldersAside(path: string, mode: number): Promise<void> {
  try {
    await makeFolderAside(path, mode);
  } catch (err) {
    const parent = dirname(path);
    if (!isCode(err, 'ENOENT') || parent === path || (await stat(parent).catch(() => undefined))) throw err;
    await makeFoldersAside(parent, mode);
    await makeFolderAside(path, mode);
  }
}

function makeFolder(path: string, mode: number): void {
  try {
    mkdirSync(path, { mode });
  } catch (err) {
    if (!isFolder(statSync(path, { throwIfNoEntry: false }))) throw err;
  }
}

async function makeFolderAside(path: string, mode: number): Promise<void> {
  try {
    await mkdir(path, { mode });
  } catch (err) {
    if (!isFolder(await stat(path).catch(() => undefined))) throw err;
  }
}

function isFolder(found: Stats | undefined): boolean {
  return found?.isDirectory() === true;
}

function isCode(err: unknown, code: string): boolean {
  return err instanceof Error && 'code' in err && err.code === code;
}
