import { PassThrough, Writable } from 'node:stream';

import type { ContainerId, SandboxId } from '../../src/base/ids.ts';
import { silentLogger } from '../../src/base/log.ts';
import { PodStreams } from '../../src/pod/pod-streams.ts';
import { RecordIndex } from '../../src/pod/record-index.ts';
import type { ContainerRecord, ContainerState } from '../../src/pod/records.ts';
import type { ClientStreams, WindowSize } from '../../src/runtime/client-streams.ts';
import { ContainerRuntime } from '../../src/runtime/container-runtime.ts';
import { findProgram } from '../../src/runtime/handlers.ts';
import { buildNative } from '../fakes/build-native.ts';
import { Lab, type LabContainer, plainContainer } from './runtime-lab.ts';

/** Containers of a runtime lab as records, and PodStreams on top of them. */
export class StreamLab implements AsyncDisposable {
  readonly lab: Lab;
  readonly runtime: ContainerRuntime;
  readonly containers = new RecordIndex<ContainerRecord>('container', { put() {}, delete() {} }, []);
  readonly streams: PodStreams;
  readonly #shutdown = new AbortController();

  private constructor(lab: Lab) {
    this.lab = lab;
    this.runtime = new ContainerRuntime({
      stateDir: lab.stateDir,
      monitorPath: findProgram('conmon'),
      execMonitorPath: buildNative('exec-monitor', lab.folder),
      systemdCgroup: false,
      processes: lab.processes,
      log: silentLogger,
    });
    const { containers, runtime } = this;
    this.streams = new PodStreams({ containers, runtime, handlers: { get: () => lab.handler } }, this.#shutdown.signal);
  }

  static async open(handlerName: string): Promise<StreamLab> {
    return new StreamLab(await Lab.open(handlerName));
  }

  /** A running container. */
  async run(wish: LabContainer, signal: AbortSignal): Promise<ContainerRecord> {
    const { id, init, monitor } = await this.lab.run(wish, signal);
    const record: ContainerRecord = {
      id: id as ContainerId,
      sandboxId: 'sandbox' as SandboxId,
      name: `lab-${id}`,
      state: 'running',
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
    return record;
  }

  setState(id: ContainerId, state: ContainerState): void {
    this.containers.put({ ...this.containers.get(id), state });
  }

  shutDown(): void {
    this.#shutdown.abort(new Error('berthd is stopping'));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.shutDown();
    await this.runtime.close();
    await this.lab[Symbol.asyncDispose]();
  }
}

/** A client in this process that keeps what it gets. */
export class TestClient implements ClientStreams {
  readonly stdin = new PassThrough();
  readonly stdout = new Kept();
  readonly stderr = new Kept();
  #listener: (size: WindowSize) => void = () => {};

  onResize(listener: (size: WindowSize) => void): void {
    this.#listener = listener;
  }

  resize(width: number, height: number): void {
    this.#listener({ width, height });
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
