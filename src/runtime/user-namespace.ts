import { isDeepStrictEqual } from 'node:util';

import { invalid } from '../base/errors.ts';
import type { IdMapping } from '../base/id-mapping.ts';
import type { UserNamespaceSpec } from './container-spec.ts';

/** The largest id that the kernel gives to a user or group; the one above means "none". */
const MAX_ID = 2 ** 32 - 2;

/**
 * Checks what a client asks of a pod's user namespace: one range each for users and groups, the same one, that has root
 * in it and keeps clear of the host's own root (KEP-127). Throws `invalid`.
 */
export function checkUserNamespace({ uids, gids }: UserNamespaceSpec, field: string): void {
  const range = checkOne(uids, `${field}.uids`);
  checkOne(gids, `${field}.gids`);
  if (!isDeepStrictEqual(uids, gids)) throw invalid(`${field}.gids`, 'must be the same as uids');
  if (range.containerId !== 0)
    throw invalid(`${field}.uids[0].container_id`, 'must be 0: without root nothing can start');
  if (range.hostId === 0) throw invalid(`${field}.uids[0].host_id`, "must not be 0, the host's root");
}

function checkOne(mappings: readonly IdMapping[], field: string): IdMapping {
  const [range, ...more] = mappings;
  if (!range || more.length > 0) throw invalid(field, `must be one mapping, not ${mappings.length}`);
  if (range.length < 1) throw invalid(`${field}[0].length`, 'must be at least 1');
  if (range.hostId + range.length - 1 > MAX_ID || range.containerId + range.length - 1 > MAX_ID)
    throw invalid(`${field}[0]`, `reaches beyond the last id, ${MAX_ID}`);
  return range;
}
