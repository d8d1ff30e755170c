import { isIPv6 } from 'node:net';

import { closeFd } from './at.ts';
import { check, lastErrno } from './errno.ts';
import { libc } from './libc.ts';
import {
  AF_INET,
  AF_INET6,
  emptyAddress,
  SOCK_CLOEXEC,
  SOCK_DGRAM,
  SOCK_STREAM,
  SOL_SOCKET,
  socketCalls,
} from './socket-calls.ts';

const fn = {
  ...socketCalls,
  inet_pton: libc.func('inet_pton', 'int', ['int', 'str', 'void *']) as (
    family: number,
    text: string,
    bytes: Uint8Array,
  ) => number,
};

const typeNumber = Object.freeze({ tcp: SOCK_STREAM, udp: SOCK_DGRAM });
const SO_REUSEADDR = 2;
const IPPROTO_IPV6 = 41;
const IPV6_V6ONLY = 26;
const ON = Buffer.from([1, 0, 0, 0]);

/**
 * True when a socket of this network namespace has a port for itself: one that listens (TCP), or one that is bound (UDP).
 * `ip` is an address, unspecified ones included. False for an address that this host does not have, or a family that its
 * kernel does not know. Found out by binding for a moment (ip(7)); nothing is ever listened on.
 */
export function isPortBound(protocol: 'tcp' | 'udp', ip: string, port: number): boolean {
  const address = socketAddress(ip, port);
  const family = address.readUInt16LE(0);
  const fd = fn.socket(family, typeNumber[protocol] | SOCK_CLOEXEC, 0);
  if (fd < 0) return false;
  try {
    // With it, a connection that ended lately is in nobody's way, but one that listens still is.
    if (protocol === 'tcp') setOption(fd, SOL_SOCKET, SO_REUSEADDR);
    // The IPv4 half is asked for by itself.
    if (family === AF_INET6) setOption(fd, IPPROTO_IPV6, IPV6_V6ONLY);
    return fn.bind(fd, address, address.length) < 0 && lastErrno() === 'EADDRINUSE';
  } finally {
    closeFd(fd);
  }
}

function setOption(fd: number, level: number, name: number): void {
  check('setsockopt', String(name), fn.setsockopt(fd, level, name, ON, ON.length));
}

function socketAddress(ip: string, port: number): Buffer {
  const family = isIPv6(ip) ? AF_INET6 : AF_INET;
  const address = emptyAddress(family, port);
  fn.inet_pton(family, ip, address.subarray(family === AF_INET6 ? 8 : 4));
  return address;
}
