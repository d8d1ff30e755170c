import { lookup } from 'node:dns/promises';
import { BlockList, isIP } from 'node:net';

/** True for a host that is this machine or on its link. */
export type IsLocal = (hostname: string) => Promise<boolean>;

const local = new BlockList();
// RFC 6890: this host, loopback and link-local, where clouds keep their metadata.
local.addSubnet('0.0.0.0', 8);
local.addSubnet('127.0.0.0', 8);
local.addSubnet('169.254.0.0', 16);
local.addAddress('::', 'ipv6');
local.addAddress('::1', 'ipv6');
local.addSubnet('fe80::', 10, 'ipv6');

/** The host of a URL as everything but URLs writes it: an IPv6 address without its brackets. */
export function bareHost(hostname: string): string {
  return hostname.replace(/^\[(.*)\]$/, '$1');
}

/**
 * True for a host of a URL that is, or has among its addresses, one of loopback or of the link. False for a name that
 * cannot be looked up: connecting to it fails too.
 */
export async function isLocalHost(hostname: string): Promise<boolean> {
  const host = bareHost(hostname);
  if (isIP(host) !== 0) return isLocalAddress(host);
  try {
    return (await lookup(host, { all: true })).some(({ address }) => isLocalAddress(address));
  } catch {
    return false;
  }
}

function isLocalAddress(address: string): boolean {
  // A BlockList knows IPv4 in IPv6 too.
  return local.check(address, isIP(address) === 6 ? 'ipv6' : 'ipv4');
}
