/** The option string of an overlay mount: kernel documentation, filesystems/overlayfs. */

import { BerthError } from '../base/errors.ts';

/** The folders of one overlay mount. */
export interface OverlayFolders {
  /** Top layer first, as the kernel wants them; at least one. */
  readonly lowers: readonly string[];
  /** The writable layer; without it the mount is read-only. */
  readonly upper?: { readonly upperDir: string; readonly workDir: string };
  /** More options, such as `index=off`. */
  readonly flags: readonly string[];
}

/** mount(2) copies one page, the final NUL included. */
const LIMIT_BYTES = 4095;

/** The whole string. Throws `precondition` when it does not fit into what mount(2) takes. */
export function overlayOptions(folders: OverlayFolders): string {
  const options = [`lowerdir=${folders.lowers.map(escapeOption).join(':')}`];
  if (folders.upper) {
    options.push(`upperdir=${escapeOption(folders.upper.upperDir)}`, `workdir=${escapeOption(folders.upper.workDir)}`);
  }
  const text = [...options, ...folders.flags].join(',');
  const length = Buffer.byteLength(text);
  if (length <= LIMIT_BYTES) return text;
  throw new BerthError(
    'precondition',
    `overlay of ${folders.lowers.length} layers needs ${length} bytes of mount options, and the kernel takes ${LIMIT_BYTES}`,
  );
}

/** True when the options fit into what mount(2) takes. */
export function optionsFit(folders: OverlayFolders): boolean {
  try {
    overlayOptions(folders);
    return true;
  } catch {
    return false;
  }
}

/** A colon ends a layer, a comma the option; the kernel takes both after a backslash. */
function escapeOption(path: string): string {
  return path.replaceAll(/[\\:,]/g, '\\$&');
}
