import {
  type PodSandbox,
  PodSandboxState,
  type PodSandboxStatus,
  NamespaceMode as ProtoNamespaceMode,
} from '../../../proto/gen/cri/api.ts';
import type { SandboxRecord } from '../../pod/records.ts';
import type { NamespaceMode } from '../../runtime/container-spec.ts';
import { toNanos } from './numbers.ts';

/** A sandbox as ListPodSandbox shows it. */
export function sandboxToProto(record: SandboxRecord): PodSandbox {
  const { spec } = record;
  return {
    id: record.id,
    metadata: { name: spec.name, uid: spec.uid, namespace: spec.namespace, attempt: spec.attempt },
    state: stateToProto(record),
    createdAt: toNanos(record.createdAtUs),
    labels: spec.labels,
    annotations: spec.annotations,
    runtimeHandler: spec.runtimeHandler,
  };
}

/** A sandbox as PodSandboxStatus shows it. */
export function sandboxStatusToProto(record: SandboxRecord): PodSandboxStatus {
  const { namespaces } = record.spec.security;
  const [ip = '', ...additional] = record.ips;
  return {
    ...sandboxToProto(record),
    network: { ip, additionalIps: additional.map((other) => ({ ip: other })) },
    linux: {
      namespaces: {
        options: {
          network: MODES[namespaces.network],
          pid: MODES[namespaces.pid],
          ipc: MODES[namespaces.ipc],
          targetId: namespaces.targetId,
          usernsOptions: namespaces.user && {
            mode: ProtoNamespaceMode.POD,
            uids: [...namespaces.user.uids],
            gids: [...namespaces.user.gids],
          },
        },
      },
    },
  };
}

const MODES: Readonly<Record<NamespaceMode, ProtoNamespaceMode>> = Object.freeze({
  pod: ProtoNamespaceMode.POD,
  container: ProtoNamespaceMode.CONTAINER,
  node: ProtoNamespaceMode.NODE,
  target: ProtoNamespaceMode.TARGET,
});

function stateToProto(record: SandboxRecord): PodSandboxState {
  return record.state === 'ready' ? PodSandboxState.SANDBOX_READY : PodSandboxState.SANDBOX_NOTREADY;
}
