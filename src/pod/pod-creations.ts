import { isDeepStrictEqual } from 'node:util';

import { raceSignal, withDeadline } from '../base/deadline.ts';
import { BerthError, because, kindOf } from '../base/errors.ts';
import type { ContainerSpec } from '../runtime/container-spec.ts';
import { CREATE_CONTAINER, makeContainer } from './create-container.ts';
import { Creations, type Unclaimed } from './creations.ts';
import { wantsHostPorts } from './host-ports.ts';
import { containerName, sandboxName } from './names.ts';
import type { PodDeps } from './pod-deps.ts';
import type { ContainerRecord, SandboxRecord } from './records.ts';
import { removeContainer } from './remove-container.ts';
import { makeSandbox, RUN_SANDBOX, RUN_TIMEOUT_MS } from './run-sandbox.ts';
import type { SandboxSpec } from './sandbox-spec.ts';

/** Where the kubelet writes down which mount is the file for a container's last words. */
const TERMINATION_PATH = 'io.kubernetes.container.terminationMessagePath';

/** What else has to happen when something is made, or has to go. */
export interface CreationHooks {
  /** A client has got it. */
  onSandbox(record: SandboxRecord): void;
  onContainer(record: ContainerRecord): void;
  /** Stops and removes a sandbox that could not be rolled back. */
  clearSandbox(record: SandboxRecord, signal: AbortSignal): Promise<void>;
}

/**
 * Sandboxes and containers as clients ask for them, and ask again when they have lost patience: the same request never
 * makes two, and is never told that its name is taken by the first one.
 */
export class PodCreations {
  readonly #deps: PodDeps;
  readonly #hooks: CreationHooks;
  readonly #sandboxes: Creations<SandboxSpec, SandboxRecord>;
  readonly #containers: Creations<ContainerSpec, ContainerRecord>;

