/** Whether an image may run here: the policy, and the signatures that it asks for. */

import { readFile } from 'node:fs/promises';

import { BerthError, because, describe, isKind } from '../base/errors.ts';
import { parsePublicKey, verifyCosign } from './cosign-signature.ts';
import type { GpgSignatures } from './gpg-signatures.ts';
import { type KeySources, type Requirement, requirementsFor, type SignedIdentity } from './policy.ts';
import type { FoundPolicy, PolicyFiles } from './policy-files.ts';
import { formatReference, type ImageReference } from './reference.ts';
import {
  type FoundSignature,
  findCosignSignatures,
  findGpgSignatures,
  type SignatureDeps,
  type SignedImage,
} from './signature-sources.ts';
import { checkPayload, parsePayload } from './signed-payload.ts';
import { type SignedSubject, verifyBundle } from './sigstore-bundle.ts';

// They are in memory with their image.
const MAX_KEPT = 32;

/** What is known of an image's origin, kept with it. */
export interface TrustEvidence {
  /** Digests of the manifest, and of the index that led to it. */
  readonly manifests: readonly string[];
  readonly signatures: readonly FoundSignature[];
}

/** An image that the policy does not allow. The kubelet wants to read SignatureValidationFailed (cri-api, pkg/errors). */
export class UntrustedImageError extends BerthError {
  override readonly name = 'UntrustedImageError';

  constructor(message: string, options?: { cause?: unknown }) {
    super('permission', message, options);
  }
}

/** What the policy of one namespace says of one reference. */
export interface TrustRule {
  readonly requirements: readonly Requirement[];
  /** The file and the scope in it, for people. */
  readonly because: string;
}

/** Judges images by the policy. */
export class Trust {
  readonly #policies: PolicyFiles;
  readonly #gpg: GpgSignatures;
  readonly #sources: SignatureDeps;
  readonly #acceptsUnnamed: boolean;

  constructor(parts: {
    readonly policies: PolicyFiles;
    readonly gpg: GpgSignatures;
    readonly sources: SignatureDeps;
    /** Whether a signature counts that is for an image by its digest only, whatever name the policy wants. */
    readonly acceptsUnnamed: boolean;
  }) {
    this.#acceptsUnnamed = parts.acceptsUnnamed;
    this.#policies = parts.policies;
    this.#gpg = parts.gpg;
    this.#sources = parts.sources;
  }

  /** As PolicyFiles.heldBack(). */
  async heldBack(namespace: string): Promise<string[]> {
    return await this.#policies.heldBack(namespace);
  }

  /** As PolicyFiles.older(). */
  async olderPolicies(): Promise<string[]> {
    return await this.#policies.older();
  }

  /** To be called before the first image is judged. */
  async start(): Promise<void> {
    await this.#gpg.start();
  }

