import { BerthError } from './errors.ts';

/** Ids of a user namespace, from `containerId` on, and those of the host that they are, from `hostId` on. */
export interface IdMapping {
  readonly hostId: number;
  readonly containerId: number;
  readonly length: number;
}

/** Who on the host an id of the container is. Throws `precondition` for one that the maps leave out. */
export function toHostId(mappings: readonly IdMapping[], id: number): number {
  const range = mappings.find(({ containerId, length }) => id >= containerId && id - containerId < length);
  if (range) return range.hostId + id - range.containerId;
  throw new BerthError('precondition', `id ${id} is not among those of the user namespace`);
}
