import { readFileSync } from 'node:fs';

/** Traffic of one network interface since it was made. */
export interface InterfaceUsage {
  readonly name: string;
  readonly receivedBytes: number;
  readonly receivedPackets: number;
  readonly receiveErrors: number;
  readonly receiveDrops: number;
  readonly sentBytes: number;
  readonly sentPackets: number;
  readonly sendErrors: number;
  readonly sendDrops: number;
}

/** A container that may make interfaces can make thousands. */
const MAX_INTERFACES = 64;

/**
 * The interfaces in the network namespace of a process, without loopback, which is no traffic of the network. Undefined
 * when the process is gone. The file is not kept open: that would keep the namespace, and its addresses, alive.
 */
export function readNetworkUsage(pid: number): InterfaceUsage[] | undefined {
  try {
    return parseNetworkUsage(readFileSync(`/proc/${pid}/net/dev`, 'utf8'));
  } catch {
    return undefined;
  }
}

/** The lines of /proc/net/dev (proc_pid_net(5)): each name once, at most 64 of them. */
export function parseNetworkUsage(text: string): InterfaceUsage[] {
  const interfaces = new Map<string, InterfaceUsage>();
  for (const line of text.split('\n')) {
    if (interfaces.size >= MAX_INTERFACES) break;
    // A name has neither colons nor spaces (dev_valid_name() in net/core/dev.c).
    const colon = line.indexOf(':');
    const name = line.slice(0, Math.max(colon, 0)).trim();
    const counts = line
      .slice(colon + 1)
      .trim()
      .split(/\s+/)
      .map(Number);
    if (name === '' || name === 'lo' || counts.length < 16 || !counts.every(Number.isFinite)) continue;
    const at = (index: number): number => counts[index] ?? 0;
    interfaces.set(name, {
      name,
      receivedBytes: at(0),
      receivedPackets: at(1),
      receiveErrors: at(2),
      receiveDrops: at(3),
      sentBytes: at(8),
      sentPackets: at(9),
      sendErrors: at(10),
      sendDrops: at(11),
    });
  }
  return [...interfaces.values()];
}
