import assert from 'node:assert/strict';

import fc from 'fast-check';

import {
  ContainerState,
  NamespaceMode,
  RunPodSandboxRequest,
  RuntimeServiceService as runtime,
  UpdateContainerResourcesRequest,
} from '../../proto/gen/cri/api.ts';
import type { PodLab } from '../harness/pod-lab.ts';
import {
  assertAgrees,
  containersIn,
  type ModelContainer,
  type ModelPod,
  type NodeModel,
  type SoakedNode,
} from './model.ts';
import { ECHO_PORT, useExec, useForward } from './streams.ts';

/** More pods at once would only make it slower. */
const MOST_PODS = 5;
const MOST_CONTAINERS = 3;
const PATIENT_MS = 60_000;

/** One request on something that is there; a client repeats it until it is answered. */
interface Operation {
  /** The same each time. Rejects when it was not answered, or not well. */
  ask(timeoutMs: number): Promise<void>;
  /** What is true when it was answered well. */
  done(): void;
}

/** Finds what to do it on: undefined where there is nothing. The number chooses among several. */
type Plan = (model: NodeModel, node: SoakedNode, choice: number) => Operation | undefined;

const plans: Readonly<Record<string, Plan>> = {
  run({ pods }, { lab }, choice) {
    if (pods.length >= MOST_PODS) return undefined;
    // Most without a network: the plugins would take most of the time.
    const network = choice % 4 === 0 ? NamespaceMode.POD : NamespaceMode.NODE;
    const securityContext = { namespaceOptions: { network, pid: NamespaceMode.CONTAINER } };
    const config = lab.podConfig({ linux: { cgroupParent: lab.cgroupParent, securityContext } });
    const pod: ModelPod = { config, id: '', state: 'ready', containers: [] };
    return {
      async ask(timeoutMs) {
        const request = RunPodSandboxRequest.create({ config });
        pod.id = (await lab.berthd.call(runtime.runPodSandbox, request, timeoutMs)).podSandboxId;
      },
      done: () => void pods.push(pod),
    };
  },
  stop({ pods }, { lab }, choice) {
    const pod = chosen(pods, choice);
    return (
      pod && {
        ask: async (timeoutMs) =>
          void (await lab.berthd.call(runtime.stopPodSandbox, { podSandboxId: pod.id }, timeoutMs)),
        done() {
          pod.state = 'stopped';
          for (const container of pod.containers) container.state = 'exited';
        },
      }
    );
  },
  remove({ pods }, { lab, counts }, choice) {
    const pod = chosen(pods, choice);
    return (
      pod && {
        ask: async (timeoutMs) =>
          void (await lab.berthd.call(runtime.removePodSandbox, { podSandboxId: pod.id }, timeoutMs)),
        done() {
          pods.splice(pods.indexOf(pod), 1);
          counts.lifecycles += 1;
        },
      }
    );
  },
  create({ pods }, { lab }, choice) {
    const pod = chosen(
      pods.filter(({ state, containers }) => state === 'ready' && containers.length < MOST_CONTAINERS),
      choice,
    );
    if (!pod) return undefined;
    const echo = hasOwnNetwork(pod) ? `nc -ll -p ${ECHO_PORT} -e cat & ` : '';
    const command = ['/bin/sh', '-c', `${echo}trap "exit 5" TERM; while :; do sleep 0.05; done`];
    const container: ModelContainer = { request: lab.containerRequest(pod.id, { command }), id: '', state: 'created' };
    return {
      async ask(timeoutMs) {
        container.id = (await lab.berthd.call(runtime.createContainer, container.request, timeoutMs)).containerId;
      },
      done: () => void pod.containers.push(container),
    };
  },
  start(model, { lab }, choice) {
    const container = chosen(containersIn(model, ['created'], 'ready'), choice);
    return container && startOf(lab, container);
  },
  stopContainer(model, { lab }, choice) {
    const container = chosen(containersIn(model, ['running']), choice);
    return (
      container && {
        ask: async (timeoutMs) =>
          void (await lab.berthd.call(
            runtime.stopContainer,
            { containerId: container.id, timeout: BigInt(choice % 2) },
            timeoutMs,
          )),
        done() {
          container.state = 'exited';
        },
      }
    );
  },
  removeContainer(model, { lab }, choice) {
    const container = chosen(containersIn(model, ['created', 'running', 'exited']), choice);
    return (
      container && {
        ask: async (timeoutMs) =>
          void (await lab.berthd.call(runtime.removeContainer, { containerId: container.id }, timeoutMs)),
        done() {
          for (const { containers } of model.pods) {
            const index = containers.indexOf(container);
            if (index >= 0) containers.splice(index, 1);
          }
        },
      }
    );
  },
  exec(model, { lab }, choice) {
    const container = chosen(containersIn(model, ['running']), choice);
    return (
      container && {
        async ask(timeoutMs) {
          const request = { containerId: container.id, cmd: ['echo', 'here'], timeout: 20n };
          const { exitCode, stdout } = await lab.berthd.call(runtime.execSync, request, timeoutMs);
          assert.deepEqual([exitCode, Buffer.from(stdout).toString()], [0, 'here\n']);
        },
        done() {},
      }
    );
  },
  execStream(model, { lab }, choice) {
    const container = chosen(containersIn(model, ['running']), choice);
    return (
      container && {
        ask: async (timeoutMs) => await useExec(lab, container.id, choice, timeoutMs),
        done() {},
      }
    );
  },
  forward({ pods }, { lab }, choice) {
    const served = pods.filter((pod) => hasOwnNetwork(pod) && pod.state === 'ready');
    const pod = chosen(served, choice);
    return (
      pod && {
        ask: async (timeoutMs) => await useForward(lab, pod.id, choice, timeoutMs),
        done() {},
      }
    );
  },
  update(model, { lab }, choice) {
    const container = chosen(containersIn(model, ['running', 'created'], 'ready'), choice);
    return (
      container && {
        async ask(timeoutMs) {
          const linux = { cpuShares: BigInt(100 + (choice % 900)) };
          const request = UpdateContainerResourcesRequest.create({ containerId: container.id, linux });
          await lab.berthd.call(runtime.updateContainerResources, request, timeoutMs);
        },
        done() {},
      }
    );
  },
};

