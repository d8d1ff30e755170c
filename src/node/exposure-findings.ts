import { parseAddress } from '../config/check-value.ts';
import type { Config } from '../config/load-config.ts';
import { isAppArmorEnabled } from '../runtime/apparmor.ts';
import type { Finding } from './finding.ts';

/** Capabilities with which a process takes over the host, or reads all that is on it (capabilities(7)). */
const HOST_CAPABILITIES: ReadonlySet<string> = new Set([
  'ALL',
  'SYS_ADMIN',
  'SYS_MODULE',
  'SYS_RAWIO',
  'SYS_PTRACE',
  'SYS_BOOT',
  'DAC_READ_SEARCH',
  'BPF',
  'PERFMON',
]);

/** What is looked at of a configuration. */
export type Exposed = Pick<Config, 'stream' | 'metrics' | 'tracing'> & {
  readonly runtime: Pick<Config['runtime'], 'defaultCapabilities' | 'apparmorProfile'>;
};

/** Settings that work, and open more to others than their owner may have meant to. */
export function exposureFindings(config: Exposed, hasAppArmor = isAppArmorEnabled()): Finding[] {
  return [
    ...streamFindings(config.stream),
    ...metricsFindings(config.metrics),
    ...tracingFindings(config.tracing),
    ...capabilityFindings(config.runtime.defaultCapabilities),
    ...(hasAppArmor ? appArmorFindings(config.runtime.apparmorProfile) : []),
  ];
}

// The kubelet, which passes streams on, is on this node, so that others have no need to connect.
function streamFindings({ listen, tlsCert }: Config['stream']): Finding[] {
  if (tlsCert !== '' || isLoopback(listen)) return [];
  return [
    {
      severity: 'warning',
      subject: `stream.listen ${listen}`,
      message: 'what people type into containers and read there goes over the network in the clear',
      remedy: 'listen on 127.0.0.1, or set stream.tls_cert and stream.tls_key',
    },
  ];
}

function metricsFindings({ listen, tlsCert, tlsClientCa }: Config['metrics']): Finding[] {
  if (listen === '' || isLoopback(listen) || (tlsCert !== '' && tlsClientCa !== '')) return [];
  const way = tlsCert === '' ? ', over the network in the clear' : '';
  return [
    {
      severity: 'warning',
      subject: `metrics.listen ${listen}`,
      message: `whoever reaches this address reads what this node does and how it is${way}: nobody is asked who they are`,
      remedy:
        'listen on 127.0.0.1 or use metrics.socket, or set metrics.tls_cert, metrics.tls_key and metrics.tls_client_ca',
    },
  ];
}

function tracingFindings({ endpoint, tls }: Config['tracing']): Finding[] {
  if (endpoint === '' || tls || isLoopback(endpoint)) return [];
  return [
    {
      severity: 'warning',
      subject: `tracing.endpoint ${endpoint}`,
      message: 'the names of pods, containers and images go over the network in the clear, to whoever answers there',
      remedy: 'send to a collector on this node, or set tracing.tls = true',
    },
  ];
}

function capabilityFindings(names: readonly string[]): Finding[] {
  const much = names.filter((name) => HOST_CAPABILITIES.has(name.toUpperCase().replace(/^CAP_/, '')));
  if (much.length === 0) return [];
  return [
    {
      severity: 'warning',
      subject: 'runtime.default_capabilities',
      message: `every container may take over this node, by ${much.join(', ')}, though its pod asks for nothing`,
      remedy: 'take them out, and have those pods that need them ask (securityContext.capabilities.add)',
    },
  ];
}

function appArmorFindings(profile: string): Finding[] {
  if (profile !== 'unconfined') return [];
  return [
    {
      // As it must be on a node that is a container (kind), which may load no profiles.
      severity: 'info',
      subject: 'runtime.apparmor_profile unconfined',
      message: 'containers run without AppArmor, those too whose pods ask for RuntimeDefault',
      remedy: 'take it out, where berthd may load profiles: berth-default is one',
    },
  ];
}

function isLoopback(address: string): boolean {
  const host = parseAddress(address)?.host ?? '';
  return host === 'localhost' || host === '::1' || host.startsWith('127.');
}
