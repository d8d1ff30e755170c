import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { PassThrough, Readable, Writable } from 'node:stream';

import { type ContainerId, newSandboxId, type SandboxId } from '../../src/base/ids.ts';
import { silentLogger } from '../../src/base/log.ts';
import { PodStreams } from '../../src/pod/pod-streams.ts';
import { RecordIndex } from '../../src/pod/record-index.ts';
import type { ContainerRecord, ContainerState, SandboxRecord } from '../../src/pod/records.ts';
import { makeSandboxFolders, sandboxPaths } from '../../src/pod/sandbox-files.ts';
import type { SandboxSpec } from '../../src/pod/sandbox-spec.ts';
import type { ClientStreams, WindowSize } from '../../src/runtime/client-streams.ts';
import { ContainerRuntime } from '../../src/runtime/container-runtime.ts';
import { findProgram } from '../../src/runtime/handlers.ts';
import { NamespaceMaker, unpinNamespaces } from '../../src/sys/namespaces.ts';
import { killProcess } from '../../src/sys/process.ts';
import { buildNative } from '../fakes/build-native.ts';
import { childPids, openFdCount } from '../fakes/process-facts.ts';
import { eventually } from '../harness/cri-lab.ts';
import { isAlive } from '../harness/machine-state.ts';
import { Lab, type LabContainer, plainContainer } from './runtime-lab.ts';

const plainSandbox: SandboxSpec = {
  name: 'lab',
  namespace: 'default',
  uid: 'uid',
  attempt: 0,
  hostname: '',
  logDirectory: '',
  dns: undefined,
  portMappings: [],
  labels: {},
  annotations: {},
  cgroupParent: '',
  sysctls: {},
  overhead: undefined,
  resources: undefined,
  security: {
    namespaces: plainContainer.security.namespaces,
    privileged: false,
    selinux: undefined,
    runAsUser: undefined,
    runAsGroup: undefined,
    readonlyRootfs: false,
    supplementalGroups: [],
    supplementalGroupsPolicy: 'merge',
    seccomp: undefined,
    apparmor: undefined,
  },
  runtimeHandler: '',
};

/** A sandbox that is no more than its network namespace. */
/** Its network and processes are the host's: only its record is asked for. */
const sandboxOfContainers: Omit<SandboxRecord, 'id'> = {
  name: 'sandbox',
  state: 'ready',
  spec: plainSandbox,
  pause: undefined,
  createdAtUs: 0,
  handler: '',
  hostname: '',
  cgroup: undefined,
  ips: [],
};

export interface LabSandbox extends AsyncDisposable {
  readonly id: SandboxId;
  readonly netns: string;
}

/** Containers of a runtime lab as records, and PodStreams on top of them. */
export class StreamLab implements AsyncDisposable {
  readonly lab: Lab;
  readonly runtime: ContainerRuntime;
  readonly containers = new RecordIndex<ContainerRecord>('container', { put() {}, delete() {} }, []);
  readonly sandboxes = new RecordIndex<SandboxRecord>('sandbox', { put() {}, delete() {} }, []);
  readonly namespaces = new NamespaceMaker();
  readonly streams: PodStreams;
  readonly #shutdown = new AbortController();
  readonly #pausePath: string;
  readonly #dirs: { readonly stateDir: string; readonly sandboxDir: string };

  private constructor(lab: Lab) {
    this.lab = lab;
    this.#dirs = { stateDir: lab.stateDir, sandboxDir: join(lab.folder, 'sandboxes') };
    this.#pausePath = buildNative('pause', lab.folder);
    this.runtime = new ContainerRuntime({
      stateDir: lab.stateDir,
      monitorPath: findProgram('conmon'),
      execMonitorPath: buildNative('exec-monitor', lab.folder),
      execJoinPath: lab.execJoinPath,
      filterReaderPath: lab.filterReaderPath,
      systemdCgroup: false,
      processes: lab.processes,
      programs: lab.programs,
      namespaces: this.namespaces,
      log: silentLogger,
    });
    this.streams = new PodStreams(
      {
        ...this.#dirs,
        sandboxes: this.sandboxes,
        containers: this.containers,
        runtime: this.runtime,
        processes: lab.processes,
        cgroups: { expectMoves() {}, container: (_parent, id) => lab.cgroupOf(id) },
        handlers: { get: () => lab.handler },
      },
      this.#shutdown.signal,
    );
  }

  static async open(handlerName: string): Promise<StreamLab> {
    return new StreamLab(await Lab.open(handlerName));
  }

  /** A running container. */
  async run(wish: LabContainer, signal: AbortSignal): Promise<ContainerRecord> {
    const { id } = await this.create(wish, signal);
    await this.lab.runtime.start(id, signal);
    return this.setState(id, 'running');
  }

