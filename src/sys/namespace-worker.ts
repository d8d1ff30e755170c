import { closeSync, constants, openSync, writeFileSync, writeSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import * as threads from 'node:worker_threads';

import { BerthError, describe, invalid, kindOf } from '../base/errors.ts';
import { closeFd } from './at.ts';
import { makeEmptyRoot } from './empty-root.ts';
import { isErrno, SyscallError, wrapErrno } from './errno.ts';
import { bringUpLoopback } from './loopback.ts';
import { asThreadUser, setHostname, setns, unshare } from './namespace-calls.ts';
import { type PinnedKind, pinNamespace, unpin } from './namespace-pins.ts';
import {
  type IdMaps,
  MADE_PROCESS,
  MADE_SOCKET,
  type Made,
  type NamespaceKind,
  type NamespaceRequest,
  type NetworkRequest,
  newKinds,
  type PauseProcess,
  type SocketRequest,
  sysctlKind,
  sysctlPath,
  type WorkerAnswer,
} from './namespace-request.ts';
import { pidfdOpen, pidfdSendSignal, reapKilled } from './pidfd.ts';
import { readProcessStartTime } from './process.ts';
import { canSpawnIntoCgroup, posixSpawn, type SpawnRequest } from './spawn.ts';
import { openTcpSocket } from './tcp.ts';
import { startInUserNamespace } from './user-namespace.ts';

/** By then the thread has loaded what it needs, and most likely made the first pod. */
const SETTLE_MS = 3000;

/**
 * The thread that makes namespaces. Between `unshare` and the way back it belongs to a pod, so all that happens there
 * are synchronous calls on this very thread: anything asynchronous would run on a pool thread, on the host.
 */
function serve(port: threads.MessagePort, made: Made): void {
  const descriptors: Descriptors = {
    originals: {
      net: openSync('/proc/thread-self/ns/net', 'r'),
      ipc: openSync('/proc/thread-self/ns/ipc', 'r'),
      uts: openSync('/proc/thread-self/ns/uts', 'r'),
      pid: openSync('/proc/thread-self/ns/pid', 'r'),
    },
    emptyRoot: makeEmptyRoot(),
  };
  setTimeout(collectGarbage, SETTLE_MS).unref();
  const onPinned = (): void => port.postMessage({ pinned: true } satisfies WorkerAnswer);
  port.on('message', (request: NamespaceRequest | NetworkRequest | SocketRequest) => {
    if ('netns' in request) port.postMessage(answerSocket(request, descriptors, made));
    else if ('networkIn' in request) port.postMessage(answerNetwork(request, descriptors));
    else port.postMessage(answer(request, descriptors, made, onPinned));
  });
}

function answerNetwork({ networkIn, sysctls }: NetworkRequest, { originals }: Descriptors): WorkerAnswer {
  try {
    unshare(['net']);
    configure({ kinds: ['net'], hostname: '', sysctls });
    pinNamespace('/proc/thread-self/ns/net', networkIn, 'net');
    return { hasNetwork: true };
  } catch (err) {
    return toAnswer(err);
  } finally {
    // A throw here ends the thread: in the wrong namespace it must not take another request.
    setns(originals.net, 'net');
  }
}

/** A socket stays in the namespace that it was made in, whoever uses it. */
function answerSocket({ netns, family }: SocketRequest, { originals }: Descriptors, made: Made): WorkerAnswer {
  try {
    visit(netns, 'net');
    const fd = openTcpSocket(family);
    Atomics.store(made, MADE_SOCKET, fd);
    return { fd };
  } catch (err) {
    return toAnswer(err);
  } finally {
    // A throw here ends the thread: in the wrong namespace it must not take another request.
    setns(originals.net, 'net');
  }
}

/** What the thread keeps open: its own namespaces, and the mount namespace that is the home of all pause processes. */
interface Descriptors {
  readonly originals: Readonly<Record<NamespaceKind, number>>;
  readonly emptyRoot: number;
}

function answer(request: NamespaceRequest, descriptors: Descriptors, made: Made, onPinned: () => void): WorkerAnswer {
  const { originals, emptyRoot } = descriptors;
  try {
    return { pause: make(request, emptyRoot, made, onPinned) };
  } catch (err) {
    return toAnswer(err);
  } finally {
    // A throw here ends the thread: in the wrong namespaces or cgroups it must not take another request.
    for (const kind of request.kinds) setns(originals[kind], kind);
    for (const file of request.cgroupThread?.leave ?? []) moveThread(file);
  }
}

function toAnswer(err: unknown): WorkerAnswer {
  const facts = err instanceof SyscallError ? { errno: err.errno, call: err.call } : {};
  return { kind: kindOf(err), message: describe(err), ...facts };
}

/** Makes everything, or takes back what it had made and not told of. */
function make(request: NamespaceRequest, emptyRoot: number, made: Made, onPinned: () => void): PauseProcess {
  const pins = new Pins(request.pinDir);
  try {
    const pid = request.userNamespace
      ? makeInUserNamespace(request, request.userNamespace, pins, emptyRoot, made)
      : makeOnHost(request, pins, emptyRoot, made, onPinned);
    const startTime = readProcessStartTime(pid);
    if (startTime === undefined) throw new BerthError('internal', `pause process ${pid} is gone`);
    return { pid, startTime };
  } catch (err) {
    const pid = Atomics.exchange(made, MADE_PROCESS, 0);
    if (pid !== 0) killPause(pid);
    pins.undo();
    throw err;
  }
}

function makeOnHost(
  request: NamespaceRequest,
  pins: Pins,
  emptyRoot: number,
  made: Made,
  onPinned: () => void,
): number {
  const kinds = newKinds(request);
  if (request.hasNetwork) visit(join(request.pinDir, 'net'), 'net');
  unshare(kinds);
  configure({ ...request, kinds });
  for (const kind of kinds) if (kind !== 'pid') pins.add(`/proc/thread-self/ns/${kind}`, kind);
  pins.handOver();
  onPinned();
  for (const file of request.cgroupThread?.enter ?? []) moveThread(file);
  const { pid, isInCgroup } = spawnPause(request, [emptyRoot]);
  Atomics.store(made, MADE_PROCESS, pid);
  if (request.kinds.includes('pid')) pins.add(`/proc/${pid}/ns/pid`, 'pid');
  if (!isInCgroup) enterCgroups(request, pid);
  return pid;
}

// A thread cannot make a user namespace (EINVAL), so the pause process makes all, and the thread visits it.
function makeInUserNamespace(
  request: NamespaceRequest,
  maps: IdMaps,
  pins: Pins,
  emptyRoot: number,
  made: Made,
): number {
  for (const file of request.cgroupThread?.enter ?? []) moveThread(file);
  let isInCgroup = false;
  const pause = startInUserNamespace(
    maps,
    request.kinds,
    (orders, answers) => {
      const spawned = spawnPause(request, [emptyRoot, orders, answers]);
      isInCgroup = spawned.isInCgroup;
      return spawned.pid;
    },
    (pid) => Atomics.store(made, MADE_PROCESS, pid),
  );
  try {
    for (const kind of request.kinds) if (kind !== 'pid') visit(`/proc/${pause.pid}/ns/${kind}`, kind);
    configure(request);
    for (const kind of ['user', ...request.kinds] as const) pins.add(`/proc/${pause.pid}/ns/${kind}`, kind);
    if (!isInCgroup) enterCgroups(request, pause.pid);
    pause.release();
    return pause.pid;
  } finally {
    pause.close();
  }
}

function visit(path: string, kind: NamespaceKind): void {
  const fd = openSync(path, 'r');
  try {
    setns(fd, kind);
  } finally {
    closeSync(fd);
  }
}

/** Host name, loopback and sysctls of the namespaces that the thread is in. */
function configure({
  kinds,
  hostname,
  sysctls,
  userNamespace,
}: Pick<NamespaceRequest, 'kinds' | 'hostname' | 'sysctls' | 'userNamespace'>): void {
  if (hostname !== '') setHostname(hostname);
  if (kinds.includes('net')) bringUpLoopback();
  for (const [name, value] of Object.entries(sysctls)) {
    const write = (): void => writeSysctl(name, value);
    // Those of an IPC namespace are for the root of its user namespace alone, whatever rights others have.
    const owner = userNamespace && sysctlKind(name) === 'ipc' ? hostRoot(userNamespace) : 0;
    if (owner === 0) write();
    else asThreadUser(owner, write);
  }
}

/** Who on the host is the root of a user namespace. */
function hostRoot({ uids }: IdMaps): number {
  return uids.find(({ containerId }) => containerId === 0)?.hostId ?? 0;
}

/** The pins that one request has made so far and nobody else has. */
class Pins {
  readonly #folder: string;
  readonly #kinds: PinnedKind[] = [];

  constructor(folder: string) {
    this.#folder = folder;
  }

  add(source: string, kind: PinnedKind): void {
    pinNamespace(source, this.#folder, kind);
    this.#kinds.push(kind);
  }

  /** Who is told of them may be at work in the namespaces, and lets go of them. */
  handOver(): void {
    this.#kinds.length = 0;
  }

  undo(): void {
    unpin(this.#folder, this.#kinds);
  }
}

function moveThread(tasksFile: string): void {
  try {
    // 0 stands for the thread that writes (cgroups(7)).
    writeFileSync(tasksFile, '0', { flag: 'r+' });
  } catch (err) {
    throw wrapErrno(`move the namespace thread to ${tasksFile}`, err);
  }
}

function spawnPause(request: NamespaceRequest, more: readonly number[]): { pid: number; isInCgroup: boolean } {
  const { pausePath, pauseArgs, cgroupProcs = [] } = request;
  const nothing = openSync('/dev/null', 'r+');
  try {
    const fds = [nothing, nothing, nothing, ...more];
    const pause = { path: pausePath, args: pauseArgs ?? [], env: {}, cwd: '/', fds, newSession: true };
    const pid = spawnInCgroup(pause, cgroupProcs);
    return { pid: pid ?? posixSpawn(pause), isInCgroup: pid !== undefined };
  } finally {
    closeSync(nothing);
  }
}

/** Undefined where it has to be moved there: an older C library, or a kernel that refuses, which the move then tells. */
function spawnInCgroup(pause: SpawnRequest, cgroupProcs: readonly string[]): number | undefined {
  const [file, ...others] = cgroupProcs;
  if (!canSpawnIntoCgroup || file === undefined || others.length > 0) return undefined;
  try {
    const cgroupFd = openSync(dirname(file), constants.O_DIRECTORY | constants.O_RDONLY);
    try {
      return posixSpawn({ ...pause, cgroupFd });
    } finally {
      closeSync(cgroupFd);
    }
  } catch {
    return undefined;
  }
}

function killPause(pid: number): void {
  const pidfd = pidfdOpen(pid);
  if (pidfd === undefined) return;
  pidfdSendSignal(pidfd, 'SIGKILL');
  closeFd(pidfd);
  reapKilled(pid);
}

function enterCgroups({ cgroupProcs = [] }: NamespaceRequest, pid: number): void {
  for (const file of cgroupProcs) {
    try {
      writeFileSync(file, String(pid), { flag: 'r+' });
    } catch (err) {
      throw wrapErrno(`write pause process ${pid} to ${file}`, err);
    }
  }
}

/** A name or value that the kernel does not take is the caller's mistake. */
function writeSysctl(name: string, value: string): void {
  const field = `config.linux.sysctls[${name}]`;
  try {
    const fd = openSync(sysctlPath(name), constants.O_WRONLY);
    try {
      // The newline makes an empty value one that is written at all.
      writeSync(fd, `${value}\n`);
    } finally {
      closeSync(fd);
    }
  } catch (err) {
    if (isErrno(err, 'ENOENT', 'ENOTDIR', 'EISDIR')) throw invalid(field, 'is not known to this kernel');
    if (isErrno(err, 'EINVAL', 'ERANGE', 'EOVERFLOW')) {
      throw invalid(field, `the kernel does not take ${JSON.stringify(value)}`);
    }
    throw wrapErrno(`set sysctl ${name}`, err);
  }
}

/** What a thread leaves behind while it starts is a third of its memory, and one that does so little never collects it. */
function collectGarbage(): void {
  setFlagsFromString('--expose-gc');
  runInNewContext('gc({ type: "major", execution: "sync", flavor: "last-resort" })');
}

const { parentPort, workerData }: { parentPort: threads.MessagePort | null; workerData: unknown } = threads;
if (parentPort && workerData instanceof Int32Array) serve(parentPort, workerData);
