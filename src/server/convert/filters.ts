import {
  PodSandboxState,
  type ContainerFilter as ProtoContainerFilter,
  type PodSandboxFilter as ProtoSandboxFilter,
} from '../../../proto/gen/cri/api.ts';
import type { ContainerFilter, SandboxFilter } from '../../pod/filters.ts';
import { stateFromProto } from './container-status.ts';

/** Which sandboxes a list or stream of them is to have. */
export function sandboxFilterFromProto(filter: ProtoSandboxFilter | undefined): SandboxFilter {
  if (!filter) return {};
  return {
    ...(filter.id === '' ? {} : { id: filter.id }),
    ...(filter.state ? { ready: filter.state.state === PodSandboxState.SANDBOX_READY } : {}),
    labels: filter.labelSelector,
  };
}

/** Which containers a list or stream of them is to have. Throws `invalid` for a state that is not defined. */
export function containerFilterFromProto(filter: ProtoContainerFilter | undefined): ContainerFilter {
  if (!filter) return {};
  return {
    ...(filter.id === '' ? {} : { id: filter.id }),
    ...(filter.podSandboxId === '' ? {} : { sandboxId: filter.podSandboxId }),
    ...(filter.state ? { state: stateFromProto(filter.state.state, 'filter.state.state') } : {}),
    labels: filter.labelSelector,
  };
}