/** What may happen to a request on its way. */
type Trouble = { readonly kind: 'none' } | { readonly kind: 'leave' | 'kill' | 'stop'; readonly afterMs: number };

/** One step of a soak: a request, with or without trouble, after which node and model agree. */
class SoakCommand implements fc.AsyncCommand<NodeModel, SoakedNode> {
  readonly #plan: string;
  readonly #choice: number;
  readonly #trouble: Trouble;

  constructor(plan: string, choice: number, trouble: Trouble) {
    this.#plan = plan;
    this.#choice = choice;
    this.#trouble = trouble;
  }

  check(): boolean {
    return true;
  }

  async run(model: NodeModel, node: SoakedNode): Promise<void> {
    const operation = plans[this.#plan]?.(model, node, this.#choice);
    if (!operation) return;
    node.counts.operations += 1;
    await this.#disturb(operation, node);
    await operation.ask(PATIENT_MS);
    operation.done();
    await assertAgrees(node, model);
  }

  /** A first attempt of which the client does not learn how it ended. */
  async #disturb(operation: Operation, { lab, counts }: SoakedNode): Promise<void> {
    const trouble = this.#trouble;
    if (trouble.kind === 'none') return;
    if (trouble.kind === 'leave') {
      await operation.ask(Math.max(trouble.afterMs, 1)).catch(() => {});
      return;
    }
    const asked = operation.ask(PATIENT_MS).catch(() => {});
    const { promise, resolve } = Promise.withResolvers<void>();
    setTimeout(resolve, trouble.afterMs);
    await promise;
    await lab.berthd.end(trouble.kind === 'kill' ? 'SIGKILL' : 'SIGTERM');
    await asked;
    await lab.berthd.start();
    counts.kills += 1;
  }

  toString(): string {
    const { kind } = this.#trouble;
    const trouble = 'afterMs' in this.#trouble ? `, ${kind} after ${this.#trouble.afterMs} ms` : '';
    return `${this.#plan}(${this.#choice}${trouble})`;
  }
}

/** Random steps; with `kills`, about one in ten has berthd killed or stopped while it is under way. */
export function soakCommands(kills: boolean): fc.Arbitrary<Iterable<fc.AsyncCommand<NodeModel, SoakedNode>>> {
  const afterMs = fc.nat({ max: 80 });
  const none = fc.constant<Trouble>({ kind: 'none' });
  const of = (kind: 'leave' | 'kill' | 'stop') => afterMs.map((ms): Trouble => ({ kind, afterMs: ms }));
  const troubles = [
    { weight: 30, arbitrary: none },
    { weight: 4, arbitrary: of('leave') },
    ...(kills
      ? [
          { weight: 3, arbitrary: of('kill') },
          { weight: 1, arbitrary: of('stop') },
        ]
      : []),
  ];
  const step = fc
    .tuple(fc.constantFrom(...Object.keys(plans)), fc.nat({ max: 1000 }), fc.oneof(...troubles))
    .map(([plan, choice, trouble]) => new SoakCommand(plan, choice, trouble));
  return fc.commands([step], { maxCommands: 60, size: 'max' });
}

/**
 * A start whose answer was lost may have worked: its client looks, as the kubelet does. What berthd could not start has
 * exited, with a reason that says so.
 */
function startOf(lab: PodLab, container: ModelContainer): Operation {
  let hasFailed = false;
  return {
    async ask(timeoutMs) {
      const { state, reason } = await lab.status(container.id);
      if (state === ContainerState.CONTAINER_RUNNING) return;
      if (state === ContainerState.CONTAINER_EXITED) {
        assert.equal(reason, 'StartError');
        hasFailed = true;
        return;
      }
      const failure = await lab.berthd.call(runtime.startContainer, { containerId: container.id }, timeoutMs).then(
        () => undefined,
        (err: unknown) => err,
      );
      // An earlier request may have come to its end meanwhile.
      if (failure !== undefined && (await lab.status(container.id)).state !== ContainerState.CONTAINER_RUNNING)
        throw failure;
    },
    done() {
      container.state = hasFailed ? 'exited' : 'running';
    },
  };
}

function hasOwnNetwork({ config }: ModelPod): boolean {
  return config.linux?.securityContext?.namespaceOptions?.network === NamespaceMode.POD;
}

function chosen<T>(items: readonly T[], choice: number): T | undefined {
  return items.length === 0 ? undefined : items[choice % items.length];
}
