/**
 * True when one of the patterns names one of the names. A pattern is a full name, or has `*` for any run of
 * characters: `registry.k8s.io/pause:*`, `*pause*`. The kubelet's garbage collection leaves such images alone.
 */
export function isPinned(names: readonly string[], patterns: readonly string[]): boolean {
  return patterns.some((pattern) => names.some((name) => matchesGlob(name, pattern)));
}

/** Matches in time linear in the name for each `*`, unlike a regular expression made from the pattern. */
function matchesGlob(name: string, pattern: string): boolean {
  const [first = '', ...rest] = pattern.split('*');
  const last = rest.pop();
  if (last === undefined) return name === first;
  if (!name.startsWith(first)) return false;
  let at = first.length;
  for (const part of rest) {
    const found = name.indexOf(part, at);
    if (found < 0) return false;
    at = found + part.length;
  }
  return name.length - last.length >= at && name.endsWith(last);
}
