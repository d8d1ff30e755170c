import { isIP } from 'node:net';

import { type PodSandboxConfig, Protocol, type PortMapping as ProtoPortMapping } from '../../../proto/gen/cri/api.ts';
import { invalid } from '../../base/errors.ts';
import { isSameHostPort } from '../../pod/host-ports.ts';
import type { DnsConfig, PortMapping, SandboxSpec } from '../../pod/sandbox-spec.ts';
import { requirePath } from './paths.ts';
import { resourcesFromProto } from './resources.ts';
import { sandboxSecurityFromProto } from './security.ts';

/** The portmap plugin takes some ten milliseconds for each that has a host port. */
const MAX_PORT_MAPPINGS = 4096;
/** hostname(7): 64 bytes are the kernel's limit. */
const HOSTNAME = /^[a-zA-Z0-9]([a-zA-Z0-9.-]{0,62}[a-zA-Z0-9])?$/;

/** Each pod has its own resolv.conf, in memory. A kubelet's has at most 32 search domains of 2048 characters together. */
const MAX_DNS_BYTES = 16 * 1024;

/** What a client wants of a sandbox. Throws `invalid` naming the CRI's field. */
export function sandboxSpecFromProto(config: PodSandboxConfig | undefined, runtimeHandler: string): SandboxSpec {
  if (!config) throw invalid('config', 'is missing');
  const { metadata, linux } = config;
  if (!metadata) throw invalid('config.metadata', 'is missing');
  return {
    name: requireName(metadata.name, 'config.metadata.name'),
    namespace: plainText(metadata.namespace, 'config.metadata.namespace'),
    uid: plainText(metadata.uid, 'config.metadata.uid'),
    attempt: metadata.attempt,
    hostname: hostname(config.hostname),
    logDirectory: logDirectory(config.logDirectory),
    dns: config.dnsConfig ? dnsFromProto(config.dnsConfig) : undefined,
    portMappings: portsFromProto(config.portMappings, 'config.port_mappings'),
    labels: { ...config.labels },
    annotations: { ...config.annotations },
    cgroupParent: linux?.cgroupParent ?? '',
    sysctls: { ...linux?.sysctls },
    overhead: linux?.overhead ? resourcesFromProto(linux.overhead, 'config.linux.overhead') : undefined,
    resources: linux?.resources ? resourcesFromProto(linux.resources, 'config.linux.resources') : undefined,
    security: sandboxSecurityFromProto(linux?.securityContext, 'config.linux.security_context'),
    runtimeHandler,
  };
}

/** A name that must be there, and that fits into the names and log lines made from it. Throws `invalid`. */
export function requireName(name: string, field: string): string {
  if (name === '') throw invalid(field, 'is empty');
  return plainText(name, field);
}

function plainText(text: string, field: string): string {
  if (text.length > 253) throw invalid(field, `has ${text.length} characters; 253 are the limit`);
  if ([...text].some((char) => char < ' ' || char === '\x7f' || char === '/')) {
    throw invalid(field, `${JSON.stringify(text)} has a slash or a control character in it`);
  }
  return text;
}

function hostname(name: string): string {
  if (name !== '' && !HOSTNAME.test(name))
    throw invalid('config.hostname', `${JSON.stringify(name)} is not a host name of up to 64 characters`);
  return name;
}

function logDirectory(path: string): string {
  if (path === '') return path;
  requirePath(path, 'config.log_directory');
  if (path.split('/').includes('..')) throw invalid('config.log_directory', `${JSON.stringify(path)} climbs with ..`);
  return path;
}

// A server that is no address is taken: the kubelet hands on what the host's resolv.conf has, and resolvers skip it.
function dnsFromProto(dns: DnsConfig): DnsConfig {
  const words = (values: readonly string[], field: string): string[] => {
    for (const [index, value] of values.entries()) {
      if (!/^[^\s\0#;]+$/.test(value))
        throw invalid(`config.dns_config.${field}[${index}]`, `${JSON.stringify(value)} is not one word`);
    }
    return [...values];
  };
  const bytes = [...dns.servers, ...dns.searches, ...dns.options].reduce((sum, { length }) => sum + length + 1, 0);
  if (bytes > MAX_DNS_BYTES)
    throw invalid('config.dns_config', `has ${bytes} bytes in it; ${MAX_DNS_BYTES} are the limit`);
  return {
    servers: words(dns.servers, 'servers'),
    searches: words(dns.searches, 'searches'),
    options: words(dns.options, 'options'),
  };
}

const PROTOCOLS: Readonly<Record<number, PortMapping['protocol']>> = Object.freeze({
  [Protocol.TCP]: 'tcp',
  [Protocol.UDP]: 'udp',
  [Protocol.SCTP]: 'sctp',
});

function portsFromProto(protos: readonly ProtoPortMapping[], field: string): PortMapping[] {
  const wanted = protos.filter(({ hostPort }) => hostPort > 0).length;
  if (wanted > MAX_PORT_MAPPINGS)
    throw invalid(field, `has ${wanted} ports of the host; ${MAX_PORT_MAPPINGS} are the limit`);
  const byHostPort = new Map<number, { mapping: PortMapping; at: string }[]>();
  return protos.flatMap((proto, index) => {
    const at = `${field}[${index}]`;
    const mapping = portFromProto(proto, at);
    if (mapping.hostPort === 0) return [mapping];
    const others = byHostPort.get(mapping.hostPort) ?? [];
    // One for an address and one for all others are two: Kubernetes takes them, and so do the plugins.
    const twin = others.find(
      (other) => other.mapping.hostIp === mapping.hostIp && isSameHostPort(mapping, other.mapping),
    );
    // Said twice it is the same; said in two ways, one of them would not work.
    if (twin && twin.mapping.containerPort !== mapping.containerPort)
      throw invalid(`${at}.host_port`, `is that of ${twin.at} too`);
    if (twin) return [];
    others.push({ mapping, at });
    byHostPort.set(mapping.hostPort, others);
    return [mapping];
  });
}

function portFromProto(proto: ProtoPortMapping, field: string): PortMapping {
  const protocol = PROTOCOLS[proto.protocol];
  if (!protocol) throw invalid(`${field}.protocol`, `${proto.protocol} is not a protocol`);
  // 0 is no mapping to a host port.
  for (const [name, port] of [
    ['container_port', proto.containerPort],
    ['host_port', proto.hostPort],
  ] as const) {
    if (port < 0 || port > 65_535) throw invalid(`${field}.${name}`, `${port} is not a port`);
  }
  if (proto.hostPort > 0 && proto.containerPort === 0) throw invalid(`${field}.container_port`, '0 is not a port');
  if (proto.hostIp !== '' && isIP(proto.hostIp) === 0)
    throw invalid(`${field}.host_ip`, `${JSON.stringify(proto.hostIp)} is not an IP address`);
  return { protocol, containerPort: proto.containerPort, hostPort: proto.hostPort, hostIp: proto.hostIp };
}
