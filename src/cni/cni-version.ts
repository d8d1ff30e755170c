/** The protocol versions that Berth speaks, oldest first. Older ones know neither chains nor lists. */
export const cniVersions = ['0.3.0', '0.3.1', '0.4.0', '1.0.0', '1.1.0'] as const;

/** One version of the CNI specification. */
export type CniVersion = (typeof cniVersions)[number];

/** The verbs that plugins are run with. */
export type CniVerb = 'ADD' | 'DEL' | 'CHECK' | 'STATUS' | 'GC';

/** Whether Berth speaks this version. */
export function isCniVersion(text: string): text is CniVersion {
  return cniVersions.some((version) => version === text);
}

/** Whether `version` is `least` or newer. */
export function isAtLeast(version: CniVersion, least: CniVersion): boolean {
  return cniVersions.indexOf(version) >= cniVersions.indexOf(least);
}

/** The newest of these that Berth speaks; a configuration may list newer ones (CNI 1.1, "Version considerations"). */
export function newestKnown(versions: readonly string[]): CniVersion | undefined {
  return cniVersions.findLast((version) => versions.includes(version));
}
