import { existsSync } from 'node:fs';

import { BerthError } from '../base/errors.ts';
import { closeFd } from './at.ts';
import { syscallError } from './errno.ts';
import { cString, libc } from './libc.ts';
import { duplicateFd } from './pipe.ts';

type Rc = number;
type SpawnArguments = readonly [
  pid: Uint8Array,
  path: string,
  actions: Uint8Array,
  attributes: Uint8Array,
  argv: readonly (string | null)[],
  envp: readonly (string | null)[],
];
interface Spawn {
  (...args: SpawnArguments): Rc;
  readonly async: (...args: [...SpawnArguments, (err: unknown, rc: Rc) => void]) => void;
}
const fn = {
  posixSpawnp: libc.func('posix_spawnp', 'int', ['void *', 'str', 'void *', 'void *', 'str *', 'str *']) as Spawn,
  actionsInit: libc.func('posix_spawn_file_actions_init', 'int', ['void *']) as (actions: Uint8Array) => Rc,
  actionsDestroy: libc.func('posix_spawn_file_actions_destroy', 'int', ['void *']) as (actions: Uint8Array) => Rc,
  addDup2: libc.func('posix_spawn_file_actions_adddup2', 'int', ['void *', 'int', 'int']) as (
    actions: Uint8Array,
    from: number,
    to: number,
  ) => Rc,
  addCloseFrom: libc.func('posix_spawn_file_actions_addclosefrom_np', 'int', ['void *', 'int']) as (
    actions: Uint8Array,
    lowest: number,
  ) => Rc,
  addChdir: libc.func('posix_spawn_file_actions_addchdir_np', 'int', ['void *', 'str']) as (
    actions: Uint8Array,
    path: string,
  ) => Rc,
  attributesInit: libc.func('posix_spawnattr_init', 'int', ['void *']) as (attributes: Uint8Array) => Rc,
  attributesDestroy: libc.func('posix_spawnattr_destroy', 'int', ['void *']) as (attributes: Uint8Array) => Rc,
  setFlags: libc.func('posix_spawnattr_setflags', 'int', ['void *', 'short']) as (
    attributes: Uint8Array,
    flags: number,
  ) => Rc,
  setSigDefault: libc.func('posix_spawnattr_setsigdefault', 'int', ['void *', 'void *']) as (
    attributes: Uint8Array,
    set: Uint8Array,
  ) => Rc,
  setSigMask: libc.func('posix_spawnattr_setsigmask', 'int', ['void *', 'void *']) as (
    attributes: Uint8Array,
    set: Uint8Array,
  ) => Rc,
};

type SetCgroup = (attributes: Uint8Array, cgroupFd: number) => Rc;
const setCgroup = findSetCgroup();

const POSIX_SPAWN_SETSIGDEF = 0x04;
const POSIX_SPAWN_SETSIGMASK = 0x08;
const POSIX_SPAWN_SETSID = 0x80;
const POSIX_SPAWN_SETCGROUP = 0x100;
/** More than glibc's posix_spawnattr_t (336 bytes) and posix_spawn_file_actions_t (80) take. */
const OPAQUE_BYTES = 512;
const SIGSET_BYTES = 128;

/** A process to start. */
export interface SpawnRequest {
  /** A path, or a bare name that is looked up in this process's PATH. */
  readonly path: string;
  /** Without argv[0], which is `path`. */
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly cwd?: string | undefined;
  /** Descriptors of this process that become 0, 1, 2, ... of the child. All others are closed in the child. */
  readonly fds: readonly number[];
  /**
   * A session and a process group of its own: no terminal, no signals meant for this one, and it can be signalled with
   * its descendants.
   */
  readonly newSession?: boolean | undefined;
  /** The open folder of a cgroup v2 that it is born in. Only where `canSpawnIntoCgroup`. */
  readonly cgroupFd?: number | undefined;
}

/** Whether a process can be born in another cgroup (CLONE_INTO_CGROUP of clone(2)): glibc offers it from 2.39 on. */
export const canSpawnIntoCgroup = setCgroup !== undefined;

/**
 * Starts a process (posix_spawn(3)) and returns its pid; it is a child that must be reaped. It starts with default
 * signal handlers and an empty signal mask: Node ignores SIGPIPE, and a shell's pipeline must not inherit that. However
 * large this process is, its memory is not copied; but the thread sleeps until the child has executed its program: 0.15
 * ms, and as long as the child waits for a processor or a disk. Throws `notFound` for a missing program or folder, else
 * a `SyscallError` that names the program.
 */
export function posixSpawn(request: SpawnRequest): number {
  using prepared = new PreparedSpawn(request);
  return prepared.pidAfter(fn.posixSpawnp(...prepared.args));
}

/**
 * As `posixSpawn`, while a thread of libuv's pool sleeps in place of this one. The descriptors must stay open until it
 * settles. It cannot be called off.
 */
