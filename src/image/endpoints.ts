/** From a reference to the places that are asked for it, by registries.conf and hosts.toml. Pure functions. */

import { BerthError, invalid } from '../base/errors.ts';
import type { HostRule, HostsFile } from './hosts-toml.ts';
import {
  DEFAULT_REGISTRY,
  type ImageReference,
  isLoopbackHost,
  isShortName,
  parseReference,
  repositoryOf,
} from './reference.ts';
import type { MirrorRule, RegistryRule, RegistryRules } from './registries-conf.ts';
import type { TlsFiles, TlsMaterial } from './tls-material.ts';

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
  /** What the configuration says about one place, beyond the usual. */
  readonly special?: SpecialAccess;
  /** Certificates for it; undefined when there are none beside the machine's own. */
  readonly tls?: TlsMaterial | undefined;
  /** The file and the rule that led here, for people. */
  readonly because?: string;
}

/** What hosts.toml may say about a place. */
export interface SpecialAccess {
  /** Undefined: HTTPS, and what `insecure` allows beside it. */
  readonly scheme: 'https:' | 'http:' | undefined;
  /** What stands before the repository in a path; usually `/v2`. */
  readonly basePath: string;
  /** The registry that a mirror of many is asked about, as the query `ns`; empty for none. */
  readonly namespace: string;
  readonly resolves: boolean;
  readonly pulls: boolean;
  /** Sent there and nowhere else. */
  readonly headers: Readonly<Record<string, string>>;
  /** Certificates that the file names. */
  readonly tls: TlsFiles;
}

/** `host/repository`, for messages. */
export function formatEndpoint(endpoint: Endpoint): string {
  const { registry, host, repository, special } = endpoint;
  // A path of hosts.toml in place of /v2 is part of where it is.
  if (special && special.basePath !== '/v2') return `${host}${special.basePath}/${repository}`;
  return `${registry}/${repository}`;
}

/**
 * The places to ask for a reference, in order: its mirrors, then the registry itself. A registry that registries.conf
 * speaks of follows that; `hosts`, if there is one for it, counts for the others. Throws `permission` when the rules
 * block the registry.
 */
export function endpointsFor(reference: ImageReference, rules: RegistryRules, hosts?: HostsFile): Endpoint[] {
  const name = repositoryOf(reference);
  const match = findRule(reference, rules.registries);
  if (!match) return hosts ? hostsEndpoints(reference, hosts) : [endpoint(name, false, false, 'no rule names it')];
  const { rule, length } = match;
  if (rule.blocked) {
    throw new BerthError('permission', `registry of ${name} is blocked by registries.conf (prefix "${rule.prefix}")`);
  }
  const rest = name.slice(length);
  const byDigest = reference.digest !== undefined;
  const why = `${rule.file}, prefix "${rule.prefix}"`;
  return [
    ...rule.mirrors
      .filter((mirror) => serves(mirror, byDigest))
      .map((mirror) => endpoint(mirror.location + rest, mirror.insecure, true, `${why}: mirror`)),
    endpoint(rule.location === '' ? name : rule.location + rest, rule.insecure, false, why),
  ];
}

/** The mirrors that are not asked for a reference, each with why, for people. */
export function passedOver(reference: ImageReference, rules: RegistryRules, hosts?: HostsFile): string[] {
  const byDigest = reference.digest !== undefined;
  const how = byDigest ? 'digest' : 'tag';
  const match = findRule(reference, rules.registries);
  if (match) {
    const { file, mirrors } = match.rule;
    return mirrors
      .filter((mirror) => !serves(mirror, byDigest))
      .map(
        ({ location, pullFromMirror }) =>
          `mirror ${location} is passed over: ${file} has it for pulls with "${pullFromMirror}", this is one by ${how}`,
      );
  }
  return (hosts?.hosts.slice(0, -1) ?? [])
    .filter(({ resolves, pulls }) => !pulls && !(resolves && !byDigest))
    .map(
      ({ server, resolves }) =>
        `host ${server?.host ?? reference.registry} is passed over: ${hosts?.file ?? ''} has it ${
          resolves ? 'resolve tags only, this is a pull by digest' : 'neither resolve nor pull'
        }`,
    );
}

/** True when the rules of registries.conf speak of a reference, so that no hosts.toml is asked. */
export function hasRule(reference: ImageReference, rules: RegistryRules): boolean {
  return findRule(reference, rules.registries) !== undefined;
}

function hostsEndpoints(reference: ImageReference, { file, hosts }: HostsFile): Endpoint[] {
  return hosts.flatMap((rule, index): Endpoint[] => {
    const last = index === hosts.length - 1;
    const place = hostEndpoint(reference, rule, file, !last);
    const { resolves, pulls } = rule;
    // The registry itself stays in the list: it is whose failure is told.
    return last || pulls || (resolves && reference.digest === undefined) ? [place] : [];
  });
}

