import { BerthError } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import { isPortBound } from '../sys/bound-port.ts';
import type { SandboxRecord } from './records.ts';
import type { PortMapping, SandboxSpec } from './sandbox-spec.ts';

const ANY_IPV4 = '0.0.0.0';
const ANY_IPV6 = '::';

/** True when ports of the host shall lead to the pod. */
export function wantsHostPorts(spec: SandboxSpec): boolean {
  return hostPortsOf(spec).length > 0;
}

/**
 * Throws `precondition`, naming the field and the pod, when a host port that a sandbox wants belongs to another one. The
 * network plugins would take it all the same, and the connections would go to either. A sandbox has its ports until it
 * is stopped, or the host restarted: before that its network may still be there.
 */
export function checkHostPorts(wanted: SandboxRecord, all: readonly SandboxRecord[]): void {
  const ports = hostPortsOf(wanted.spec);
  if (ports.length === 0) return;
  for (const holder of all) {
    if (holder.id === wanted.id || holder.state === 'stopped' || holder.hasLostNetwork) continue;
    for (const { index, mapping } of ports) {
      const taken = hostPortsOf(holder.spec).some((other) => isSameHostPort(mapping, other.mapping));
      if (taken) throw takenError(index, mapping, holder);
    }
  }
}

/** True when two mappings are for the same port of the host: an address that is left open stands for all. */
export function isSameHostPort(one: PortMapping, other: PortMapping): boolean {
  if (one.hostPort === 0 || one.hostPort !== other.hostPort || one.protocol !== other.protocol) return false;
  if (one.hostIp === other.hostIp || one.hostIp === '' || other.hostIp === '') return true;
  const isIpv6 = one.hostIp.includes(':');
  if (isIpv6 !== other.hostIp.includes(':')) return false;
  const any = isIpv6 ? ANY_IPV6 : ANY_IPV4;
  return one.hostIp === any || other.hostIp === any;
}

/**
 * Warns of host ports that a process of the host has for itself. That is no error: what the plugins put in place comes
 * before that process, and an operator may want just that.
 */
export function warnOfBoundPorts({ id, name, spec }: SandboxRecord, log: Logger): void {
  for (const { mapping } of hostPortsOf(spec)) {
    const { protocol, hostIp, hostPort } = mapping;
    if (protocol === 'sctp') continue;
    const ips = hostIp === '' ? [ANY_IPV4, ANY_IPV6] : [hostIp];
    if (!ips.some((ip) => isPortBound(protocol, ip, hostPort))) continue;
    log.warn(
      { sandbox: id, name, hostPort: shown(mapping) },
      'a process of the host has the host port of this pod too: from now on the pod gets its connections',
    );
  }
}

// On the host's network nothing is mapped: its processes take their ports themselves.
function hostPortsOf({ portMappings, security }: SandboxSpec): { index: number; mapping: PortMapping }[] {
  if (security.namespaces.network !== 'pod') return [];
  return portMappings.flatMap((mapping, index) => (mapping.hostPort > 0 ? [{ index, mapping }] : []));
}

function takenError(index: number, mapping: PortMapping, holder: SandboxRecord): BerthError {
  const { namespace, name } = holder.spec;
  const whose = `of pod ${namespace}/${name} (sandbox ${holder.id}, ${holder.state})`;
  return new BerthError(
    'precondition',
    `config.port_mappings[${index}].host_port: ${shown(mapping)} is a host port ${whose}; stop that pod first`,
  );
}

function shown({ hostIp, hostPort, protocol }: PortMapping): string {
  const address = hostIp.includes(':') ? `[${hostIp}]` : hostIp;
  return `${address === '' ? '' : `${address}:`}${hostPort}/${protocol}`;
}
