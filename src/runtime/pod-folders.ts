import { existsSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';

const ID = /^[0-9a-f]{64}$/;

/** Ids of sandboxes and containers that have something in Berth's folders. */
export interface PodFolders {
  readonly sandboxes: readonly string[];
  readonly containers: readonly string[];
}

/**
 * Looks through the folders in which pods leave something. `sandboxDir` and `snapshotDir` are in the root folder. What
 * is no id is somebody else's.
 */
export function readPodFolders(places: {
  readonly stateDir: string;
  readonly sandboxDir: string;
  readonly snapshotDir: string;
}): PodFolders {
  const { stateDir, sandboxDir, snapshotDir } = places;
  const runtimes = readFolder(join(stateDir, 'runtime')).map((name) => join('runtime', name));
  const inState = ['containers', 'exits', 'volumes', ...runtimes].map((place) => join(stateDir, place));
  return {
    sandboxes: idsIn([join(stateDir, 'sandboxes'), sandboxDir]),
    containers: idsIn([...inState, snapshotDir]),
  };
}

/** In a sandbox's state folder until a pod takes what was made for one that is yet to come. */
export const SPARE_MARK = 'spare';

/** Ids of networks that were made ready, by whichever berthd, and that no sandbox has taken. */
export function readSpareNetworks(stateDir: string): string[] {
  const sandboxes = join(stateDir, 'sandboxes');
  return idsIn([sandboxes]).filter((id) => {
    const folder = join(sandboxes, id);
    // An empty one had not come to its mark, or had lost it already.
    if (existsSync(join(folder, SPARE_MARK))) return true;
    return statSync(folder, { throwIfNoEntry: false })?.isDirectory() === true && readFolder(folder).length === 0;
  });
}

function idsIn(folders: readonly string[]): string[] {
  return [...new Set(folders.flatMap(readFolder))].filter((name) => ID.test(name));
}

/** The names in a folder; none where there is no such folder. */
export function readFolder(path: string): string[] {
  try {
    return readdirSync(path);
  } catch (err) {
    if (err instanceof Error && 'code' in err && (err.code === 'ENOENT' || err.code === 'ENOTDIR')) return [];
    throw err;
  }
}
