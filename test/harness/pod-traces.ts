import { readdirSync } from 'node:fs';
import { join } from 'node:path';

import Database from 'better-sqlite3';

/** What there is of pods, by place; places where nothing is are left out. */
export interface PodTraces {
  readonly sandboxes?: readonly string[];
  /** Of sandboxes, on the root folder's disk. */
  readonly files?: readonly string[];
  readonly bundles?: readonly string[];
  readonly exits?: readonly string[];
  /** State that OCI runtimes keep. */
  readonly runtimes?: readonly string[];
  readonly snapshots?: readonly string[];
  readonly addresses?: readonly string[];
  /** Cached results of network plugins. */
  readonly networks?: readonly string[];
  /** Of the database. */
  readonly rows?: readonly string[];
}

/**
 * What a berthd keeps of pods and containers in its own folders and its database; `{}` when no pod has left anything.
 * Images are not among it, nor are logs, which belong to the client.
 */
export function readPodTraces({ root, state }: { readonly root: string; readonly state: string }): PodTraces {
  const places: Record<string, string[]> = {
    sandboxes: list(join(state, 'sandboxes')),
    files: list(join(root, 'sandboxes')),
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
