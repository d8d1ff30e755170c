import { BerthError, isKind } from '../base/errors.ts';
import { candidateReferences } from './endpoints.ts';
import type { ImageCatalog } from './image-catalog.ts';
import type { ImageRecord } from './image-record.ts';
import { type ImageReference, recordedName } from './reference.ts';
import type { RegistryRules } from './registries-conf.ts';

/** The images that clients mean by what they write. */
export class NamedImages {
  readonly #catalog: ImageCatalog;
  /** Short names mean what the rules of the moment say. */
  readonly #registries: { readonly rules: RegistryRules };

  constructor(catalog: ImageCatalog, registries: { readonly rules: RegistryRules }) {
    this.#catalog = catalog;
    this.#registries = registries;
  }

  /** As Images.find(). */
  find(text: string, field = 'image.image'): ImageRecord | undefined {
    const byId = this.#catalog.byId(text) ?? this.#catalog.byId(`sha256:${text}`);
    if (byId) return byId;
    let references: ImageReference[] = [];
    let problem: unknown;
    try {
      references = candidateReferences(text, this.#registries.rules, field);
    } catch (err) {
      if (!isKind(err, 'invalid')) throw err;
      problem = err;
    }
    for (const reference of references) {
      const found = this.#catalog.byName(recordedName(reference));
      if (found) return found;
    }
    const found = this.#catalog.byIdPrefix(text, field);
    if (!found && problem !== undefined && !/^(?:sha256:)?[0-9a-f]{64}$/.test(text)) throw problem;
    return found;
  }

  /** The image that a text means. Throws `notFound` where there is none, and as `find` does. */
  get(text: string): ImageRecord {
    const image = this.find(text);
    if (image) return image;
    throw new BerthError('notFound', `image ${text} is not here`);
  }

  /** Those tags of an image that a text means: what was asked for by a tag, that one; by anything else, all. */
  tagsMeant({ tags }: ImageRecord, text: string): readonly string[] {
    if (/^(?:sha256:)?[0-9a-f]+$/.test(text)) return tags;
    const meant = candidateReferences(text, this.#registries.rules).map(recordedName);
    const found = tags.filter((tag) => meant.includes(tag));
    return found.length > 0 ? found : tags;
  }
}
