import type { ResolvedMounts } from './mounts.ts';
import type { OciMount } from './oci-spec.ts';
import type { SandboxFiles } from './spec-input.ts';

/** What the default mounts depend on. */
interface MountOptions {
  readonly privileged: boolean;
  readonly readonlyRootfs: boolean;
  /** The host's /sys as it is, in place of a new one. */
  readonly bindSys?: boolean;
}

const DEV_MOUNTS: readonly OciMount[] = Object.freeze([
  { destination: '/proc', type: 'proc', source: 'proc', options: ['nosuid', 'noexec', 'nodev'] },
  {
    destination: '/dev',
    type: 'tmpfs',
    source: 'tmpfs',
    options: ['nosuid', 'strictatime', 'mode=755', 'size=65536k'],
  },
  {
    destination: '/dev/pts',
    type: 'devpts',
    source: 'devpts',
    // 5 is the tty group everywhere.
    options: ['nosuid', 'noexec', 'newinstance', 'ptmxmode=0666', 'mode=0620', 'gid=5'],
  },
  { destination: '/dev/mqueue', type: 'mqueue', source: 'mqueue', options: ['nosuid', 'noexec', 'nodev'] },
]);

/** A new sysfs shows a network namespace, and only who owns that one may mount it: in a user namespace not the host's. */
const HOST_SYS: OciMount = Object.freeze({
  destination: '/sys',
  type: 'bind',
  source: '/sys',
  options: ['rbind', 'nosuid', 'noexec', 'nodev', 'ro'],
});

/** A client's mount on these takes the place of every default mount below them too. */
const WHOLE_TREES = ['/dev', '/sys'];

/**
 * All mounts of a container in the order in which they are made: the defaults, without those that the client's own
 * mounts replace, and the client's, parents before children.
 */
export function buildMounts(
  files: SandboxFiles,
  own: Omit<ResolvedMounts, 'mapped'>,
  options: MountOptions,
): OciMount[] {
  const taken = new Set(own.mounts.map((mount) => mount.destination));
  const replaced = WHOLE_TREES.filter((tree) => taken.has(tree));
  const defaults = defaultMounts(files, options).filter(
    ({ destination }) => !taken.has(destination) && !replaced.some((tree) => destination.startsWith(`${tree}/`)),
  );
  return sortMounts([...defaults, ...own.mounts]);
}

/** Mounts in the order in which they can be made: parents before children. */
export function sortMounts(mounts: readonly OciMount[]): OciMount[] {
  return mounts.toSorted((a, b) => depth(a.destination) - depth(b.destination));
}

function defaultMounts(files: SandboxFiles, { privileged, readonlyRootfs, bindSys = false }: MountOptions): OciMount[] {
  const access = privileged ? 'rw' : 'ro';
  const fileAccess = readonlyRootfs ? 'ro' : 'rw';
  const file = (destination: string, source: string): OciMount => ({
    destination,
    type: 'bind',
    source,
    options: ['bind', 'nosuid', 'noexec', 'nodev', fileAccess],
  });
  return [
    ...DEV_MOUNTS,
    // The flags are the source's own, but crun sets just what it is told.
    {
      destination: '/dev/shm',
      type: 'bind',
      source: files.shm,
      options: ['rbind', 'nosuid', 'noexec', 'nodev', 'rw'],
    },
    ...(bindSys ? [HOST_SYS] : sysMounts(access)),
    file('/etc/resolv.conf', files.resolvConf),
    file('/etc/hostname', files.hostname),
    file('/etc/hosts', files.hosts),
  ];
}

function sysMounts(access: 'rw' | 'ro'): OciMount[] {
  return [
    { destination: '/sys', type: 'sysfs', source: 'sysfs', options: ['nosuid', 'noexec', 'nodev', access] },
    {
      destination: '/sys/fs/cgroup',
      type: 'cgroup',
      source: 'cgroup',
      options: ['nosuid', 'noexec', 'nodev', 'relatime', access],
    },
  ];
}

function depth(path: string): number {
  return path.split('/').filter((part) => part !== '').length;
}
