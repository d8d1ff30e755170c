/**
 * What a signature is about: "simple signing" of the containers project (docs/containers-signature.5.md), which cosign
 * uses as well.
 */

import * as v from 'valibot';

import { BerthError } from '../base/errors.ts';
import type { SignedIdentity } from './policy.ts';
import { formatReference, type ImageReference, parseReference, repositoryOf, tagOf } from './reference.ts';

/** What a signer has put their name to. */
export interface SignedPayload {
  readonly manifestDigest: string;
  /** The name that the signer calls the image by. */
  readonly dockerReference: string;
}

/** How the two kinds of signature call themselves. */
export type PayloadType = 'atomic container signature' | 'cosign container image signature';

const schema = v.object({
  critical: v.strictObject({
    type: v.string(),
    image: v.strictObject({ 'docker-manifest-digest': v.string() }),
    identity: v.strictObject({ 'docker-reference': v.string() }),
  }),
});

/** Parses a payload, whose signature has been verified. Throws `permission` when it says anything else. */
export function parsePayload(bytes: Uint8Array, type: PayloadType): SignedPayload {
  const result = v.safeParse(schema, parseJson(bytes));
  if (!result.success) throw refused('what was signed is malformed');
  const { critical } = result.output;
  if (critical.type !== type) throw refused(`what was signed is no ${type}`);
  return {
    manifestDigest: critical.image['docker-manifest-digest'],
    dockerReference: critical.identity['docker-reference'],
  };
}

/** Throws `permission` unless the payload is about one of these manifests, by a name that the policy accepts. */
export function checkPayload(
  payload: SignedPayload,
  wanted: {
    readonly manifests: readonly string[];
    readonly reference: ImageReference;
    readonly identity: SignedIdentity;
  },
): void {
  if (!wanted.manifests.includes(payload.manifestDigest)) throw refused('it is for another image');
  if (!matches(payload.dockerReference, wanted.reference, wanted.identity)) {
    throw refused(
      `it is for the name "${payload.dockerReference.slice(0, 300)}", which ${wanted.identity.type} does not accept`,
    );
  }
}

function matches(signed: string, reference: ImageReference, identity: SignedIdentity): boolean {
  const parsed = parsedOrUndefined(signed);
  if (!parsed) return false;
  // A signature for a name without tag or digest is for no image of it in particular.
  const isWhole = signed.includes('@') || tagOf(signed) !== undefined;
  const sameRepository = (other: ImageReference): boolean => repositoryOf(parsed) === repositoryOf(other);
  const exact = (other: ImageReference): boolean => isWhole && formatReference(parsed) === formatReference(other);
  const repoDigestOrExact = (other: ImageReference): boolean =>
    other.digest === undefined ? exact(other) : sameRepository(other);
  switch (identity.type) {
    case 'matchExact':
      return exact(reference);
    case 'matchRepoDigestOrExact':
      return repoDigestOrExact(reference);
    case 'matchRepository':
      return sameRepository(reference);
    case 'exactReference': {
      const named = parsedOrUndefined(identity.dockerReference);
      return named !== undefined && exact(named);
    }
    case 'exactRepository': {
      const named = parsedOrUndefined(identity.dockerRepository);
      return named !== undefined && sameRepository(named);
    }
    case 'remapIdentity': {
      const remapped = parsedOrUndefined(remap(formatReference(reference), identity));
      return remapped !== undefined && repoDigestOrExact(remapped);
    }
  }
}

/** The prefix counts where a part of the name ends; a name that has it not stays as it is. */
function remap(name: string, { prefix, signedPrefix }: { prefix: string; signedPrefix: string }): string {
  const rest = name.startsWith(prefix) ? name.slice(prefix.length) : undefined;
  return rest !== undefined && (rest === '' || /^[/:@]/.test(rest)) ? signedPrefix + rest : name;
}

function parsedOrUndefined(text: string): ImageReference | undefined {
  try {
    return parseReference(text);
  } catch {
    return undefined;
  }
}

function parseJson(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(Buffer.from(bytes).toString('utf8'));
  } catch {
    return undefined;
  }
}

function refused(problem: string): BerthError {
  return new BerthError('permission', problem);
}
