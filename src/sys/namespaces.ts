import { extname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';

import { withDeadline } from '../base/deadline.ts';
import { BerthError } from '../base/errors.ts';
import { FAULTS_VARIABLE } from '../base/fault-points.ts';
import { KeyedLock } from '../base/keyed-lock.ts';
import { closeFd } from './at.ts';
import { SyscallError } from './errno.ts';
import { unpin, unpinAside } from './namespace-pins.ts';
import {
  checkNamespaceRequest,
  MADE_PROCESS,
  MADE_SOCKET,
  type Made,
  type NamespaceRequest,
  type NetworkRequest,
  newKinds,
  type PauseProcess,
  pinnedKinds,
  type SocketRequest,
  type WorkerAnswer,
} from './namespace-request.ts';
import { pidfdExited, pidfdOpen, pidfdSendSignal, waitPidfd } from './pidfd.ts';

export type { NamespaceKind, NamespaceRequest, PauseProcess } from './namespace-request.ts';

/** A request takes a millisecond; a cgroup of a busy node may make it wait for a grace period of the kernel. */
const TIMEOUT_MS = 20_000;

/** It runs as it is from source, and compiled. */
const workerUrl = new URL(`./namespace-worker${extname(fileURLToPath(import.meta.url))}`, import.meta.url);

/** One worker thread. */
interface Running {
  readonly worker: Worker;
  readonly made: Made;
}

/**
 * Makes pods' namespaces and their pause processes in a thread of its own, one request after another. The thread
 * starts with the first request or `start`; one that fails is replaced for the next request.
 */
export class NamespaceMaker {
  readonly #timeoutMs: number;
  readonly #turns = new KeyedLock();
  #running: Running | undefined;
  #closed = false;

  constructor(options?: { timeoutMs?: number }) {
    this.#timeoutMs = options?.timeoutMs ?? TIMEOUT_MS;
  }

  /** Starts the thread now, so that the first pod does not wait for it. */
  start(): void {
    this.#running ??= this.#startWorker();
  }

  /**
   * Makes namespaces: host name, loopback and sysctls set, pinned, held by a new pause process, which is a child of
   * this process unless it has a user namespace and a PID namespace. Unless `onPinned` was called, nothing is left on any
   * error, and when the signal aborts. Throws `invalid` for a bad host name or sysctl, and a `SyscallError` that names the
   * call when the kernel refuses.
   * Calls `onPinned` as soon as the network, IPC and UTS namespaces can be used, before there is a pause process; not with
   * a user namespace, which needs one. Who was told may be at work in them: from then on it cannot be called off, and the
   * pins are the caller's to let go of, also when there comes to be no pause process.
   */
  async make(request: NamespaceRequest, signal: AbortSignal, onPinned?: () => void): Promise<PauseProcess> {
    checkNamespaceRequest(request);
    return await this.#turns.withKey('worker', signal, async () => {
      if (this.#closed) throw new BerthError('unavailable', 'make namespaces: the daemon is stopping');
      let isPinned = false;
      const tell = (): void => {
        isPinned = true;
        onPinned?.();
      };
      const isTold = (): boolean => isPinned && onPinned !== undefined;
      const letGo = (): void => unpin(request.pinDir, ['user', ...newKinds(request)]);
      const takeBack = async (made: Made): Promise<void> => {
        const pid = Atomics.load(made, MADE_PROCESS);
        if (pid !== 0) await killChild(pid);
        if (!isTold()) letGo();
      };
      const refuse = (err: unknown): never => {
        // Before that the thread lets go of them: what it finds there is not its own.
        if (isPinned && !isTold()) letGo();
        throw err;
      };
      const what = `make namespaces in ${request.pinDir}`;
      const answer = await this.#ask(request, what, takeBack, tell).catch(refuse);
      if (!('pause' in answer)) throw new BerthError('internal', 'the namespace thread answered something else');
      const { pause } = answer;
      if (!signal.aborted || isTold()) return pause;
      await killChild(pause.pid);
      letGo();
      throw signal.reason;
    });
  }

  /**
   * Makes a network namespace for a pod that is yet to come, which a later make() joins: loopback and sysctls set,
   * pinned, without a process. Returns its file. On any error, and when the signal aborts, nothing is left. Throws as
   * make() does.
   */
  async makeNetwork(request: NetworkRequest, signal: AbortSignal): Promise<string> {
    const { networkIn, sysctls } = request;
    checkNamespaceRequest({ kinds: ['net'], hostname: '', sysctls });
    return await this.#turns.withKey('worker', signal, async () => {
      if (this.#closed) throw new BerthError('unavailable', 'make a network namespace: the daemon is stopping');
      const takeBack = (): void => unpin(networkIn, ['net']);
      await this.#ask(request, `make a network namespace in ${networkIn}`, takeBack);
      if (!signal.aborted) return join(networkIn, 'net');
      takeBack();
      throw signal.reason;
    });
  }

  /**
   * A TCP socket in the network namespace behind a file, non-blocking and close-on-exec. The caller closes it. Throws
   * `notFound` when the file is not there.
   */
  async openSocket(request: SocketRequest, signal: AbortSignal): Promise<number> {
    return await this.#turns.withKey('worker', signal, async () => {
      if (this.#closed) throw new BerthError('unavailable', 'open a socket: the daemon is stopping');
      const answer = await this.#ask(request, `socket in ${request.netns}`, (made) => {
        const fd = Atomics.load(made, MADE_SOCKET);
        if (fd !== 0) closeFd(fd);
      });
      if (!('fd' in answer)) throw new BerthError('internal', 'the namespace thread answered something else');
      if (!signal.aborted) return answer.fd;
      closeFd(answer.fd);
      throw signal.reason;
    });
  }

  /** Ends the thread after the request at hand; those waiting behind it fail. Pause processes live on. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#turns.withKey('worker', new AbortController().signal, async () => {
      await this.#running?.worker.terminate();
      this.#running = undefined;
    });
  }

  /** `takeBack` removes what a thread that failed somewhere in between had made by then. */
  async #ask(
    request: NamespaceRequest | NetworkRequest | SocketRequest,
    what: string,
    takeBack: (made: Made) => Promise<void> | void,
    onPinned: () => void = () => {},
  ): Promise<LastAnswer> {
    this.#running ??= this.#startWorker();
    const running = this.#running;
    const { worker } = running;
    running.made.fill(0);
    using deadline = withDeadline(what, this.#timeoutMs);
    worker.ref();
    try {
      const answered = lastAnswer(worker, what, deadline, onPinned);
      worker.postMessage(request);
      return fromAnswer(await answered);
    } catch (err) {
      if (!(err instanceof WorkerFailure)) throw err;
      if (this.#running === running) this.#running = undefined;
      // A thread that hangs in the kernel ends when that call does: nobody waits for it.
      void worker.terminate();
      await takeBack(running.made);
      throw err.failure;
    } finally {
      worker.unref();
    }
  }

  #startWorker(): Running {
    const made = new Int32Array(new SharedArrayBuffer(8));
    const worker = new Worker(workerUrl, {
      workerData: made,
      execArgv: [],
      env: faultsEnvironment(),
      name: 'namespaces',
      resourceLimits: { maxOldGenerationSizeMb: 16, maxYoungGenerationSizeMb: 1, stackSizeMb: 1 },
    });
    const running = { worker, made };
    // Also for a thread that dies while nobody waits for it.
    worker.on('error', () => {});
    worker.on('exit', () => {
      if (this.#running === running) this.#running = undefined;
    });
    worker.unref();
    return running;
  }
}

/** Nothing of ours is in a thread that visits pods, except what a test wants to go wrong there. */
function faultsEnvironment(): Record<string, string> {
  const faults = process.env[FAULTS_VARIABLE];
  return faults === undefined ? {} : { [FAULTS_VARIABLE]: faults };
}

/** Lets go of all namespaces pinned in a folder and removes their files, not the folder. Safe to repeat. */
export function unpinNamespaces(pinDir: string): void {
  unpin(pinDir, pinnedKinds);
}

/** The same, off the event loop. */
export async function unpinNamespacesAside(pinDir: string): Promise<void> {
  await unpinAside(pinDir, pinnedKinds);
}

/** The thread did not answer: other than a refused request, this may leave something behind. */
class WorkerFailure extends Error {
  readonly failure: unknown;

  constructor(failure: unknown) {
    super('namespace worker failed');
    this.failure = failure;
  }
}

/** What a request ends with when it went well. */
type LastAnswer = Exclude<WorkerAnswer, { kind: unknown } | { pinned: true }>;

async function lastAnswer(
  worker: Worker,
  what: string,
  deadline: AbortSignal,
  onPinned: () => void,
): Promise<Exclude<WorkerAnswer, { pinned: true }>> {
  const { promise, resolve, reject } = Promise.withResolvers<Exclude<WorkerAnswer, { pinned: true }>>();
  const onMessage = (answer: WorkerAnswer): void => {
    if ('pinned' in answer) onPinned();
    else resolve(answer);
  };
  const fail = (failure: unknown): void => reject(new WorkerFailure(failure));
  const onError = (cause: unknown): void =>
    fail(new BerthError('internal', `${what}: the worker thread failed`, { cause }));
  const onExit = (code: number): void => onError(new Error(`exit code ${code}`));
  const onDeadline = (): void => fail(deadline.reason);
  worker.on('message', onMessage);
  worker.once('error', onError);
  worker.once('exit', onExit);
  deadline.addEventListener('abort', onDeadline, { once: true });
  try {
    return await promise;
  } finally {
    worker.off('message', onMessage);
    worker.off('error', onError);
    worker.off('exit', onExit);
    deadline.removeEventListener('abort', onDeadline);
  }
}

function fromAnswer(answer: Exclude<WorkerAnswer, { pinned: true }>): LastAnswer {
  if (!('kind' in answer)) return answer;
  const { kind, message, errno, call } = answer;
  if (errno !== undefined && call !== undefined) throw new SyscallError(kind, message, { errno, call });
  throw new BerthError(kind, message);
}

/** The pid is a child of ours that nobody has reaped, so it is still that child's. */
async function killChild(pid: number): Promise<void> {
  const pidfd = pidfdOpen(pid);
  if (pidfd === undefined) return;
  try {
    pidfdSendSignal(pidfd, 'SIGKILL');
    await pidfdExited(pidfd);
    waitPidfd(pidfd);
  } finally {
    closeFd(pidfd);
  }
}
