/** Which entry of an image index is for this machine: OCI image spec, "Image Index", property `platform`. */

/** A platform in the words of Go, as indexes use them. */
export interface Platform {
  readonly os: string;
  readonly architecture: string;
  /** Version of the CPU: `v7` for arm, `v8` for arm64; empty when not given. */
  readonly variant: string;
}

const architectures: Readonly<Record<string, string>> = { x64: 'amd64', ia32: '386', ppc64: 'ppc64le' };

/** The platform that this process runs on; `architecture` in Node's words. */
export function hostPlatform(architecture: string = process.arch): Platform {
  const name = architectures[architecture] ?? architecture;
  const variant = { arm: 'v7', arm64: 'v8' }[name] ?? '';
  return { os: 'linux', architecture: name, variant };
}

/** `linux/arm/v7`. */
export function formatPlatform(platform: Platform): string {
  return [platform.os, platform.architecture, platform.variant].filter((part) => part !== '').join('/');
}

/**
 * True when a program for `offered` runs on `host`. An amd64 host is taken to be v1, because a program for a newer
 * level dies with an illegal instruction on an older machine; an arm host runs its own version and all before it.
 */
export function runsOn(host: Platform, offered: Platform): boolean {
  return offered.os === host.os && offered.architecture === host.architecture && rank(host, offered) >= 0;
}

/** The entry that fits the host best, the first of equals; undefined when none fits. */
export function choosePlatform<T extends { readonly platform?: Platform | undefined }>(
  host: Platform,
  entries: readonly T[],
): T | undefined {
  let best: T | undefined;
  let bestRank = -1;
  for (const entry of entries) {
    if (!entry.platform || !runsOn(host, entry.platform)) continue;
    const entryRank = rank(host, entry.platform);
    if (entryRank > bestRank) [best, bestRank] = [entry, entryRank];
  }
  return best;
}

/** Higher is better, negative does not run. */
function rank(host: Platform, offered: Platform): number {
  if (offered.variant === host.variant) return 100;
  if (offered.variant === '') return 50;
  const own = version(host.variant === '' ? 'v1' : host.variant);
  const theirs = version(offered.variant);
  return theirs <= own ? theirs : -1;
}

function version(variant: string): number {
  const match = /^v([0-9]+)$/.exec(variant);
  return match ? Number(match[1]) : Number.POSITIVE_INFINITY;
}
