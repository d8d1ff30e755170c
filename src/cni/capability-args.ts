import { invalid } from '../base/errors.ts';
import type { PodNetwork } from './attachment.ts';
import type { JsonObject } from './json.ts';
import type { PluginConfig } from './network-config.ts';
import { parseQuantity } from './quantity.ts';

// As the kubelet's own network code had it: less is no network, more is a mistake.
const LEAST_BITS = 1_000n;
const MOST_BITS = 10n ** 15n;

/**
 * The capability arguments that some plugin of the chain asks for (CNI conventions, "Dynamic Plugin specific Fields").
 * Throws `invalid` for a bandwidth annotation that is no sensible quantity.
 */
export function capabilityArgs(a: PodNetwork, plugins: readonly PluginConfig[]): JsonObject {
  const wanted = new Set(plugins.flatMap((plugin) => plugin.capabilities));
  const all: Readonly<Record<string, () => unknown>> = {
    portMappings: () => portMappings(a),
    bandwidth: () => bandwidth(a.annotations),
    dns: () => a.dns,
    ips: () => (a.ips && a.ips.length > 0 ? a.ips : undefined),
    'io.kubernetes.cri.pod-annotations': () => (Object.keys(a.annotations).length > 0 ? a.annotations : undefined),
    cgroupPath: () => a.cgroupPath || undefined,
  };
  const given = Object.entries(all).flatMap(([name, make]) => {
    const value = wanted.has(name) ? make() : undefined;
    return value === undefined ? [] : [[name, value] as const];
  });
  return Object.fromEntries(given);
}

/** What one plugin gets as `runtimeConfig`: the arguments it declared; undefined when there are none. */
export function runtimeConfig(args: JsonObject, plugin: PluginConfig): JsonObject | undefined {
  const declared = plugin.capabilities.filter((name) => Object.hasOwn(args, name));
  return declared.length > 0 ? Object.fromEntries(declared.map((name) => [name, args[name]])) : undefined;
}

function portMappings({ portMappings: mappings }: PodNetwork): unknown {
  const mapped = mappings.filter((mapping) => mapping.hostPort > 0);
  if (mapped.length === 0) return undefined;
  return mapped.map(({ hostPort, containerPort, protocol, hostIp }) => ({
    hostPort,
    containerPort,
    protocol,
    ...(hostIp === '' ? {} : { hostIP: hostIp }),
  }));
}

function bandwidth(annotations: PodNetwork['annotations']): unknown {
  const ingress = bitsPerSecond(annotations, 'kubernetes.io/ingress-bandwidth');
  const egress = bitsPerSecond(annotations, 'kubernetes.io/egress-bandwidth');
  if (ingress === undefined && egress === undefined) return undefined;
  return {
    ...(ingress === undefined ? {} : { ingressRate: ingress, ingressBurst: burstBits(ingress) }),
    ...(egress === undefined ? {} : { egressRate: egress, egressBurst: burstBits(egress) }),
  };
}

function bitsPerSecond(annotations: PodNetwork['annotations'], name: string): number | undefined {
  const text = annotations[name];
  if (text === undefined) return undefined;
  const bits = parseQuantity(text);
  const field = `config.annotations["${name}"]`;
  if (bits === undefined) throw invalid(field, `${JSON.stringify(text.slice(0, 64))} is no quantity, such as 10M`);
  if (bits < LEAST_BITS || bits > MOST_BITS) throw invalid(field, `${text} is not between 1k and 1P bits per second`);
  return Number(bits);
}

/**
 * How many bits may pass at once, before the rate holds: one second's worth, so that the limit is felt, but at least
 * 128 KiB, because a token bucket drops segments that are larger than itself. The bandwidth plugin counts the bucket's
 * fill time in 32 bits of kernel ticks, which end at 274 seconds, and takes at most 2^31 bits.
 */
function burstBits(rate: number): number {
  const least = 128 * 1024 * 8;
  return Math.min(Math.max(rate, least), rate * 100, 2 ** 31 - 1);
}