export async function posixSpawnInPool(request: SpawnRequest): Promise<number> {
  using prepared = new PreparedSpawn(request);
  const { promise, resolve, reject } = Promise.withResolvers<Rc>();
  fn.posixSpawnp.async(...prepared.args, (err, rc) => {
    if (err === null) resolve(rc);
    else reject(err);
  });
  return prepared.pidAfter(await promise);
}

/** What one call of posix_spawnp(3) is given. It must be kept, and its memory with it, until the call has ended. */
class PreparedSpawn implements Disposable {
  readonly args: SpawnArguments;
  readonly #request: SpawnRequest;
  readonly #pid = Buffer.alloc(8);
  readonly #actions = Buffer.alloc(OPAQUE_BYTES);
  readonly #attributes = Buffer.alloc(OPAQUE_BYTES);
  readonly #copies: number[] = [];

  constructor(request: SpawnRequest) {
    this.#request = request;
    const argv = [request.path, ...request.args, null];
    const envp = [...Object.entries(request.env).map(([key, value]) => `${key}=${value}`), null];
    for (const text of [...argv, ...envp, request.cwd ?? null]) if (text !== null) cString(text);
    expectOk('posix_spawn_file_actions_init', fn.actionsInit(this.#actions));
    expectOk('posix_spawnattr_init', fn.attributesInit(this.#attributes));
    try {
      addFileActions(this.#actions, request, this.#copies);
      setAttributes(this.#attributes, request);
    } catch (err) {
      this[Symbol.dispose]();
      throw err;
    }
    this.args = [this.#pid, request.path, this.#actions, this.#attributes, argv, envp];
  }

  /** Of the process, once the call has returned this. */
  pidAfter(errno: Rc): number {
    if (errno !== 0) throw spawnError(this.#request, errno);
    return this.#pid.readInt32LE(0);
  }

  [Symbol.dispose](): void {
    fn.actionsDestroy(this.#actions);
    fn.attributesDestroy(this.#attributes);
    for (const fd of this.#copies) closeFd(fd);
  }
}

function addFileActions(actions: Uint8Array, { fds, cwd }: SpawnRequest, copies: number[]): void {
  fds.forEach((fd, target) => {
    // A source that an earlier dup2 would overwrite is first moved above all targets. dup2 onto itself is fine: glibc
    // then only clears close-on-exec.
    let source = fd;
    if (fd < fds.length && fd !== target) {
      source = duplicateFd(fd, fds.length);
      copies.push(source);
    }
    expectOk('posix_spawn_file_actions_adddup2', fn.addDup2(actions, source, target));
  });
  // Descriptors that this process inherited need not be close-on-exec.
  expectOk('posix_spawn_file_actions_addclosefrom_np', fn.addCloseFrom(actions, fds.length));
  if (cwd !== undefined) expectOk('posix_spawn_file_actions_addchdir_np', fn.addChdir(actions, cwd));
}

function findSetCgroup(): SetCgroup | undefined {
  try {
    return libc.func('posix_spawnattr_setcgroup_np', 'int', ['void *', 'int']) as SetCgroup;
  } catch {
    // An older C library.
    return undefined;
  }
}

function setAttributes(attributes: Uint8Array, { newSession, cgroupFd }: SpawnRequest): void {
  let flags = POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK;
  if (cgroupFd !== undefined && setCgroup) {
    flags |= POSIX_SPAWN_SETCGROUP;
    expectOk('posix_spawnattr_setcgroup_np', setCgroup(attributes, cgroupFd));
  }
  if (newSession === true) flags |= POSIX_SPAWN_SETSID;
  expectOk('posix_spawnattr_setsigdefault', fn.setSigDefault(attributes, Buffer.alloc(SIGSET_BYTES, 0xff)));
  expectOk('posix_spawnattr_setsigmask', fn.setSigMask(attributes, Buffer.alloc(SIGSET_BYTES)));
  expectOk('posix_spawnattr_setflags', fn.setFlags(attributes, flags));
}

/** These functions return the errno itself. */
function expectOk(call: string, errno: number): void {
  if (errno !== 0) throw syscallError(call, 'posix_spawn', errno);
}

/** ENOENT may mean the program, its folder to run in, or a script's interpreter: looks which one it was. */
function spawnError({ path, cwd }: SpawnRequest, errno: number): BerthError {
  const cause = syscallError('posix_spawn', path, errno);
  if (cause.errno !== 'ENOENT') return cause;
  if (cwd !== undefined && !existsSync(cwd)) {
    return new BerthError('notFound', `${path}: working directory ${cwd} does not exist`, { cause });
  }
  const problem = path.includes('/') && existsSync(path) ? 'its interpreter was not found' : 'program not found';
  return new BerthError('notFound', `${path}: ${problem}`, { cause });
}
