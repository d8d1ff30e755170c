import { readdirSync } from 'node:fs';
import { join } from 'node:path';

import Database from 'better-sqlite3';

/**
 * What a berthd keeps of pods and containers in its own folders, by place: files in the state folder, writable layers,
 * addresses and results of its network, log files it was told to write are not among them, and rows of its database.
 * Places where nothing is are left out, so that `{}` means that no pod has left anything.
 */
export function readPodTraces({
  root,
  state,
}: {
  readonly root: string;
  readonly state: string;
}): Record<string, string[]> {
  const places: Record<string, string[]> = {
    sandboxes: list(join(state, 'sandboxes')),
    bundles: list(join(state, 'containers')),
    exits: list(join(state, 'exits')),
    runtimes: list(join(state, 'runtime')).flatMap((name) => list(join(state, 'runtime', name))),
    snapshots: list(join(root, 'snapshots')).filter((name) => !name.startsWith('.')),
    // Beside one file per address, host-local keeps a lock and the address that it gave last.
    addresses: list(join(root, 'addresses/berth-test')).filter((name) => /^[\d:]/.test(name)),
    networks: list(join(root, 'cni/results')),
    rows: readRows(join(root, 'berth.db')),
  };
  return Object.fromEntries(Object.entries(places).filter(([, found]) => found.length > 0));
}

function list(folder: string): string[] {
  try {
    return readdirSync(folder).sort();
  } catch (err) {
    if (err instanceof Error && 'code' in err && err.code === 'ENOENT') return [];
    throw err;
  }
}

function readRows(file: string): string[] {
  const database = new Database(file, { readonly: true });
  try {
    return ['sandboxes', 'containers', 'pipelines', 'steps'].flatMap((table) =>
      database
        .prepare(`SELECT * FROM ${table}`)
        .all()
        .map((row) => `${table}: ${JSON.stringify(row).slice(0, 200)}`),
    );
  } finally {
    database.close();
  }
}
