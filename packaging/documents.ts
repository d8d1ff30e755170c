import { posix } from 'node:path';

/** Where documents lie beside their examples: `/usr/share/doc/berth` of a package. */
interface Shelf {
  /** With what commands in documents name the folder. */
  readonly folder: string;
  /** Files of `docs` that lie there, by their names. */
  readonly pages: ReadonlySet<string>;
}

/**
 * A document as it lies on a node, where there is no checkout: links lead to what lies beside it, and what does not is
 * text; commands name the examples by their whole path. `path` is its place in the checkout.
 */
export function placeDocument(text: string, path: string, { folder, pages }: Shelf): string {
  const place = placeOf(path, pages);
  if (place === undefined) throw new Error(`${path} is no document of the package`);
  const here = posix.dirname(place);
  const linked = text.replaceAll(
    /\[((?:[^[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)/g,
    (link, words: string, target: string) => {
      if (/^(?:[a-z]+:|#)/.test(target)) return link;
      const [file = '', anchor] = target.split('#');
      const found = placeOf(posix.join(posix.dirname(path), file), pages);
      if (found === undefined) return words;
      return `[${words}](${posix.relative(here, found)}${anchor === undefined ? '' : `#${anchor}`})`;
    },
  );
  // In commands and names, not in links, which have been placed.
  return linked.replaceAll(/(?<![\w/.(-])deploy\/(?=[\w{])/g, `${folder}/examples/`);
}

/** Where a file of the checkout lies below the shelf; undefined for what is not there. */
function placeOf(path: string, pages: ReadonlySet<string>): string | undefined {
  if (path === 'README.md') return path;
  const [top, ...rest] = path.split('/');
  if (top === 'deploy') return posix.join('examples', ...rest);
  const page = rest.join('/');
  return top === 'docs' && pages.has(page) ? page : undefined;
}
