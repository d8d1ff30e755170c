/** From a reference to the places that are asked for it, by the rules of registries.conf. Pure functions. */

import { BerthError, invalid } from '../base/errors.ts';
import {
  DEFAULT_REGISTRY,
  type ImageReference,
  isLoopbackHost,
  isShortName,
  parseReference,
  repositoryOf,
} from './reference.ts';
import type { MirrorRule, RegistryRule, RegistryRules } from './registries-conf.ts';

/** One place that may have the image. */
export interface Endpoint {
  /** Host and port as configured: what credentials are looked up by. */
  readonly registry: string;
  /** Host and port to connect to; differs from `registry` for Docker Hub only. */
  readonly host: string;
  /** Repository path there. */
  readonly repository: string;
  /** True when an unverified certificate, or plain HTTP, will do. */
  readonly insecure: boolean;
  readonly mirror: boolean;
}

/** `host/repository`, for messages. */
export function formatEndpoint(endpoint: Endpoint): string {
  return `${endpoint.registry}/${endpoint.repository}`;
}

/**
 * The places to ask for a reference, in order: its mirrors, then the registry itself. Throws `permission` when the
 * rules block the registry.
 */
export function endpointsFor(reference: ImageReference, rules: RegistryRules): Endpoint[] {
  const name = repositoryOf(reference);
  const match = findRule(name, rules.registries);
  if (!match) return [endpoint(name, false, false)];
  const { rule, length } = match;
  if (rule.blocked) {
    throw new BerthError('permission', `registry of ${name} is blocked by registries.conf (prefix "${rule.prefix}")`);
  }
  const rest = name.slice(length);
  const byDigest = reference.digest !== undefined;
  return [
    ...rule.mirrors
      .filter((mirror) => serves(mirror, byDigest))
      .map((mirror) => endpoint(mirror.location + rest, mirror.insecure, true)),
    endpoint(rule.location === '' ? name : rule.location + rest, rule.insecure, false),
  ];
}

function serves(mirror: MirrorRule, byDigest: boolean): boolean {
  return mirror.pullFromMirror === 'all' || (mirror.pullFromMirror === 'digest-only') === byDigest;
}

function endpoint(name: string, insecure: boolean, mirror: boolean): Endpoint {
  const slash = name.indexOf('/');
  // A location may come with a path, so what is left may be none, or "//": the registry would say so less clearly.
  if (slash < 1 || slash === name.length - 1) throw invalid('registries.conf', `location "${name}" has no repository`);
  const registry = name.slice(0, slash);
  return {
    registry,
    // The name of Docker Hub's API differs from that of its images since its first version.
    host: registry === DEFAULT_REGISTRY ? 'registry-1.docker.io' : registry,
    repository: name.slice(slash + 1),
    // As Docker does: what answers on loopback is this machine itself.
    insecure: insecure || isLoopbackHost(registry),
    mirror,
  };
}

/** The rule with the longest prefix that ends at a boundary, and how much of the name it stands for. */
function findRule(name: string, rules: readonly RegistryRule[]): { rule: RegistryRule; length: number } | undefined {
  let best: { rule: RegistryRule; length: number } | undefined;
  for (const rule of rules) {
    const length = matchLength(name, rule.prefix);
    if (length > 0 && (!best || rule.prefix.length > best.rule.prefix.length)) best = { rule, length };
  }
  return best;
}

function matchLength(name: string, prefix: string): number {
  if (prefix.startsWith('*.')) {
    const host = name.slice(0, name.indexOf('/'));
    return host.endsWith(prefix.slice(1)) && host.length > prefix.length - 1 ? host.length : 0;
  }
  return name === prefix || name.startsWith(`${prefix}/`) ? prefix.length : 0;
}

/**
 * Every full reference that a client's text may mean: one, unless it is a short name and several search registries
 * are configured. Without aliases and search registries a short name means Docker Hub. Throws `invalid` as
 * `parseReference` does.
 */
export function candidateReferences(text: string, rules: RegistryRules): ImageReference[] {
  const plain = parseReference(text);
  if (!isShortName(text)) return [plain];
  const suffixAt = text.search(/[:@]/);
  const [name, suffix] = suffixAt < 0 ? [text, ''] : [text.slice(0, suffixAt), text.slice(suffixAt)];
  const alias = rules.aliases.get(name);
  if (alias !== undefined) return [parseReference(alias + suffix)];
  if (rules.searchRegistries.length === 0) return [plain];
  return rules.searchRegistries.map((registry) => parseReference(`${registry}/${text}`));
}

/** The one full reference that a client's text means. Throws `invalid` when it could mean several. */
export function resolveReference(text: string, rules: RegistryRules): ImageReference {
  const [first, ...others] = candidateReferences(text, rules);
  if (first && others.length === 0) return first;
  throw invalid(
    'image.image',
    `short name "${text}" is ambiguous: it could be in any of ${rules.searchRegistries.join(', ')}; write the registry too`,
  );
}