  /** As findPolicy(). */
  async policyOf(namespace: string): Promise<FoundPolicy> {
    return await findPolicy(this.#policies, namespace);
  }

  /**
   * The signatures that a rule wants looked at, as far as they can be found. Throws as a pull does when a place does not
   * answer.
   */
  async find(rule: TrustRule, image: SignedImage, signal: AbortSignal): Promise<FoundSignature[]> {
    const wants = (type: Requirement['type']): boolean => rule.requirements.some((one) => one.type === type);
    const gpg = wants('signedBy') ? await findGpgSignatures(this.#sources, image, signal) : [];
    const cosign = wants('sigstoreSigned') ? await findCosignSignatures(this.#sources, image, signal) : [];
    return [...gpg, ...cosign];
  }

  /**
   * Throws UntrustedImageError unless the signatures fulfil every requirement of the rule; so it does when they cannot be
   * verified for want of a key or of gpgv.
   */
  async judge(rule: TrustRule, reference: ImageReference, evidence: TrustEvidence, signal: AbortSignal): Promise<void> {
    refuseEarly(rule, reference);
    try {
      await this.#judge(rule, reference, evidence, signal);
    } catch (err) {
      if (!isKind(err, 'precondition')) throw err;
      throw new UntrustedImageError(`signatures of ${formatReference(reference)} cannot be verified`, { cause: err });
    }
  }

  async #judge(
    rule: TrustRule,
    reference: ImageReference,
    evidence: TrustEvidence,
    signal: AbortSignal,
  ): Promise<void> {
    for (const requirement of rule.requirements) {
      if (requirement.type !== 'signedBy' && requirement.type !== 'sigstoreSigned') continue;
      const isGpg = requirement.type === 'signedBy';
      const signatures = evidence.signatures.filter((signature) => (signature.kind === 'gpg') === isGpg);
      const verify = await this.#verifier(requirement, signal);
      const wanted = { manifests: evidence.manifests, reference, identity: requirement.identity };
      const reasons = await reasonsAgainst(signatures, (signature) => verify(signature, wanted), signal);
      if (!reasons) continue;
      const why = reasons.length === 0 ? 'it has no signature' : [...new Set(reasons)].slice(0, 5).join('; ');
      throw new UntrustedImageError(
        `${formatReference(reference)} is not ${requirement.type} as ${rule.because} wants it: ${why}`,
      );
    }
  }

  async #verifier(
    requirement: Extract<Requirement, { type: 'signedBy' | 'sigstoreSigned' }>,
    signal: AbortSignal,
  ): Promise<(signature: FoundSignature, wanted: Wanted) => Promise<void>> {
    const files = await readKeys(requirement.keys);
    if (requirement.type === 'signedBy') {
      const keys = files.map(({ bytes }) => bytes);
      return async (signature, wanted) => {
        if (signature.kind !== 'gpg') return;
        const signed = await this.#gpg.verify(Buffer.from(signature.message, 'base64'), keys, signal);
        checkPayload(parsePayload(signed, 'atomic container signature'), wanted);
      };
    }
    const keys = files.map(({ bytes, source }) => parsePublicKey(bytes, source));
    const logKeys = (await readKeys(requirement.rekorKeys)).map(({ bytes, source }) => parsePublicKey(bytes, source));
    return async (signature, wanted) => {
      if (signature.kind === 'bundle') {
        checkSubject(verifyBundle(signature.json, keys, logKeys), wanted, this.#acceptsUnnamed);
        return;
      }
      if (signature.kind !== 'cosign') return;
      const payload = Buffer.from(signature.payload, 'base64');
      verifyCosign({ ...signature, payload }, keys, logKeys);
      checkPayload(parsePayload(payload, 'cosign container image signature'), wanted);
    };
  }
}

/** Throws `permission` unless what a bundle says is about one of the wanted manifests, by a name that the policy accepts. */
function checkSubject({ digests, name }: SignedSubject, wanted: Wanted, acceptsUnnamed: boolean): void {
  const manifestDigest = digests.find((digest) => wanted.manifests.includes(digest));
  if (manifestDigest === undefined) throw new BerthError('permission', 'it is for another image');
  if (name !== '') checkPayload({ manifestDigest, dockerReference: name }, wanted);
  if (name !== '' || acceptsUnnamed) return;
  throw new BerthError(
    'permission',
    `it is good, but names no image, as those of cosign 3, and ${wanted.identity.type} wants a name: ` +
      'sign with cosign --new-bundle-format=false, or set image.accept_unnamed_signatures',
  );
}

interface Wanted {
  readonly manifests: readonly string[];
  readonly reference: ImageReference;
  readonly identity: SignedIdentity;
}

/** The policy that holds in a namespace (empty: in none). Throws UntrustedImageError when it is not usable. */
export async function findPolicy(policies: PolicyFiles, namespace: string): Promise<FoundPolicy> {
  try {
    return await policies.find(namespace);
  } catch (err) {
    throw new UntrustedImageError('the policy that says which images are trusted is not usable', { cause: err });
  }
}

/** Throws UntrustedImageError for a reference that no signature could make trusted. */
export function refuseEarly(rule: TrustRule, reference: ImageReference): void {
  for (const requirement of rule.requirements) {
    if (requirement.type === 'reject') {
      throw new UntrustedImageError(`${formatReference(reference)} is rejected by ${rule.because}`);
    }
    if (requirement.type === 'unsupported') {
      throw new UntrustedImageError(`${rule.because} wants ${requirement.what}, which berth cannot verify`);
    }
  }
}

/** What a policy says of a reference. */
export function ruleFor({ policy, file }: FoundPolicy, reference: ImageReference): TrustRule {
  const { scope, requirements } = requirementsFor(policy, reference);
  return { requirements, because: file === '' ? 'no policy' : `${file} (${scope})` };
}

/** True when a rule is fulfilled by any image. */
export function acceptsAnything({ requirements }: TrustRule): boolean {
  return requirements.every(({ type }) => type === 'insecureAcceptAnything');
}

/** Why none of the signatures counts; undefined when one does. What is no matter of a signature is thrown. */
async function reasonsAgainst(
  signatures: readonly FoundSignature[],
  verify: (signature: FoundSignature) => Promise<void>,
  signal: AbortSignal,
): Promise<string[] | undefined> {
  const reasons: string[] = [];
  for (const signature of signatures) {
    try {
      await verify(signature);
      return undefined;
    } catch (err) {
      signal.throwIfAborted();
      if (!isKind(err, 'permission')) throw err;
      reasons.push(describe(err));
    }
  }
  return reasons;
}

async function readKeys({ paths, data }: KeySources): Promise<{ bytes: Buffer; source: string }[]> {
  const files = paths.map(async (path) => {
    try {
      return { bytes: await readFile(path), source: path };
    } catch (err) {
      throw because('precondition', `key ${path} of the policy cannot be read`, err);
    }
  });
  const texts = data.map((text) => ({ bytes: Buffer.from(text, 'base64'), source: 'a key in the policy' }));
  return [...(await Promise.all(files)), ...texts];
}

/** What both know together; the later one's signatures last. */
export function mergeEvidence(
  one: TrustEvidence | undefined,
  other: TrustEvidence | undefined,
): TrustEvidence | undefined {
  if (!one || !other) return one ?? other;
  const signatures = new Map([...one.signatures, ...other.signatures].map((found) => [JSON.stringify(found), found]));
  return {
    manifests: [...new Set([...one.manifests, ...other.manifests])],
    signatures: [...signatures.values()].slice(-MAX_KEPT),
  };
}
