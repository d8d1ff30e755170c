/**
 * Which images are trusted: containers-policy.json(5), of which the transport `docker` and the default count here. What
 * is not understood is refused, as the manual wants it: a slip must not open the door.
 */

import * as v from 'valibot';

import { BerthError, because } from '../base/errors.ts';
import { type ImageReference, repositoryOf } from './reference.ts';

/** Which name a signature must be for. */
export type SignedIdentity =
  | { readonly type: 'matchExact' | 'matchRepoDigestOrExact' | 'matchRepository' }
  | { readonly type: 'exactReference'; readonly dockerReference: string }
  | { readonly type: 'exactRepository'; readonly dockerRepository: string }
  | { readonly type: 'remapIdentity'; readonly prefix: string; readonly signedPrefix: string };

/** Public keys: files, and texts in base64 as they stand in the policy. */
export interface KeySources {
  readonly paths: readonly string[];
  readonly data: readonly string[];
}

/** What an image must fulfil. */
export type Requirement =
  | { readonly type: 'insecureAcceptAnything' | 'reject' }
  | { readonly type: 'signedBy'; readonly keys: KeySources; readonly identity: SignedIdentity }
  | {
      readonly type: 'sigstoreSigned';
      readonly keys: KeySources;
      readonly rekorKeys: KeySources;
      readonly identity: SignedIdentity;
    }
  /** Understood, and nothing that Berth could verify: no image fulfils it. */
  | { readonly type: 'unsupported'; readonly what: string };

/** One policy file. */
export interface Policy {
  readonly default: readonly Requirement[];
  /** By scope; the empty one is for the whole transport. */
  readonly docker: ReadonlyMap<string, readonly Requirement[]>;
}

/** What holds without a policy. */
export const ACCEPT_ANYTHING: Policy = { default: [{ type: 'insecureAcceptAnything' }], docker: new Map() };

const text = v.pipe(v.string(), v.minLength(1));
const texts = v.pipe(v.array(text), v.minLength(1));
const identitySchema = v.variant('type', [
  v.strictObject({ type: v.picklist(['matchExact', 'matchRepoDigestOrExact', 'matchRepository']) }),
  v.strictObject({ type: v.literal('exactReference'), dockerReference: text }),
  v.strictObject({ type: v.literal('exactRepository'), dockerRepository: text }),
  v.strictObject({ type: v.literal('remapIdentity'), prefix: text, signedPrefix: text }),
]);
const anyTable = v.looseObject({});
const requirementSchema = v.variant('type', [
  v.strictObject({ type: v.picklist(['insecureAcceptAnything', 'reject']) }),
  v.strictObject({
    type: v.literal('signedBy'),
    keyType: v.picklist(['GPGKeys', 'signedByGPGKeys', 'X509Certificates', 'signedByX509CAs']),
    keyPath: v.optional(text),
    keyPaths: v.optional(texts),
    keyData: v.optional(text),
    signedIdentity: v.optional(identitySchema),
  }),
  v.strictObject({
    type: v.literal('sigstoreSigned'),
    keyPath: v.optional(text),
    keyPaths: v.optional(texts),
    keyData: v.optional(text),
    keyDatas: v.optional(texts),
    fulcio: v.optional(anyTable),
    pki: v.optional(anyTable),
    rekorPublicKeyPath: v.optional(text),
    rekorPublicKeyPaths: v.optional(texts),
    rekorPublicKeyData: v.optional(text),
    rekorPublicKeyDatas: v.optional(texts),
    signedIdentity: v.optional(identitySchema),
  }),
  v.strictObject({ type: v.literal('signedBaseLayer'), baseLayerIdentity: anyTable }),
]);
const requirements = v.pipe(v.array(requirementSchema), v.minLength(1, 'an empty list of requirements'));
const policySchema = v.strictObject({
  default: requirements,
  transports: v.optional(v.record(v.string(), v.record(v.string(), requirements)), {}),
});

type RawRequirement = v.InferOutput<typeof requirementSchema>;

