import { existsSync } from 'node:fs';

import type { Logger } from '../base/log.ts';

/** What the dynamic linker reads from LD_PRELOAD as the end of a path (ld.so(8)). */
const SEPARATORS = /[\s:]/;

/** What they delete for a DEL holds nothing that anybody could miss while the kernel has not yet freed it. */
const PLUGINS: ReadonlySet<string> = new Set(['bridge', 'ptp', 'portmap', 'firewall']);

/**
 * The library of native/late-close.c, if the dynamic linker can take it from this path; otherwise none, and the log says
 * so. The linker itself would complain to each program, and plugins take what iptables says at its word.
 */
export function lateCloseLibrary(path: string | undefined, log: Pick<Logger, 'warn'>): string | undefined {
  if (path === undefined) return undefined;
  if (!SEPARATORS.test(path) && existsSync(path)) return path;
  log.warn(
    { path },
    'the library that ends pods faster is missing, or has a space or colon in its path: DEL goes without',
  );
  return undefined;
}

/** The variables by which the iptables of a plugin's DEL does not wait until the kernel has freed what it deleted. */
export function lateCloseEnv(library: string | undefined, plugin: string): Readonly<Record<string, string>> {
  return library !== undefined && PLUGINS.has(plugin) ? { LD_PRELOAD: library } : {};
}