function hostEndpoint(reference: ImageReference, rule: HostRule, file: string, mirror: boolean): Endpoint {
  const { registry, path } = reference;
  const apiHost = apiHostOf(registry);
  const { scheme, host, basePath } = rule.server ?? { scheme: undefined, host: apiHost, basePath: '/v2' };
  const own = host === apiHost || host === registry;
  return {
    registry: own ? registry : host,
    host: own ? apiHost : host,
    repository: path,
    insecure: rule.skipVerify || scheme === 'http:' || (scheme === undefined && isLoopbackHost(host)),
    mirror,
    special: {
      // Whoever skips the verification of a certificate does not mean plain HTTP.
      scheme: scheme ?? (rule.skipVerify ? 'https:' : undefined),
      basePath,
      namespace: own ? '' : registry,
      resolves: rule.resolves,
      pulls: rule.pulls,
      headers: rule.headers,
      tls: rule.tls,
    },
    because: `${file}: ${mirror ? `host "${host}"` : 'the registry itself'}`,
  };
}

function serves(mirror: MirrorRule, byDigest: boolean): boolean {
  return mirror.pullFromMirror === 'all' || (mirror.pullFromMirror === 'digest-only') === byDigest;
}

function endpoint(name: string, insecure: boolean, mirror: boolean, because: string): Endpoint {
  const slash = name.indexOf('/');
  // A location may come with a path, so what is left may be none, or "//": the registry would say so less clearly.
  if (slash < 1 || slash === name.length - 1) throw invalid('registries.conf', `location "${name}" has no repository`);
  const registry = name.slice(0, slash);
  return {
    registry,
    host: apiHostOf(registry),
    repository: name.slice(slash + 1),
    // As Docker does: what answers on loopback is this machine itself.
    insecure: insecure || isLoopbackHost(registry),
    mirror,
    because,
  };
}

/** The name of Docker Hub's API differs from that of its images since its first version. */
function apiHostOf(registry: string): string {
  return registry === DEFAULT_REGISTRY ? 'registry-1.docker.io' : registry;
}

/** The rule with the longest prefix that ends at a boundary, and how much of the name it stands for. */
function findRule(
  reference: ImageReference,
  rules: readonly RegistryRule[],
): { rule: RegistryRule; length: number } | undefined {
  let best: { rule: RegistryRule; length: number } | undefined;
  for (const rule of rules) {
    const length = matchLength(reference, rule.prefix);
    if (length > 0 && (!best || rule.prefix.length > best.rule.prefix.length)) best = { rule, length };
  }
  return best;
}

function matchLength(reference: ImageReference, prefix: string): number {
  const name = repositoryOf(reference);
  // A rule may be about one tag, or one digest.
  if (reference.tag !== undefined && prefix === `${name}:${reference.tag}`) return name.length;
  if (reference.digest !== undefined && prefix === `${name}@${reference.digest}`) return name.length;
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
export function candidateReferences(text: string, rules: RegistryRules, field?: string): ImageReference[] {
  const plain = parseReference(text, field);
  if (!isShortName(text)) return [plain];
  const suffixAt = text.search(/[:@]/);
  const [name, suffix] = suffixAt < 0 ? [text, ''] : [text.slice(0, suffixAt), text.slice(suffixAt)];
  const alias = rules.aliases.get(name);
  if (alias !== undefined) return [parseReference(alias + suffix)];
  if (rules.searchRegistries.length === 0) return [plain];
  return rules.searchRegistries.map((registry) => parseReference(`${registry}/${text}`));
}

/** Why a client's text stands for those references. */
export function whyCandidates(text: string, rules: RegistryRules): string {
  if (!isShortName(text)) return 'it names its registry';
  if (rules.aliases.has(text.replace(/[:@].*$/, ''))) return 'registries.conf has an alias for the short name';
  if (rules.searchRegistries.length === 0) return 'short names without an alias are those of Docker Hub';
  return 'registries.conf names search registries for short names, and no alias';
}

/**
 * The full references that a client's text stands for, to be tried in turn. Throws `invalid` when there are several, and
 * the rules do not want them tried.
 */
export function resolveReference(text: string, rules: RegistryRules): ImageReference[] {
  const candidates = candidateReferences(text, rules);
  if (candidates.length === 1 || rules.shortNameMode !== 'enforcing') return candidates;
  throw invalid(
    'image.image',
    `short name "${text}" is ambiguous: it could be in any of ${rules.searchRegistries.join(', ')}; write the registry too`,
  );
}