  /** A container that was not started yet. */
  async create(wish: LabContainer, signal: AbortSignal): Promise<ContainerRecord> {
    const { id, init, monitor } = await this.lab.create(wish, signal);
    const record: ContainerRecord = {
      id: id as ContainerId,
      sandboxId: 'sandbox' as SandboxId,
      name: `lab-${id}`,
      state: 'created',
      createdAtUs: 0,
      startedAtUs: 0,
      exit: undefined,
      spec: { ...plainContainer, ...wish.spec },
      handler: this.lab.handler.name,
      imageId: '',
      imageName: '',
      imageRef: '',
      stopSignal: 'SIGTERM',
      logFile: wish.logFile ?? '',
      user: undefined,
      resources: plainContainer.resources,
      init,
      monitor,
    };
    this.containers.put(record);
    this.sandboxes.put({ ...sandboxOfContainers, id: record.sandboxId });
    return record;
  }

  /** A sandbox with a network namespace of its own, or on the host's network. */
  async sandbox(network: 'pod' | 'node', signal: AbortSignal): Promise<LabSandbox> {
    const id = newSandboxId();
    const paths = sandboxPaths(this.#dirs, id);
    makeSandboxFolders(paths);
    const pause = await this.namespaces.make(
      {
        pausePath: this.#pausePath,
        kinds: network === 'pod' ? ['net'] : [],
        hostname: '',
        sysctls: {},
        pinDir: paths.namespaces,
      },
      signal,
    );
    const namespaces = { ...plainSandbox.security.namespaces, network };
    const spec = { ...plainSandbox, security: { ...plainSandbox.security, namespaces } };
    const rest = { createdAtUs: 0, handler: '', hostname: '', cgroup: undefined, ips: [] };
    this.sandboxes.put({ id, name: id, state: 'ready', spec, pause, ...rest });
    const remove = async (): Promise<void> => {
      killProcess(pause.pid, pause.startTime, 'SIGKILL');
      await this.lab.processes.exitOf(pause.pid, pause.startTime, signal);
      unpinNamespaces(paths.namespaces);
      rmSync(paths.folder, { recursive: true });
    };
    return { id, netns: join(paths.namespaces, 'net'), [Symbol.asyncDispose]: remove };
  }

  setState(id: ContainerId, state: ContainerState): ContainerRecord {
    const record = { ...this.containers.get(id), state };
    this.containers.put(record);
    return record;
  }

  shutDown(): void {
    this.#shutdown.abort(new Error('berthd is stopping'));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.shutDown();
    await this.runtime.close();
    await this.namespaces.close();
    await this.lab[Symbol.asyncDispose]();
  }
}

/** A client in this process that keeps what it gets. */
export class TestClient implements ClientStreams {
  readonly stdin = new PassThrough();
  readonly stdout = new Kept();
  readonly stderr = new Kept();
  #listener: (size: WindowSize) => void = () => {};
  #size: WindowSize | undefined;

  onResize(listener: (size: WindowSize) => void): void {
    this.#listener = listener;
    if (this.#size) listener(this.#size);
  }

  resize(width: number, height: number): void {
    this.#size = { width, height };
    this.#listener(this.#size);
  }
}

/** A stream that keeps all that is written to it. */
export class Kept extends Writable {
  #text = '';
  readonly #waiters: (() => void)[] = [];

  get text(): string {
    return this.#text;
  }

  /** Resolves when the text matches. */
  async shows(pattern: RegExp): Promise<string> {
    while (!pattern.test(this.#text)) {
      if (this.writableFinished) throw new Error(`ended without ${pattern}: ${this.#text}`);
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#waiters.push(resolve);
      await promise;
    }
    return this.#text;
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: () => void): void {
    this.#text += chunk.toString();
    this.#wake();
    done();
  }

  override _final(done: () => void): void {
    done();
    setImmediate(() => this.#wake());
  }

  #wake(): void {
    for (const wake of this.#waiters.splice(0)) wake();
  }
}

/** A client's output that counts, and takes nothing while it is held. */
export class Counter extends Writable {
  bytes = 0;
  readonly #firstHeld = Promise.withResolvers<void>();
  #isHeld = false;
  #held: (() => void) | undefined;

  hold(): void {
    this.#isHeld = true;
  }

  release(): void {
    this.#isHeld = false;
    this.#held?.();
  }

  /** Resolves when something waits to be taken. */
  get held(): Promise<void> {
    return this.#firstHeld.promise;
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: () => void): void {
    this.bytes += chunk.length;
    if (this.#isHeld) {
      this.#held = done;
      this.#firstHeld.resolve();
    } else done();
  }
}

/** That many bytes of input. */
export function zeros(size: number): Readable {
  const chunk = Buffer.alloc(64 * 1024);
  let left = size;
  return new Readable({
    read() {
      if (left === 0) this.push(null);
      else {
        const piece = chunk.subarray(0, Math.min(left, chunk.length));
        left -= piece.length;
        this.push(piece);
      }
    },
  });
}

/** How many descriptors this process has open once its children that have ended are reaped: each holds one until then. */
export async function settledFdCount(): Promise<number> {
  await eventually('ended children are reaped', () => childPids().every(isAlive) || undefined);
  return openFdCount();
}
