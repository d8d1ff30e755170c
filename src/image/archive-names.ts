import { basename } from 'node:path';

import { invalid } from '../base/errors.ts';
import { type ImageReference, parseReference, recordedName, tagOf } from './reference.ts';

/** What an archive calls one of its images. */
export interface NamesInArchive {
  /** Whole names, as they stand there. */
  readonly references: readonly string[];
  /** Tags without a name. */
  readonly tags: readonly string[];
}

/**
 * A value of `org.opencontainers.image.ref.name`, which the image layout specification lets be a tag, and which tools
 * also put whole names into: one without `/`, `:` and `@` is a tag.
 */
export function nameFromAnnotation(value: string): NamesInArchive {
  return /[/:@]/.test(value) ? { references: [value], tags: [] } : { references: [], tags: [value] };
}

/**
 * What the images of an archive are called here, each list in the order of `images`. Mere tags get the name of the
 * file, on `localhost`: no registry has that, so that no pull of something else is meant by it (podman does the same).
 * A `wanted` name stands in place of all names in the archive; its own tag wins over theirs. Throws `invalid` for names
 * that are none, and for a wanted one that several images would get.
 */
export function nameImages(
  path: string,
  images: readonly NamesInArchive[],
  wanted: string,
): readonly (readonly ImageReference[])[] {
  if (wanted === '') {
    const stem = `localhost/${nameOfFile(path)}`;
    return images.map(({ references, tags }) =>
      [...references, ...tags.map((tag) => `${stem}:${tag}`)].map((name) => parseReference(name, 'path')),
    );
  }
  if (parseReference(wanted, 'name').digest !== undefined) throw invalid('name', `"${wanted}" must not have a digest`);
  const named = images.map(({ references, tags }) => {
    if (tagOf(wanted) !== undefined) return [wanted];
    const own = [...references.map((name) => parseReference(name, 'path').tag ?? 'latest'), ...tags];
    return [...new Set(own.length > 0 ? own : ['latest'])].map((tag) => `${wanted}:${tag}`);
  });
  const all = named.flat();
  if (new Set(all).size < all.length)
    throw invalid('name', `the file has ${images.length} images, and several would be called ${all[0]}`);
  return named.map((names) => names.map((name) => parseReference(name, 'name')));
}

/** The names that an image is listed under. */
export function recordedNames(references: readonly ImageReference[]): readonly string[] {
  return [...new Set(references.map(recordedName))];
}

/** A repository's name after a folder or file, without what archives end in. */
function nameOfFile(path: string): string {
  // What came by a pipe has no name: `berth image load -`.
  const own = /^\/proc\/\d+\/fd\/\d+$/.test(path) ? '' : basename(path);
  const stem = own.replace(/\.(?:tar|tgz|tzst|oci|docker)(?:\.(?:gz|zst|xz|bz2))?$/i, '');
  const name = stem
    .toLowerCase()
    .replaceAll(/[^a-z0-9._-]/g, '-')
    // Of marks in a row, references allow only few combinations.
    .replaceAll(/[._-]{2,}/g, '-')
    .replaceAll(/^[._-]+|[._-]+$/g, '');
  return name.slice(0, 100).replace(/[._-]+$/, '') || 'image';
}
