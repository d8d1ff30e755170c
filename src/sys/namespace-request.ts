import { type ErrorKind, invalid } from '../base/errors.ts';

/** The namespaces that a pod may have of its own. */
export type NamespaceKind = 'net' | 'ipc' | 'uts' | 'pid';

/** All that can be pinned, in that order. */
export const pinnedKinds = Object.freeze(['user', 'net', 'ipc', 'uts', 'pid'] as const);

/** A row of /proc/PID/uid_map or gid_map: `length` ids from `hostId` on are `containerId` and those after it. */
export interface IdRange {
  readonly hostId: number;
  readonly containerId: number;
  readonly length: number;
}

/** Whom the ids of a user namespace are on the host. */
export interface IdMaps {
  readonly uids: readonly IdRange[];
  readonly gids: readonly IdRange[];
}

/** New namespaces, and the pause process that holds them. */
export interface NamespaceRequest {
  readonly pausePath: string;
  /** For people who read process lists. */
  readonly pauseArgs?: readonly string[] | undefined;
  /** May be empty: then there is only the pause process. */
  readonly kinds: readonly NamespaceKind[];
  /**
   * True: the network namespace is there, up and pinned in `pinDir` (see `NetworkRequest`), and only joined; what befalls
   * the others leaves it alone. Not with a user namespace.
   */
  readonly hasNetwork?: boolean | undefined;
  /** A new user namespace that all others belong to, pinned as `user`; undefined: the host's. */
  readonly userNamespace?: IdMaps | undefined;
  /** Empty: as on the host. Needs `uts` among the kinds. */
  readonly hostname: string;
  /** `net.*`, `kernel.shm*`, `kernel.msg*`, `kernel.sem` and `fs.mqueue.*`, each with its namespace among the kinds. */
  readonly sysctls: Readonly<Record<string, string>>;
  /** An existing folder; each namespace is bind-mounted onto a new file `<pinDir>/<kind>`. */
  readonly pinDir: string;
  /**
   * cgroup.procs files to which the pause process's pid is written, unless it can be born there. The kernel makes each
   * write wait for a grace period of 5 to 20 ms, which `cgroupThread` avoids where it can.
   */
  readonly cgroupProcs?: readonly string[] | undefined;
  /** v1 `tasks` files by which the thread itself goes into the cgroups, so that pause is born there, and back. */
  readonly cgroupThread?: { readonly enter: readonly string[]; readonly leave: readonly string[] } | undefined;
}

/** A pause process. With the start time its pid is good until the next boot. */
export interface PauseProcess {
  readonly pid: number;
  readonly startTime: number;
}

/** A network namespace for a pod that is yet to come, its loopback up, held by nothing but a pin. */
export interface NetworkRequest {
  /** An existing folder; the namespace is bind-mounted onto a new file `<networkIn>/net`. */
  readonly networkIn: string;
  /** `net.*` alone. */
  readonly sysctls: Readonly<Record<string, string>>;
}

/** A stream socket in another network namespace. */
export interface SocketRequest {
  /** The namespace's file. */
  readonly netns: string;
  readonly family: 'ipv4' | 'ipv6';
}

/**
 * What the worker thread has made for the request at hand, in memory that it shares: the daemon finds it there when the
 * thread dies over it.
 */
export type Made = Int32Array;
/** Where in `Made` the pid of the newest process is, 0 for none. */
export const MADE_PROCESS = 0;
/** Where in `Made` the descriptor of the newest socket is, 0 for none. */
export const MADE_SOCKET = 1;

/** What the worker thread answers to a request. Errors lose their class on the way between threads. */
export type WorkerAnswer =
  | { readonly pause: PauseProcess }
  /** Comes before the pause: the namespaces that need no process are there. */
  | { readonly pinned: true }
  | { readonly fd: number }
  | { readonly hasNetwork: true }
  | { readonly kind: ErrorKind; readonly message: string; readonly errno?: string; readonly call?: string };

/** The namespaces that a request makes: all but a network that is there. */
export function newKinds({ kinds, hasNetwork }: Pick<NamespaceRequest, 'kinds' | 'hasNetwork'>): NamespaceKind[] {
  return kinds.filter((kind) => kind !== 'net' || !hasNetwork);
}

/** HOST_NAME_MAX of linux/utsname.h. */
const HOSTNAME_LIMIT_BYTES = 64;

/** Throws `invalid`, naming the CRI's field, for a request that the kernel would not take, or that would change the host. */
export function checkNamespaceRequest({
  kinds,
  hostname,
  sysctls,
}: Pick<NamespaceRequest, 'kinds' | 'hostname' | 'sysctls'>): void {
  if (hostname !== '' && !kinds.includes('uts')) {
    throw invalid('config.hostname', 'would rename the host: the pod has no UTS namespace of its own');
  }
  if (Buffer.byteLength(hostname) > HOSTNAME_LIMIT_BYTES || /[\0\n]/.test(hostname)) {
    throw invalid('config.hostname', `must be one line of at most ${HOSTNAME_LIMIT_BYTES} bytes`);
  }
  for (const [name, value] of Object.entries(sysctls)) {
    const kind = sysctlKind(name);
    if (kind === undefined) throw invalid(`config.linux.sysctls[${name}]`, 'belongs to no namespace of a pod');
    if (!kinds.includes(kind)) {
      throw invalid(
        `config.linux.sysctls[${name}]`,
        `would change the host: the pod has no ${kind} namespace of its own`,
      );
    }
    if (/[\0\n\r]/.test(value)) throw invalid(`config.linux.sysctls[${name}]`, 'its value must be one line');
    sysctlPath(name);
  }
}

/** Where a sysctl is written. Names come with dots or slashes; the first separator decides, as in sysctl.d(5). */
export function sysctlPath(name: string): string {
  const separator = /[./]/.exec(name)?.[0];
  const parts = name.split(separator ?? '.').map((part) => (separator === '.' ? part.replaceAll('/', '.') : part));
  if (parts.some((part) => part === '' || part === '.' || part === '..' || part.includes('\0'))) {
    throw invalid(`config.linux.sysctls[${name}]`, 'is not a sysctl name');
  }
  return `/proc/sys/${parts.join('/')}`;
}

/** The namespace that a sysctl belongs to; undefined for one of the host's. */
export function sysctlKind(name: string): NamespaceKind | undefined {
  const dotted = name.replaceAll('/', '.');
  if (dotted.startsWith('net.')) return 'net';
  if (/^(kernel\.(shm|msg|sem)|fs\.mqueue\.)/.test(dotted)) return 'ipc';
  return undefined;
}