/** Parses a policy. Throws `invalid` naming `file` and the key. */
export function parsePolicy(json: string, file: string): Policy {
  let parsed: unknown;
  try {
    parsed = JSON.parse(json);
  } catch (err) {
    throw because('invalid', `${file} is not JSON`, err);
  }
  const result = v.safeParse(policySchema, parsed);
  if (!result.success) {
    const issue = result.issues[0];
    throw new BerthError('invalid', `${file}: ${v.getDotPath(issue) ?? 'top level'}: ${issue.message}`);
  }
  const read = (list: readonly RawRequirement[]): Requirement[] => list.map((raw) => requirementOf(raw, file));
  const docker = Object.entries(result.output.transports['docker'] ?? {});
  return {
    default: read(result.output.default),
    docker: new Map(docker.map(([scope, list]) => [scope, read(list)])),
  };
}

/** What a reference must fulfil, and the scope that says so. */
export function requirementsFor(
  policy: Policy,
  reference: ImageReference,
): { readonly scope: string; readonly requirements: readonly Requirement[] } {
  for (const scope of scopesOf(reference)) {
    const found = policy.docker.get(scope);
    if (found)
      return { scope: scope === '' ? 'transports.docker' : `transports.docker."${scope}"`, requirements: found };
  }
  return { scope: 'default', requirements: policy.default };
}

/** The scopes that a reference is in, the narrowest first, and the empty one last. */
export function scopesOf(reference: ImageReference): string[] {
  const repository = repositoryOf(reference);
  const { registry, digest, tag } = reference;
  const scopes = [`${repository}${digest === undefined ? `:${tag}` : `@${digest}`}`];
  for (let at = repository; at !== ''; at = at.slice(0, Math.max(0, at.lastIndexOf('/')))) scopes.push(at);
  for (let dot = registry.indexOf('.'); dot >= 0; dot = registry.indexOf('.', dot + 1)) {
    scopes.push(`*${registry.slice(dot)}`);
  }
  return [...scopes, ''];
}

function requirementOf(raw: RawRequirement, file: string): Requirement {
  switch (raw.type) {
    case 'insecureAcceptAnything':
    case 'reject':
      return { type: raw.type };
    case 'signedBaseLayer':
      return { type: 'unsupported', what: 'signedBaseLayer' };
    case 'signedBy':
      if (raw.keyType !== 'GPGKeys') return { type: 'unsupported', what: `signedBy with keyType ${raw.keyType}` };
      return {
        type: 'signedBy',
        keys: oneSource('signedBy', file, [raw.keyPath, raw.keyPaths], [raw.keyData]),
        ...id(raw),
      };
    case 'sigstoreSigned': {
      if (raw.fulcio || raw.pki)
        return { type: 'unsupported', what: `sigstoreSigned with ${raw.fulcio ? 'fulcio' : 'pki'}` };
      const rekor = [raw.rekorPublicKeyPath, raw.rekorPublicKeyPaths, raw.rekorPublicKeyData, raw.rekorPublicKeyDatas];
      return {
        type: 'sigstoreSigned',
        keys: oneSource('sigstoreSigned', file, [raw.keyPath, raw.keyPaths], [raw.keyData, raw.keyDatas]),
        rekorKeys: rekor.every((source) => source === undefined)
          ? { paths: [], data: [] }
          : oneSource('rekorPublicKey', file, rekor.slice(0, 2), rekor.slice(2)),
        ...id(raw),
      };
    }
  }
}

function id(raw: { readonly signedIdentity?: SignedIdentity | undefined }): { readonly identity: SignedIdentity } {
  return { identity: raw.signedIdentity ?? { type: 'matchRepoDigestOrExact' } };
}

type Source = string | readonly string[] | undefined;

function oneSource(what: string, file: string, paths: readonly Source[], data: readonly Source[]): KeySources {
  if ([...paths, ...data].filter((source) => source !== undefined).length !== 1) {
    throw new BerthError('invalid', `${file}: ${what}: needs exactly one of its ways to name keys`);
  }
  const flat = (sources: readonly Source[]): string[] => sources.flatMap((source) => source ?? []);
  return { paths: flat(paths), data: flat(data) };
}
