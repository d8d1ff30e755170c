import { matchesGlob } from '../base/glob.ts';

/**
 * True when one of the patterns names one of the names. A pattern is a full name, or has `*` for any run of
 * characters: `registry.k8s.io/pause:*`, `*pause*`. The kubelet's garbage collection leaves such images alone.
 */
export function isPinned(names: readonly string[], patterns: readonly string[]): boolean {
  return patterns.some((pattern) => names.some((name) => matchesGlob(name, pattern)));
}
