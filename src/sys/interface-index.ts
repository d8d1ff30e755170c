import { libc } from './libc.ts';

const nameToIndex = libc.func('if_nametoindex', 'uint', ['str']) as (name: string) => number;

/**
 * The number of a network interface in the host's namespace (if_nametoindex(3)), which no later one of that name gets; 0
 * when there is none.
 */
export function interfaceIndex(name: string): number {
  return nameToIndex(name);
}
