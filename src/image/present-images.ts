/**
 * What a pull need not bring because it is here. Answers for a digest come from memory where that is nobody's secret, or
 * where a registry has let the same client have it; for a tag, the registry is asked where it points, and nothing else.
 */

import { isKind } from '../base/errors.ts';
import { type Digest, isDigest } from './digest.ts';
import type { ImageCatalog } from './image-catalog.ts';
import { commitImage, type ImageStore, stored } from './image-commit.ts';
import { type ImageRecord, namesOf } from './image-record.ts';
import type { LayerFolders } from './layer-holds.ts';
import { type ImageReference, recordedName, repositoryOf } from './reference.ts';
import { acceptsAnything, type Trust, type TrustRule } from './trust.ts';

/** One pull, as far as it decides who may have what is here. */
export interface Claim {
  readonly reference: ImageReference;
  readonly rule: TrustRule;
  /**
   * Stands for the credentials that came with this pull and not from the node's own files; undefined when none came.
   * Whoever comes with the same may have the same.
   */
  readonly proof: string | undefined;
}

/** What this file is built from. */
interface PresentParts {
  readonly catalog: ImageCatalog;
  readonly store: ImageStore;
  readonly layers: Pick<LayerFolders, 'has'>;
  readonly trust: Pick<Trust, 'judge'>;
}

const MAX_SERVED = 10_000;

/** The images that are here, as pulls see them. */
export class PresentImages {
  readonly #parts: PresentParts;
  /** Repo digests and proofs of credentials that registries have served since berthd started. */
  readonly #served = new Set<string>();

  constructor(parts: PresentParts) {
    this.#parts = parts;
  }

  /**
   * The image that a claim by digest means, when it is here whole, the policy trusts it by what is known of it, and this
   * client may have it: without a registry.
   */
  async unasked(claim: Claim, signal: AbortSignal): Promise<ImageRecord | undefined> {
    const { digest } = claim.reference;
    if (digest === undefined) return undefined;
    const image = this.#find(claim.reference, digest);
    if (!image || !this.#mayHave(image, claim, digest) || !(await this.#isTrusted(image, claim, signal)))
      return undefined;
    // It may have been removed while gpgv was at work.
    return this.#find(claim.reference, digest);
  }

  /** The digests of which `led` has the image that a claim by tag meant before. */
  digestsOf({ reference, rule }: Claim): ReadonlySet<Digest> {
    const image = reference.digest === undefined ? this.#parts.catalog.byName(recordedName(reference)) : undefined;
    if (!image || !acceptsAnything(rule) || !this.#isWhole(image)) return new Set();
    const prefix = `${repositoryOf(reference)}@`;
    const digests = image.repoDigests.flatMap((name) => (name.startsWith(prefix) ? [name.slice(prefix.length)] : []));
    return new Set(digests.filter(isDigest));
  }

  /**
   * The image that a registry has just said a claim leads to, when it is here whole and any image is trusted: signatures
   * are looked for with each pull by tag. It has the claim's name from then on.
   */
  led(claim: Claim, digest: Digest): ImageRecord | undefined {
    const image = acceptsAnything(claim.rule) ? this.#find(claim.reference, digest) : undefined;
    return image && this.named(image, claim, digest);
  }

  /** Has an image go by the name of a claim, and notes that a registry has served it to this client. */
  named(image: ImageRecord, { reference, proof }: Claim, digest: Digest): ImageRecord {
    const byDigest = `${repositoryOf(reference)}@${digest}`;
    if (proof !== undefined) this.#remember(byDigest, proof);
    const names = [recordedName(reference), byDigest];
    const open = proof === undefined ? [byDigest] : [];
    const isKnown = names.every((name) => namesOf(image).includes(name));
    if (isKnown && open.every((name) => image.openDigests?.includes(name))) return image;
    const { catalog, store } = this.#parts;
    return commitImage(catalog, store, { image: { ...stored(image), openDigests: open }, names });
  }

  #find(reference: ImageReference, digest: Digest): ImageRecord | undefined {
    const image = this.#parts.catalog.byName(`${repositoryOf(reference)}@${digest}`);
    return image && this.#isWhole(image) ? image : undefined;
  }

  /** What an older berthd left out comes with the next pull. */
  #isWhole(image: ImageRecord): boolean {
    return image.openDigests !== undefined && image.layers.every((diffId) => this.#parts.layers.has(diffId));
  }

  #mayHave(image: ImageRecord, { reference, proof }: Claim, digest: Digest): boolean {
    const byDigest = `${repositoryOf(reference)}@${digest}`;
    if (image.openDigests?.includes(byDigest)) return true;
    return proof !== undefined && this.#served.has(JSON.stringify([byDigest, proof]));
  }

  /** True when the policy trusts it; false when more must be known for that. */
  async #isTrusted(image: ImageRecord, { rule, reference }: Claim, signal: AbortSignal): Promise<boolean> {
    try {
      await this.#parts.trust.judge(rule, reference, image.trust ?? { manifests: [], signatures: [] }, signal);
      return true;
    } catch (err) {
      if (isKind(err, 'permission')) return false;
      throw err;
    }
  }

  #remember(byDigest: string, proof: string): void {
    const oldest = this.#served.values().next();
    if (this.#served.size >= MAX_SERVED && !oldest.done) this.#served.delete(oldest.value);
    this.#served.add(JSON.stringify([byDigest, proof]));
  }
}
