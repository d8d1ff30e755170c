import type { Ulimit } from '../config/parse-setting.ts';
import type { OciRlimit } from './oci-spec.ts';

/**
 * Berth's own limit may be anything, and a program that walks all possible descriptors must end some day. A million is
 * what units of Docker and containerd have, and more than any sane program needs.
 */
const DEFAULT_NOFILE: Ulimit = { type: 'RLIMIT_NOFILE', soft: 1_048_576, hard: 1_048_576 };

/** The limits of a container's first process: those that the node's owner wants, as far as this host can give them. */
export function resolveRlimits(wanted: readonly Ulimit[], ceilings: ReadonlyMap<string, number>): OciRlimit[] {
  const byType = new Map([DEFAULT_NOFILE, ...wanted].map((limit) => [limit.type, limit]));
  return [...byType.values()].map(({ type, soft, hard }) => {
    const ceiling = ceilings.get(type) ?? Number.POSITIVE_INFINITY;
    return { type, soft: Math.min(soft, ceiling), hard: Math.min(hard, ceiling) };
  });
}
