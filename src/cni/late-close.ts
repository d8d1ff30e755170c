import { existsSync } from 'node:fs';

/** What the dynamic linker reads from LD_PRELOAD as the end of a path (ld.so(8)). */
const SEPARATORS = /[\s:]/;

/**
 * The variables by which the iptables that a plugin runs does not wait for what the kernel does after a deletion:
 * native/late-close.c tells what and why. None without the library's path, or where the linker would only complain of it
 * to each program: plugins take what iptables says at its word.
 */
export function lateCloseEnv(library: string | undefined): Readonly<Record<string, string>> {
  if (library === undefined || SEPARATORS.test(library) || !existsSync(library)) return {};
  return { LD_PRELOAD: library };
}