  constructor(deps: PodDeps, hooks: CreationHooks, shutdown: AbortSignal) {
    const { log, meter } = deps;
    this.#deps = deps;
    this.#hooks = hooks;
    const common = { log, meter, shutdown };
    this.#sandboxes = new Creations({ ...common, kind: 'sandbox', pipeline: RUN_SANDBOX, isSame: isSameSandbox });
    this.#containers = new Creations({
      ...common,
      kind: 'container',
      pipeline: CREATE_CONTAINER,
      isSame: isSameContainer,
    });
  }

  /** Undoes what nobody has claimed, and waits for the work in flight, which the shutdown signal has told to end. */
  async close(): Promise<void> {
    await Promise.all([this.#containers.close(), this.#sandboxes.close()]);
  }

  /** Brings up a sandbox, or joins a request for the same. Throws `alreadyExists` for a different one of its name. */
  async runSandbox(spec: SandboxSpec, signal: AbortSignal): Promise<SandboxRecord> {
    const name = sandboxName(spec);
    if (!this.#sandboxes.has(name) && !this.#deps.sandboxes.findByName(name)) await this.#networkFor(spec, signal);
    const group = [spec.namespace, spec.name, spec.uid].join('/');
    return await this.#sandboxes.get(
      { name, group, owner: '', spec },
      async (onStep, work, replaced) => {
        const known = await this.#knownSandbox(name, spec, work);
        if (known) return alreadyThere(known);
        // An earlier attempt has them until it is undone.
        if (wantsHostPorts(spec)) await raceSignal(replaced, work);
        const made = await makeSandbox(this.#deps, spec, onStep, work);
        return {
          ...made,
          claim: async () => {
            const record = await made.claim();
            this.#hooks.onSandbox(record);
            return record;
          },
        };
      },
      signal,
    );
  }

  /** Creates a container, or joins a request for the same. Throws `alreadyExists` for a different one of its name. */
  async createContainer(sandbox: SandboxRecord, spec: ContainerSpec, signal: AbortSignal): Promise<ContainerRecord> {
    const name = containerName(spec, sandbox.spec, sandbox.id);
    return await this.#containers.get(
      { name, group: `${sandbox.id}/${spec.name}`, owner: sandbox.id, spec },
      async (onStep, work) => {
        const known = await this.#knownContainer(name, spec, work);
        if (known) return alreadyThere(known);
        const made = await makeContainer(this.#deps, sandbox, spec, onStep, work);
        return {
          ...made,
          claim: async () => {
            const record = await made.claim();
            this.#hooks.onContainer(record);
            return record;
          },
        };
      },
      signal,
    );
  }

  /** Gives up the containers that are being made in a sandbox, or wait to be claimed. */
  async discardIn(sandboxId: string): Promise<void> {
    await this.#containers.discardOf(sandboxId, `sandbox ${sandboxId} is stopped`);
  }

  /** A pod that needs a network waits for there to be one as long as its client does, with nothing made yet. */
  async #networkFor(spec: SandboxSpec, signal: AbortSignal): Promise<void> {
    if (spec.security.namespaces.network !== 'pod') return;
    using limited = withDeadline('wait for a CNI configuration', RUN_TIMEOUT_MS, signal);
    try {
      await this.#deps.cni.waitReady(limited, (problem) => {
        this.#deps.log.warn({ pod: `${spec.namespace}/${spec.name}`, problem }, 'a pod waits for a CNI network');
      });
    } catch (err) {
      if (kindOf(limited.reason) !== 'deadline') throw err;
      this.#deps.meter.stalled(RUN_SANDBOX, 'wait for network');
      // It is not the pod that takes long: the node has no network now, and may have one later.
      throw because('unavailable', 'no network for the pod', err);
    }
  }

  /** An answer that was lost on the way to its client is given again. */
  async #knownSandbox(name: string, spec: SandboxSpec, work: AbortSignal): Promise<SandboxRecord | undefined> {
    const known = this.#deps.sandboxes.findByName(name);
    if (!known) return undefined;
    if (!isSameSandbox(known.spec, spec))
      throw new BerthError('alreadyExists', `sandbox ${name} is there as ${known.id} with another configuration`);
    if (known.state === 'ready') return known;
    if (known.state !== 'unknown') throw taken('sandbox', known);
    await this.#hooks.clearSandbox(known, work);
    return undefined;
  }

  async #knownContainer(name: string, spec: ContainerSpec, work: AbortSignal): Promise<ContainerRecord | undefined> {
    const known = this.#deps.containers.findByName(name);
    if (!known) return undefined;
    if (!isSameContainer(known.spec, spec))
      throw new BerthError('alreadyExists', `container ${name} is there as ${known.id} with another configuration`);
    if (known.state === 'created') return known;
    if (known.state !== 'unknown') throw taken('container', known);
    await removeContainer({ deps: this.#deps, id: known.id }, work);
    return undefined;
  }
}

function taken(kind: string, { name, id, state }: SandboxRecord | ContainerRecord): BerthError {
  return new BerthError('alreadyExists', `${kind} ${name} is there as ${id} and ${state}; remove it first`);
}

function alreadyThere<R extends { readonly id: string }>(record: R): Unclaimed<R> {
  return { id: record.id, claim: async () => record, discard: async () => {} };
}

function isSameSandbox(one: SandboxSpec, other: SandboxSpec): boolean {
  return isDeepStrictEqual(plain(one), plain(other));
}

// The kubelet makes a new file for the last words each time it asks; it finds the one in use by the container's mounts.
function isSameContainer(one: ContainerSpec, other: ContainerSpec): boolean {
  return isDeepStrictEqual(plain(withoutTerminationFile(one)), plain(withoutTerminationFile(other)));
}

function withoutTerminationFile(spec: ContainerSpec): ContainerSpec {
  const path = spec.annotations[TERMINATION_PATH];
  return {
    ...spec,
    mounts: spec.mounts.map((mount) => (mount.containerPath === path ? { ...mount, hostPath: '' } : mount)),
  };
}

/** As the store would give it back: without undefined members. */
function plain(spec: unknown): unknown {
  return JSON.parse(JSON.stringify(spec));
}
