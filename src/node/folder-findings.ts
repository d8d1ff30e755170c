import { chmodSync, existsSync, rmSync, type Stats, statSync } from 'node:fs';
import { dirname, join } from 'node:path';

import { describe } from '../base/errors.ts';
import type { Config } from '../config/load-config.ts';
import { probeOverlay } from '../image/probe-overlay.ts';
import { statfs, TMPFS_MAGIC } from '../sys/statfs.ts';
import type { Finding } from './finding.ts';

const LITTLE_BYTES = 1024 ** 3;
const LITTLE_SHARE = 0.05;

/** What is wrong with the folders and files of a configuration: who may write to them, and what they lie on. */
export function folderFindings(config: Config): Finding[] {
  const { root, state, listen, cni, image, runtime } = config;
  const trusted: [string, string][] = [
    ['root', root],
    ['state', state],
    ...config.sources.map((path): [string, string] => ['configuration', path]),
    ['cni.conf_dir', cni.confDir],
    ...cni.binDirs.map((path): [string, string] => ['cni.bin_dirs', path]),
    ['image.registries_conf', image.registriesConf],
    ['image.auth_file', image.authFile],
    ...runtime.cdiSpecDirs.map((path): [string, string] => ['runtime.cdi_spec_dirs', path]),
    ...runtime.hooksDirs.map((path): [string, string] => ['runtime.hooks_dirs', path]),
  ];
  return [
    ...trusted.flatMap(([key, path]) => (path === '' ? [] : ownerFindings(key, path))),
    ...kindFindings('root', root),
    ...kindFindings('state', state),
    ...secretFindings(image.authFile),
    ...ownerFindings('folder of listen', dirname(listen.replace(/^unix:\/\//, ''))),
    ...spaceFindings(root),
    ...stateFindings(state),
  ];
}

/** Tries an overlay on the root folder's file system; it mounts, so it needs root. */
export function overlayFindings(root: string): Finding[] {
  const folder = join(nearestFolder(root), `.berth-check-${process.pid}`);
  try {
    probeOverlay(folder, []);
    return [];
  } catch (err) {
    return [
      {
        severity: 'error',
        subject: `root ${root}`,
        message: `images cannot be used there: ${describe(err)}`,
        remedy: 'modprobe overlay; if that is not it, set root to a folder on ext4 or xfs',
      },
    ];
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function ownerFindings(key: string, path: string): Finding[] {
  const stats = statOf(path);
  if (!stats) return [];
  const subject = `${key} ${path}`;
  if (stats.uid !== 0)
    return [
      {
        severity: 'error',
        subject,
        message: `belongs to user ${stats.uid}, who can become root by it`,
        remedy: `chown root: ${path}`,
      },
    ];
  // A sticky folder lets others add files, and each of these would be followed.
  const open = (stats.mode & 0o002) !== 0 || ((stats.mode & 0o020) !== 0 && stats.gid !== 0);
  if (!open) return [];
  return [
    {
      severity: 'error',
      subject,
      message: `others than root may change it (mode ${octal(stats)}), and so become root`,
      remedy: `chmod go-w ${path}`,
      // Other programs may count on writing to theirs.
      ...(key === 'root' || key === 'state' ? { mend: () => chmodSync(path, stats.mode & 0o7755) } : {}),
    },
  ];
}

function kindFindings(key: string, path: string): Finding[] {
  const stats = statOf(path);
  if (!stats || stats.isDirectory()) return [];
  const remedy = `mv ${path} ${path}.old, or set ${key} to another folder`;
  return [{ severity: 'error', subject: `${key} ${path}`, message: 'is no folder: berthd cannot start', remedy }];
}

function secretFindings(path: string): Finding[] {
  const stats = path === '' ? undefined : statOf(path);
  if (!stats || (stats.mode & 0o044) === 0) return [];
  return [
    {
      severity: 'warning',
      subject: `image.auth_file ${path}`,
      message: `others may read the passwords in it (mode ${octal(stats)})`,
      remedy: `chmod 600 ${path}`,
      mend: () => chmodSync(path, 0o600),
    },
  ];
}

function spaceFindings(root: string): Finding[] {
  const { availableBytes, totalBytes, freeInodes, totalInodes } = statfs(nearestFolder(root));
  const subject = `root ${root}`;
  const remedy = 'make room: berth image prune --dry-run shows what nothing needs; or set root to another disk';
  const found: Finding[] = [];
  if (availableBytes < LITTLE_BYTES || availableBytes < totalBytes * LITTLE_SHARE)
    found.push({
      severity: 'warning',
      subject,
      message: `only ${Math.floor(availableBytes / 1024 ** 2)} MiB are free on its disk: pulls and writing containers will fail`,
      remedy,
    });
  // Some file systems have no fixed number, and say 0.
  if (totalInodes > 0 && freeInodes < totalInodes * LITTLE_SHARE)
    found.push({ severity: 'warning', subject, message: `only ${freeInodes} files more fit on its disk`, remedy });
  return found;
}

function stateFindings(state: string): Finding[] {
  if (statfs(nearestFolder(state)).type === TMPFS_MAGIC) return [];
  return [
    {
      severity: 'info',
      subject: `state ${state}`,
      message: 'is on a disk, where it survives a reboot and each pod costs writes',
      remedy: state.startsWith('/run/')
        ? 'mount a tmpfs on /run, as systemd does, or set state to a folder that is on one'
        : 'set state to a folder on a tmpfs, such as /run/berth',
    },
  ];
}

/** The folder itself, or the one that it would be made in. */
function nearestFolder(path: string): string {
  let folder = path;
  while (folder !== '/' && !(existsSync(folder) && statSync(folder).isDirectory())) folder = dirname(folder);
  return folder;
}

function statOf(path: string): Stats | undefined {
  return statSync(path, { throwIfNoEntry: false });
}

function octal({ mode }: Stats): string {
  return (mode & 0o7777).toString(8).padStart(4, '0');
}
