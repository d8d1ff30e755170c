/** What a layer deletes: OCI image spec, "Image Layer Filesystem Changeset", section "Whiteouts". */

import { invalid } from '../base/errors.ts';

/** What a member's last name component means. `name` is in the same form as it came: one character per byte. */
export type WhiteoutMeaning =
  | { readonly kind: 'none' }
  /** Hides `name`, which a lower layer may have. */
  | { readonly kind: 'hide'; readonly name: string }
  /** Hides all that lower layers have in the member's folder. */
  | { readonly kind: 'opaque' }
  /** Bookkeeping of aufs that old archives still carry. */
  | { readonly kind: 'ignore' };

const PREFIX = '.wh.';
const META_PREFIX = '.wh..wh.';
const OPAQUE = '.wh..wh..opq';

/** Overlayfs' mark of an opaque folder: kernel documentation, filesystems/overlayfs, "whiteouts and opaque directories". */
export const OPAQUE_XATTR = 'trusted.overlay.opaque';

/** Throws `invalid` for a whiteout of nothing, of `.` or of `..`. */
export function whiteoutMeaning(components: readonly string[]): WhiteoutMeaning {
  // What is in a folder of aufs' own is its bookkeeping too.
  if (components.some((component) => component.startsWith(META_PREFIX) && component !== OPAQUE))
    return { kind: 'ignore' };
  const last = components.at(-1) ?? '';
  if (!last.startsWith(PREFIX)) return { kind: 'none' };
  if (last === OPAQUE) return { kind: 'opaque' };
  const name = last.slice(PREFIX.length);
  if (name === '' || name === '.' || name === '..') throw invalid('whiteout', `of "${name}" hides nothing that can be`);
  return { kind: 'hide', name };
}
