/** What a runtime can do beyond the specification's minimum. */
export interface HandlerFeatures {
  /** Read-only mounts with all that lies below them (`rro`). */
  readonly recursiveReadOnlyMounts: boolean;
  /** Containers in a user namespace of their pod. */
  readonly userNamespaces: boolean;
  /** Dumps and restores containers, with CRIU. */
  readonly checkpoint: boolean;
}

/** One OCI runtime that pods can ask for by name. */
export interface Handler {
  readonly name: string;
  /** Absolute path of the program. */
  readonly path: string;
  /** Folder for the runtime's own state. */
  readonly root: string;
  /** First line of `--version`. */
  readonly version: string;
  readonly features: HandlerFeatures;
  /** It is runc itself; see runc-state.ts for what that spares. */
  readonly isRunc: boolean;
  /** Whether it copies its own program each time it makes or joins a container; see SealedPrograms. */
  readonly copiesItself: boolean;
  /** Names of annotations that it may see, or patterns with `*`. */
  readonly annotations: readonly string[];
  /** Privileged containers get no devices but those that they ask for. */
  readonly privilegedWithoutHostDevices: boolean;
}
