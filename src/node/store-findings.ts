import { chmodSync, existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';

import { readFolder, readPodFolders, readSpareNetworks } from '../runtime/pod-folders.ts';
import type { StoreContents } from '../store/inspect-store.ts';
import type { Finding } from './finding.ts';

/** Where a berthd has its files. */
export interface StorePlaces {
  readonly root: string;
  readonly state: string;
}

/** How many names a message has at most. */
const NAMES_SHOWN = 3;
const ID_IN_NAME = /-([0-9a-f]{64})-/;
/** What in Berth's folders is for root alone, as far as it is there; all else lies below. */
const PRIVATE = {
  root: [
    'berth.db',
    'berth.db-wal',
    'berth.db-shm',
    'image/layers',
    'image/l',
    'image/ingest',
    'image/configs',
    'sandboxes',
    'records',
  ],
  state: ['containers', 'sandboxes', 'exits', 'volumes', 'runtime', 'records'],
} as const;

/** What of images, bundles and pods is missing, and what there is that no record owns. */
export function storeFindings(places: StorePlaces, contents: StoreContents): Finding[] {
  return [
    ...imageFindings(places, contents),
    ...bundleFindings(places, contents),
    ...orphanFindings(places, contents),
    ...networkResultFindings(places, contents),
    ...modeFindings(places),
    ...asideFindings(places),
  ];
}

/** A database that cannot be read, or whose pages do not fit together. */
export function databaseFindings({ root }: StorePlaces, problem: string, mend: Finding['mend']): Finding[] {
  if (problem === '') return [];
  return [
    {
      severity: 'error',
      subject: `database ${root}/berth.db`,
      message: `${problem}: berthd keeps it aside at its next start and restores pods and images from their copies`,
      remedy: 'systemctl restart berthd',
      mend,
    },
  ];
}

function imageFindings({ root }: StorePlaces, { images, layers }: StoreContents): Finding[] {
  const known = new Set(layers);
  const isHere = (diffId: string): boolean =>
    known.has(diffId) && existsSync(join(root, 'image/layers', hexOf(diffId), 'diff'));
  return images.flatMap(({ id, tags, layers: own }): Finding[] => {
    const missing = own.filter((diffId) => !isHere(diffId));
    if (missing.length === 0) return [];
    const name = tags[0] ?? id;
    return [
      {
        severity: 'error',
        subject: `image ${name}`,
        message: `${missing.length} of its ${own.length} layers are gone (${few(missing)}): no container can be made of it`,
        remedy: `berth image check ${name}; berth image pull ${tags[0] ?? 'ITS-NAME'} brings what is missing`,
      },
    ];
  });
}

function bundleFindings({ state }: StorePlaces, { containers }: StoreContents): Finding[] {
  const broken = containers.filter(
    ({ id, state: now, restoreFrom }) =>
      (now === 'running' || now === 'created') &&
      restoreFrom === undefined &&
      !isJson(join(state, 'containers', id, 'config.json')),
  );
  return broken.map(({ id }) => ({
    severity: 'error',
    subject: `container ${id}`,
    message: `its bundle ${join(state, 'containers', id)} is gone or damaged: no command can be run in it`,
    remedy: `crictl rm -f ${id}: the kubelet makes it anew`,
  }));
}

function orphanFindings({ root, state }: StorePlaces, { sandboxes, containers }: StoreContents): Finding[] {
  const found = readPodFolders({
    stateDir: state,
    sandboxDir: join(root, 'sandboxes'),
    snapshotDir: join(root, 'snapshots'),
  });
  const unknown = [
    ...unknownIds(found.sandboxes, sandboxes).map((id) => `sandbox ${id}`),
    ...unknownIds(found.containers, containers).map((id) => `container ${id}`),
  ];
  if (unknown.length === 0) return [];
  return [
    {
      severity: 'warning',
      subject: 'orphans',
      message: `no record knows ${few(unknown)}, of which there are processes, mounts or files: berthd ends and removes them when it starts`,
      remedy: 'systemctl restart berthd; pods that are known go on meanwhile',
    },
  ];
}

function networkResultFindings({ root }: StorePlaces, { sandboxes }: StoreContents): Finding[] {
  const ids = readFolder(join(root, 'cni/results')).flatMap((name) => ID_IN_NAME.exec(name)?.[1] ?? []);
  const unknown = unknownIds([...new Set(ids)], sandboxes);
  if (unknown.length === 0) return [];
  return [
    {
      severity: 'warning',
      subject: 'networks of pods that are gone',
      message: `network plugins still hold something for ${few(unknown)}, such as addresses, of which others may run out`,
      remedy: 'systemctl restart berthd: it has the plugins give them back',
    },
  ];
}

function modeFindings(places: StorePlaces): Finding[] {
  const paths = [
    ...PRIVATE.root.map((name) => join(places.root, name)),
    ...PRIVATE.state.map((name) => join(places.state, name)),
  ];
  return paths.flatMap((path): Finding[] => {
    const stats = statSync(path, { throwIfNoEntry: false });
    if (!stats || (stats.mode & 0o077) === 0) return [];
    const mode = stats.isDirectory() ? 0o700 : 0o600;
    return [
      {
        severity: 'warning',
        subject: path,
        message: `others than root get into it (mode ${(stats.mode & 0o7777).toString(8)}): it has what containers keep to themselves`,
        remedy: `chmod ${mode.toString(8)} ${path}`,
        mend: () => chmodSync(path, mode),
      },
    ];
  });
}

function asideFindings({ root }: StorePlaces): Finding[] {
  const kept = readFolder(root).filter((name) => /^berth\.db\.damaged-[^/]*Z$/.test(name));
  if (kept.length === 0) return [];
  return [
    {
      severity: 'info',
      subject: `databases in ${root}`,
      message: `${kept.length} damaged ${kept.length === 1 ? 'one is' : 'ones are'} kept aside (${few(kept)}): look at the disk, for what has happened to one file happens to others`,
      remedy: `rm ${join(root, 'berth.db.damaged-*')} when nobody wants to look at them any more`,
    },
  ];
}

/**
 * What an earlier berthd has left, where none runs. Networks for pods to come are no orphans: who is stopped gives them
 * back, and only who is killed leaves them.
 */
export function leftFindings(places: StorePlaces, contents: StoreContents): Finding[] {
  const spares = unknownIds(readSpareNetworks(places.state), contents.sandboxes).map((id) => ({
    id,
    state: 'creating',
  }));
  return [
    ...storeFindings(places, { ...contents, sandboxes: [...contents.sandboxes, ...spares] }),
    ...spareNetworkFindings(spares.length),
    ...strayLayerFindings(places, contents),
  ];
}

function spareNetworkFindings(count: number): Finding[] {
  if (count === 0) return [];
  return [
    {
      severity: 'info',
      subject: 'networks for pods to come',
      message: `${count} were ready when berthd was killed, each with its address: it gives them back when it starts`,
      remedy: 'systemctl start berthd',
    },
  ];
}

/** Layers and folders of images that belong to nothing. A berthd that runs may be at work on them. */
function strayLayerFindings({ root }: Pick<StorePlaces, 'root'>, { layers }: StoreContents): Finding[] {
  const folder = join(root, 'image/layers');
  if (!existsSync(folder)) return [];
  const owned = new Set(layers.map((diffId) => hexOf(diffId)));
  const strays = readdirSync(folder).filter((name) => !owned.has(name));
  if (strays.length === 0) return [];
  return [
    {
      severity: 'info',
      subject: folder,
      message: `${few(strays)}: an unpack or a removal left them unfinished; berthd removes them when it starts`,
      remedy: 'systemctl start berthd',
    },
  ];
}

function unknownIds(ids: readonly string[], known: readonly { readonly id: string }[]): string[] {
  const all = new Set(known.map(({ id }) => id));
  return ids.filter((id) => !all.has(id));
}

function few(names: readonly string[]): string {
  const more = names.length - NAMES_SHOWN;
  return `${names.slice(0, NAMES_SHOWN).join(', ')}${more > 0 ? ` and ${more} more` : ''}`;
}

function isJson(file: string): boolean {
  try {
    JSON.parse(readFileSync(file, 'utf8'));
    return true;
  } catch {
    return false;
  }
}

function hexOf(digest: string): string {
  return digest.slice(digest.indexOf(':') + 1);
}
