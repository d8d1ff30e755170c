import { readdirSync } from 'node:fs';
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

/** Ids of sandboxes that have something in the state folder. */
export function readSandboxStates(stateDir: string): string[] {
  return idsIn([join(stateDir, 'sandboxes')]);
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
