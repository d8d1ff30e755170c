import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmodSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import type { Tree } from './tree.ts';

const PACK_TIMEOUT_MS = 600_000;

/** Debian's names of the architectures that Node is there for. */
const ARCHITECTURES: Readonly<Record<string, string>> = { x64: 'amd64', arm64: 'arm64' };

/** Programs that Berth starts, and libraries that its binaries are linked with. */
const DEPENDS = [
  'libc6 (>= 2.36)',
  'libgcc-s1 (>= 12)',
  'libstdc++6 (>= 12)',
  'init-system-helpers (>= 1.52)',
  'conmon',
  'containernetworking-plugins',
  'crun | runc',
  'iptables | nftables',
  // Node's image.
  'mount',
  // Where systemd runs, berthd and crun have it make the cgroups, which is asked for over the system bus.
  'default-dbus-system-bus | dbus-system-bus',
];

/** Quicker unpacking of layers; signatures of images by GnuPG keys; AppArmor profiles; Node's image, unpacked. */
const RECOMMENDS = ['libisal2', 'gpgv', 'apparmor', 'ca-certificates', 'squashfs-tools'];
/** Checkpoints of containers; a client for administrators. */
const SUGGESTS = ['criu'];

/** Debian's name of this machine's architecture. Throws where there is none. */
export function debianArchitecture(): string {
  const name = ARCHITECTURES[process.arch];
  if (name === undefined)
    throw new Error(`there is no Node 24 for ${process.arch}: packages are made on x64 and arm64`);
  return name;
}

/** The control file of the binary package. `installedKib` is its size on disk. */
export function renderControl(version: string, installedKib: number): string {
  return [
    'Package: berth',
    `Version: ${version}`,
    `Architecture: ${debianArchitecture()}`,
    'Maintainer: The Berth authors <berth@localhost>',
    `Installed-Size: ${installedKib}`,
    `Depends: ${DEPENDS.join(', ')}`,
    `Recommends: ${RECOMMENDS.join(', ')}`,
    `Suggests: ${SUGGESTS.join(', ')}`,
    'Section: admin',
    'Priority: optional',
    'Description: Kubernetes container runtime (CRI)',
    ' Berth runs the pods of a Kubernetes node: the kubelet talks to it through',
    ' the Container Runtime Interface. It pulls and unpacks OCI images, gives every',
    ' pod its namespaces and its network, and drives an OCI runtime (crun, runc)',
    ' under a monitor (conmon). Pods go on when it is stopped, killed or upgraded.',
    ' .',
    ' This package brings the daemon, berthd, a command line, berth, and the Node',
    ' runtime that both run on.',
    '',
  ].join('\n');
}

/**
 * Makes a .deb of the tree and of the maintainer scripts in `scripts`. Its bytes depend on nothing else but the time that
 * is given.
 */
export function packDebian(tree: Tree, control: string, scripts: string, epochSeconds: number, output: string): void {
  const meta = join(tree.top, 'DEBIAN');
  const files = tree.entries().filter(({ kind }) => kind === 'file');
  const sums = files.map(({ path }) => `${md5(join(tree.top, path))}  ${path}\n`);
  const conffiles = files.filter(({ path }) => path.startsWith('etc/')).map(({ path }) => `/${path}\n`);
  mkdirSync(meta);
  chmodSync(meta, 0o755);
  const write = (name: string, content: string, mode = 0o644): void => {
    writeFileSync(join(meta, name), content);
    chmodSync(join(meta, name), mode);
  };
  write('control', control);
  write('md5sums', sums.join(''));
  write('conffiles', conffiles.join(''));
  for (const name of ['postinst', 'prerm', 'postrm']) write(name, readFileSync(join(scripts, name), 'utf8'), 0o755);
  tree.settle(epochSeconds);
  rmSync(output, { force: true });
  // zstd, which Debian 12 is the first to read: xz makes a quarter less to download, but takes ten times as long to
  // unpack. One thread: several cut the work in pieces, as many as the machine has.
  const args = ['--root-owner-group', '-Zzstd', '-z9', '--threads-max=1', '--build', tree.top, output];
  execFileSync('dpkg-deb', args, {
    timeout: PACK_TIMEOUT_MS,
    stdio: ['ignore', 'ignore', 'inherit'],
    env: { ...process.env, SOURCE_DATE_EPOCH: String(epochSeconds), LC_ALL: 'C' },
  });
}

function md5(path: string): string {
  return createHash('md5').update(readFileSync(path)).digest('hex');
}
