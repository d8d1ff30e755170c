import { statSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';

import { BerthError, because, describe, invalid } from '../base/errors.ts';
import { InFlight } from '../base/in-flight.ts';
import type { ContainerSpec } from '../runtime/container-spec.ts';
import { checkpoint } from './checkpoint.ts';
import { readPodCheckpoint } from './checkpoint-archive.ts';
import { type PodCheckpointWish, podCheckpointRequest } from './checkpoint-pod.ts';
import { sandboxName } from './names.ts';
import type { PodDeps } from './pod-deps.ts';
import type { Pods } from './pods.ts';
import type { ContainerRecord, SandboxRecord } from './records.ts';
import type { SandboxSpec } from './sandbox-spec.ts';

/** A pod to be made from a checkpoint. */
export interface RestoreWish {
  /** The folder that checkpointPod() has filled. */
  readonly path: string;
  readonly sandbox: SandboxSpec;
  /** Exactly the containers of the checkpoint, by name; their images are the checkpoint's. */
  readonly containers: readonly ContainerSpec[];
}

/** The pod that a checkpoint has become, its containers in the order of the request. */
export interface RestoredPod {
  readonly sandbox: SandboxRecord;
  readonly containers: readonly ContainerRecord[];
}

/** The clients that wait for the pod of a name, all of them together. */
interface Restoring {
  clients: number;
  /** One of them has it. */
  isMade: boolean;
}

/** Checkpoint and restore of containers and pods. Work that was begun goes on when its client leaves. */
export class PodCheckpoints {
  readonly #deps: PodDeps;
  readonly #pods: Pods;
  readonly #shutdown: AbortSignal;
  readonly #work = new InFlight<unknown>();
  /** By the pod's name. */
  readonly #restoring = new Map<string, Restoring>();

  constructor(deps: PodDeps, pods: Pods, shutdown: AbortSignal) {
    this.#deps = deps;
    this.#pods = pods;
    this.#shutdown = shutdown;
  }

  /** Waits for the work in flight, which the shutdown signal has told to end. */
  async close(): Promise<void> {
    await this.#work.idle();
  }

  /** Writes a running container to an archive, only for root to read; an older one is replaced. See checkpoint(). */
  async checkpointContainer(id: string, archive: string, timeoutMs: number, signal: AbortSignal): Promise<void> {
    const record = this.#pods.getContainer(id);
    checkArchivePath(archive);
    const ctx = { deps: this.#deps, id: record.id, request: { containers: [{ id: record.id, archive }] }, timeoutMs };
    await this.#work.join(JSON.stringify([record.id, archive]), signal, () => checkpoint(ctx, this.#shutdown));
  }

  /** Writes all running containers of a sandbox to a folder. See podCheckpointRequest() and checkpoint(). */
  async checkpointPod(id: string, wish: PodCheckpointWish, signal: AbortSignal): Promise<void> {
    const record = this.#pods.getSandbox(id);
    // By what is asked for: the folder is not empty any more when a request is repeated while its files are written.
    const key = JSON.stringify([record.id, resolve(wish.outputPath), [...wish.containerIds].sort()]);
    await this.#work.join(key, signal, async () => {
      const request = podCheckpointRequest(this.#deps, record, wish);
      await checkpoint({ deps: this.#deps, id: record.id, request, timeoutMs: 0 }, this.#shutdown);
    });
  }

  /**
   * Makes a pod from a checkpoint; its containers go on where they were when each is started. Throws `invalid` when the
   * containers are not those of the checkpoint; whatever was made by then is removed. A request that is repeated gets the
   * pod that it has made, for an answer may be lost, until one of its containers is started; then, and for a pod that is
   * another, it throws `alreadyExists`.
   */
  async restorePod(wish: RestoreWish, signal: AbortSignal): Promise<RestoredPod> {
    const archives = archivesOf(wish);
    const name = sandboxName(wish.sandbox);
    const known = this.#deps.sandboxes.findByName(name);
    // One that is being made, for a client that may have left by now: this one goes on with it.
    if (known && known.state !== 'creating' && !this.#restoring.has(name))
      return await this.#restoredBefore(known, wish, archives, signal);
    const restoring = this.#restoring.get(name) ?? { clients: 0, isMade: false };
    this.#restoring.set(name, restoring);
    restoring.clients += 1;
    let sandbox: SandboxRecord | undefined;
    try {
      sandbox = await this.#pods.runSandbox(wish.sandbox, signal);
      const containers = await this.#createContainers(sandbox, wish, archives, signal);
      restoring.isMade = true;
      return { sandbox, containers };
    } catch (err) {
      // Nobody takes from another client what that one has, or still waits for.
      if (sandbox && restoring.clients === 1 && !restoring.isMade) await this.#removeHalf(sandbox);
      throw err;
    } finally {
      restoring.clients -= 1;
      if (restoring.clients === 0) this.#restoring.delete(name);
    }
  }

  // What is there is compared once more where it would be made; nothing is taken away when it is something else.
  async #restoredBefore(
    known: SandboxRecord,
    wish: RestoreWish,
    archives: ReadonlyMap<string, string>,
    signal: AbortSignal,
  ): Promise<RestoredPod> {
    const own = this.#deps.containers.all().filter(({ sandboxId }) => sandboxId === known.id);
    const isWhole =
      own.length === archives.size &&
      own.every(({ spec, state, restoreFrom }) => archives.has(spec.name) && state === 'created' && restoreFrom);
    if (!isWhole) {
      const problem = 'and is not, or not any more, what this request would make; remove it first';
      throw new BerthError('alreadyExists', `sandbox ${known.name} is there as ${known.id}, ${problem}`);
    }
    const sandbox = await this.#pods.runSandbox(wish.sandbox, signal);
    return { sandbox, containers: await this.#createContainers(sandbox, wish, archives, signal) };
  }

  async #createContainers(
    { id }: SandboxRecord,
    { containers }: RestoreWish,
    archives: ReadonlyMap<string, string>,
    signal: AbortSignal,
  ): Promise<ContainerRecord[]> {
    const made: ContainerRecord[] = [];
    for (const spec of containers) {
      const image = { ...spec.image, reference: archives.get(spec.name) ?? '' };
      made.push(await this.#pods.createContainer(id, { ...spec, image }, signal));
    }
    return made;
  }

  async #removeHalf({ id }: SandboxRecord): Promise<void> {
    await this.#pods.removeSandbox(id, this.#shutdown).catch((err: unknown) => {
      this.#deps.log.error({ sandbox: id, err: describe(err) }, 'half-restored sandbox could not be removed');
    });
  }
}

function archivesOf({ path, containers }: RestoreWish): Map<string, string> {
  if (!path.startsWith('/') || path.includes('\0'))
    throw invalid('checkpoint_path', `${JSON.stringify(path)} is not an absolute path`);
  const known = new Map(readPodCheckpoint(path).containers.map(({ name, archive }) => [name, join(path, archive)]));
  const names = containers.map(({ name }) => name);
  const isExact =
    names.length === known.size && names.every((name) => known.has(name)) && new Set(names).size === known.size;
  if (!isExact) {
    const wanted = [...known.keys()].sort().join(', ');
    throw invalid('container_configs', `must be those of the checkpoint by name, ${wanted}, each once`);
  }
  return known;
}

function checkArchivePath(archive: string): void {
  const field = 'location';
  if (!archive.startsWith('/') || archive.endsWith('/') || archive.includes('\0'))
    throw invalid(field, `${JSON.stringify(archive)} is not the absolute path of a file`);
  try {
    if (!statSync(dirname(archive)).isDirectory()) throw invalid(field, `${dirname(archive)} is not a folder`);
    if (statSync(archive, { throwIfNoEntry: false })?.isDirectory()) throw invalid(field, `${archive} is a folder`);
  } catch (err) {
    if (err instanceof BerthError) throw err;
    throw because('invalid', `${field}: ${dirname(archive)} is not a folder that can be written to`, err);
  }
}
