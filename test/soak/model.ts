import assert from 'node:assert/strict';

import {
  ContainerState,
  type CreateContainerRequest,
  ListContainersRequest,
  ListPodSandboxRequest,
  type PodSandboxConfig,
  PodSandboxState,
  RuntimeServiceService as runtime,
} from '../../proto/gen/cri/api.ts';
import type { PodLab } from '../harness/pod-lab.ts';

/** A container as its client knows it. */
export interface ModelContainer {
  readonly request: CreateContainerRequest;
  id: string;
  state: 'created' | 'running' | 'exited';
}

/** A pod as its client knows it. */
export interface ModelPod {
  readonly config: PodSandboxConfig;
  id: string;
  state: 'ready' | 'stopped';
  readonly containers: ModelContainer[];
}

/** What a node must say it has, after what its client has asked for. */
export interface NodeModel {
  readonly pods: ModelPod[];
}

/** What a soak has done so far. */
export interface SoakCounts {
  /** Pods that were made and removed. */
  lifecycles: number;
  operations: number;
  kills: number;
}

/** The node that is soaked. */
export interface SoakedNode {
  readonly lab: PodLab;
  readonly counts: SoakCounts;
}

const CONTAINER_STATES: Readonly<Record<ModelContainer['state'], ContainerState>> = {
  created: ContainerState.CONTAINER_CREATED,
  running: ContainerState.CONTAINER_RUNNING,
  exited: ContainerState.CONTAINER_EXITED,
};

/** Fails unless the node lists exactly what the model has, in its states. */
export async function assertAgrees({ lab }: SoakedNode, { pods }: NodeModel): Promise<void> {
  const [{ items }, { containers }] = await Promise.all([
    lab.berthd.call(runtime.listPodSandbox, ListPodSandboxRequest.create()),
    lab.berthd.call(runtime.listContainers, ListContainersRequest.create()),
  ]);
  const listed = [...items, ...containers].map(({ id, state }) => `${id} ${state}`).sort();
  const wanted = pods
    .flatMap((pod) => [
      `${pod.id} ${pod.state === 'ready' ? PodSandboxState.SANDBOX_READY : PodSandboxState.SANDBOX_NOTREADY}`,
      ...pod.containers.map(({ id, state }) => `${id} ${CONTAINER_STATES[state]}`),
    ])
    .sort();
  assert.deepEqual(listed, wanted);
}

/** The containers that are in a state, in pods that are in theirs. */
export function containersIn(
  model: NodeModel,
  states: readonly ModelContainer['state'][],
  pod?: 'ready',
): ModelContainer[] {
  return model.pods
    .filter(({ state }) => pod === undefined || state === pod)
    .flatMap(({ containers }) => containers.filter(({ state }) => states.includes(state)));
}
