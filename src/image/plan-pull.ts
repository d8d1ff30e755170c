/** What a pull would do, without doing it: for an operator who wonders why it does what it does. */

import { access, constants } from 'node:fs/promises';

import { describe } from '../base/errors.ts';
import { type CredentialSource, credentialFor } from './auth.ts';
import { type Endpoint, resolveReference, whyCandidates } from './endpoints.ts';
import type { Requirement } from './policy.ts';
import { formatReference, type ImageReference } from './reference.ts';
import type { Registries } from './registries.ts';
import { refuseEarly, ruleFor, type Trust } from './trust.ts';

/** One reference that a name may mean, and all that would be asked for it, in order. */
export interface PullPlan {
  readonly reference: string;
  /** Why the name may mean it. */
  readonly because: string;
  readonly endpoints: readonly PlannedEndpoint[];
  /** What the policy wants, in its own words, and the file that says so. */
  readonly requirements: readonly string[];
  readonly requirementsBecause: string;
  /** Why nothing would be pulled; empty when something might. */
  readonly problem: string;
  /** Changes of files that cannot be used: what the files said before is what the plan follows. */
  readonly notes: readonly string[];
  /** Mirrors that are not asked for it by their rules, and why. */
  readonly passedOver: readonly string[];
}

/** One place that would be asked. All in words, without secrets. */
export interface PlannedEndpoint {
  readonly url: string;
  readonly mirror: boolean;
  readonly tls: string;
  /** Where the credentials come from. */
  readonly credentials: string;
  /** What it is asked for. */
  readonly serves: string;
  readonly because: string;
}

const UNUSABLE = 'unusable: ';

/** What a plan is made from. */
export interface PlanParts {
  readonly registries: Registries;
  readonly credentials: readonly CredentialSource[];
  readonly trust: Pick<Trust, 'policyOf' | 'heldBack'>;
}

/**
 * The plan for every reference that a text may mean; they are tried in turn. No registry is asked, but credential helpers
 * are. Throws `invalid` as a pull does for what is no reference, and for rules that never could be understood.
 */
export async function planPull(
  parts: PlanParts,
  text: string,
  namespace: string,
  signal: AbortSignal,
): Promise<PullPlan[]> {
  const rules = await parts.registries.loadRules();
  const because = whyCandidates(text, rules);
  const plans = resolveReference(text, rules).map((reference) => planOne(parts, reference, namespace, signal));
  return (await Promise.all(plans)).map((plan) => ({ ...plan, because }));
}

async function planOne(
  parts: PlanParts,
  reference: ImageReference,
  namespace: string,
  signal: AbortSignal,
): Promise<Omit<PullPlan, 'because'>> {
  const nothing = {
    reference: formatReference(reference),
    endpoints: [],
    requirements: [],
    requirementsBecause: '',
    passedOver: [],
  };
  const notes = async (): Promise<string[]> => [
    ...(await parts.registries.heldBack(reference)),
    ...(await parts.trust.heldBack(namespace)),
  ];
  try {
    const rule = ruleFor(await parts.trust.policyOf(namespace), reference);
    const policy = { requirements: rule.requirements.map(requirementInWords), requirementsBecause: rule.because };
    try {
      refuseEarly(rule, reference);
      const endpoints = await parts.registries.endpoints(reference);
      const planned = await Promise.all(
        endpoints.map((endpoint) => planEndpoint(endpoint, endpoints, parts.credentials, signal)),
      );
      const problem = (await missingKey(rule.requirements)) ?? refusedEverywhere(planned);
      const passedOver = await parts.registries.passedOver(reference);
      return { ...nothing, ...policy, endpoints: planned, problem, notes: await notes(), passedOver };
    } catch (err) {
      return { ...nothing, ...policy, problem: describe(err), notes: await notes() };
    }
  } catch (err) {
    return { ...nothing, problem: describe(err), notes: await notes() };
  }
}

async function missingKey(requirements: readonly Requirement[]): Promise<string | undefined> {
  for (const requirement of requirements) {
    if (requirement.type !== 'signedBy' && requirement.type !== 'sigstoreSigned') continue;
    for (const path of requirement.keys.paths) {
      const isReadable = await access(path, constants.R_OK).then(
        () => true,
        () => false,
      );
      if (!isReadable) return `key ${path} of the policy cannot be read`;
    }
  }
  return undefined;
}

/** Empty when there is a place that can be asked with what is known of it. */
function refusedEverywhere(endpoints: readonly PlannedEndpoint[]): string {
  const [first] = endpoints;
  const isRefused = endpoints.every(({ credentials }) => credentials.startsWith(UNUSABLE));
  return first && isRefused ? `the credentials are ${first.credentials}` : '';
}

async function planEndpoint(
  endpoint: Endpoint,
  all: readonly Endpoint[],
  sources: readonly CredentialSource[],
  signal: AbortSignal,
): Promise<PlannedEndpoint> {
  const { host, repository, special, mirror } = endpoint;
  const scheme = special?.scheme ?? 'https:';
  const query = special && special.namespace !== '' ? `?ns=${special.namespace}` : '';
  const primary = all.find((one) => !one.mirror) ?? endpoint;
  let credentials: string;
  try {
    const found = await credentialFor(endpoint, { auth: undefined, primary }, sources, signal);
    credentials = found ? found.source : 'none, unless the pull brings some';
  } catch (err) {
    signal.throwIfAborted();
    credentials = `${UNUSABLE}${describe(err)}`;
  }
  return {
    url: `${scheme}//${host}${special?.basePath ?? '/v2'}/${repository}${query}`,
    mirror,
    tls: tlsInWords(endpoint),
    credentials,
    serves: servesInWords(special?.resolves ?? true, special?.pulls ?? true),
    because: endpoint.because ?? '',
  };
}

function servesInWords(resolves: boolean, pulls: boolean): string {
  if (resolves && pulls) return 'tags and content';
  if (resolves) return 'tags only';
  return pulls ? 'content only' : 'nothing';
}

function tlsInWords({ special, insecure, tls }: Endpoint): string {
  if (special?.scheme === 'http:') return 'none: plain HTTP';
  const shown = tls?.files.clients.map(({ cert }) => cert) ?? [];
  const mine = shown.length === 0 ? '' : `; shows ${shown.join(', ')}`;
  if (insecure) return `not verified${special?.scheme === 'https:' ? '' : ', or plain HTTP'}${mine}`;
  const named = tls?.files.authorities ?? [];
  return `verified by ${[...named, "the machine's authorities"].join(', ')}${mine}`;
}

function requirementInWords(requirement: Requirement): string {
  if (requirement.type === 'unsupported') return `${requirement.what}, which cannot be verified`;
  if (requirement.type !== 'signedBy' && requirement.type !== 'sigstoreSigned') return requirement.type;
  const { paths, data } = requirement.keys;
  const keys = [...paths, ...data.map(() => 'a key in the policy')].join(', ');
  return `${requirement.type} by ${keys} (${requirement.identity.type})`;
}
