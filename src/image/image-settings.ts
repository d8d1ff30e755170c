/** The keys of `[image]` that this room follows. */
export interface ImageSettings {
  readonly registriesConf: string;
  readonly registriesConfDir: string;
  readonly shortNameAliases: string;
  readonly hostsDirs: readonly string[];
  readonly certsDirs: readonly string[];
  readonly authFile: string;
  readonly namespacedAuthDir: string;
  readonly signaturePolicy: string;
  /** Whether it is where it is by default, and may be missing. */
  readonly signaturePolicyMayBeMissing: boolean;
  readonly signaturePolicyDir: string;
  readonly lookasideDir: string;
  /** Whether signatures count that name no image: Trust. */
  readonly acceptUnnamedSignatures?: boolean;
  readonly pinnedImages: readonly string[];
  readonly maxParallelDownloads: number;
  /** Bound on one whole pull, in milliseconds. */
  readonly pullTimeoutMs: number;
}

/** Those that may change while berthd runs. */
export type LiveImageSettings = Pick<
  ImageSettings,
  'pinnedImages' | 'maxParallelDownloads' | 'pullTimeoutMs' | 'namespacedAuthDir'
>;
