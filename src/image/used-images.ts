import { findCause, wrap } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import type { CredentialSource } from './auth.ts';
import { candidateReferences } from './endpoints.ts';
import type { ImageCatalog } from './image-catalog.ts';
import { commitImage, type ImageStore, stored } from './image-commit.ts';
import { type ImageRecord, namesOf } from './image-record.ts';
import type { FoundPolicy } from './policy-files.ts';
import { accessesFor } from './pull.ts';
import { PullSource } from './pull-source.ts';
import { type ImageReference, parseReference, recordedName } from './reference.ts';
import type { Registries } from './registries.ts';
import { acceptsAnything, refuseEarly, ruleFor, type Trust, type TrustRule, UntrustedImageError } from './trust.ts';

/** What it takes to judge an image that is here. */
interface UsedImagesParts {
  readonly trust: Trust;
  readonly registries: Registries;
  /** Asked when signatures have to be fetched after the pull. */
  readonly credentials: readonly CredentialSource[];
  readonly catalog: ImageCatalog;
  readonly store: ImageStore;
  readonly log: Logger;
}

/** Judges images as they are about to run: the policy may have changed since they were pulled, or be another one. */
export class TrustOfUsedImages {
  readonly #parts: UsedImagesParts;

  constructor(parts: UsedImagesParts) {
    this.#parts = parts;
  }

  /** As Images.checkTrust(). */
  async check(image: ImageRecord, asked: string, namespace: string, signal: AbortSignal): Promise<void> {
    try {
      await this.#check(image, asked, await this.#parts.trust.policyOf(namespace), signal);
    } catch (err) {
      const word = findCause(err, UntrustedImageError) ? 'SignatureValidationFailed: ' : '';
      throw wrap(`${word}use image ${asked}`, err);
    }
  }

  async #check(image: ImageRecord, asked: string, policy: FoundPolicy, signal: AbortSignal): Promise<void> {
    const failures: unknown[] = [];
    for (const reference of this.#namesToJudge(image, asked)) {
      const rule = ruleFor(policy, reference);
      if (acceptsAnything(rule)) return;
      try {
        return await this.#judge(image, reference, rule, signal);
      } catch (err) {
        signal.throwIfAborted();
        failures.push(err);
      }
    }
    if (failures.length > 0) throw failures[0];
    const { file, policy: rules } = policy;
    if (acceptsAnything({ requirements: rules.default, because: file })) return;
    throw new UntrustedImageError(`it has no name by which ${file} could trust it`);
  }

  /** The name that the client means, or else all that the image has: the content is the same. */
  #namesToJudge(image: ImageRecord, asked: string): readonly ImageReference[] {
    const names = new Set(namesOf(image));
    const meant = this.#referencesOf(asked).filter((reference) => names.has(recordedName(reference)));
    return meant.length > 0 ? meant : [...names].map((name) => parseReference(name));
  }

  #referencesOf(text: string): ImageReference[] {
    try {
      return candidateReferences(text, this.#parts.registries.rules);
    } catch {
      // An id.
      return [];
    }
  }

  async #judge(image: ImageRecord, reference: ImageReference, rule: TrustRule, signal: AbortSignal): Promise<void> {
    const { trust, log } = this.#parts;
    const pulledBy = image.repoDigests.map((name) => name.slice(name.indexOf('@') + 1));
    const known = image.trust ?? { manifests: pulledBy, signatures: [] };
    try {
      await trust.judge(rule, reference, known, signal);
    } catch (err) {
      signal.throwIfAborted();
      refuseEarly(rule, reference);
      log.info({ image: image.id, err }, 'what is known of it is not enough, asking its registry for signatures');
      await this.#judgeAnew(image, reference, rule, known.manifests, signal);
    }
  }

  async #judgeAnew(
    image: ImageRecord,
    reference: ImageReference,
    rule: TrustRule,
    manifests: readonly string[],
    signal: AbortSignal,
  ): Promise<void> {
    const { trust, registries, credentials, catalog, store, log } = this.#parts;
    const endpoints = await registries.endpoints(reference);
    const source = new PullSource(await accessesFor(endpoints, { auth: undefined, credentials }, signal), log);
    const signatures = await trust.find(rule, { reference, manifests, source }, signal);
    await trust.judge(rule, reference, { manifests, signatures }, signal);
    const current = catalog.byId(image.id);
    // It may have been removed meanwhile.
    if (current)
      commitImage(catalog, store, { image: { ...stored(current), trust: { manifests, signatures } }, names: [] });
  }
}
