/** The ranges that the demo takes one of. Small, and not where Docker, flannel, Calico or libvirt put theirs. */
const CANDIDATES: readonly string[] = Object.freeze([
  '10.213.77.0/24',
  '172.30.213.0/24',
  '192.168.213.0/24',
  '10.77.213.0/24',
]);

/**
 * The first range for pods that no route of the machine leads elsewhere. `destinations` are those of its routes, as
 * `ip -4 route` names them: `default`, an address, or a range. Throws when all are taken.
 */
export function freeSubnet(destinations: readonly string[], candidates: readonly string[] = CANDIDATES): string {
  const taken = destinations.filter((destination) => destination !== 'default').map(parseRange);
  const free = candidates.find((candidate) => {
    const range = parseRange(candidate);
    return !taken.some((other) => overlap(range, other));
  });
  if (free === undefined) throw new Error(`the machine has routes for all of ${candidates.join(', ')}`);
  return free;
}

interface AddressRange {
  readonly first: number;
  readonly last: number;
}

function overlap(a: AddressRange, b: AddressRange): boolean {
  return a.first <= b.last && b.first <= a.last;
}

function parseRange(text: string): AddressRange {
  const [address = '', length = '32'] = text.split('/');
  const size = 2 ** (32 - Number(length));
  const number = address.split('.').reduce((sum, part) => sum * 256 + Number(part), 0);
  const first = Math.floor(number / size) * size;
  if (!Number.isFinite(first) || !/^[\d.]+$/.test(address)) throw new Error(`not an IPv4 range: ${text}`);
  return { first, last: first + size - 1 };
}
