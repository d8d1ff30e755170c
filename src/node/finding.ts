/** Something that the operator of this node should know. */
export interface Finding {
  /** error: pods, or some of them, cannot run. */
  readonly severity: 'error' | 'warning' | 'info';
  /** What it is about: a key, a file, a program, a feature of the kernel. */
  readonly subject: string;
  /** What it is, and what it means. */
  readonly message: string;
  /** The command that mends it, or what to do; empty when there is nothing to do. */
  readonly remedy: string;
  /** Mends it, where that can do no harm; present on few. Throws when it cannot. */
  readonly mend?: (() => Promise<void> | void) | undefined;
}

/** A finding as it is told. */
export interface ToldFinding extends Omit<Finding, 'mend'> {
  /** `berth doctor --fix` mends it. */
  readonly canMend: boolean;
  /** What became of it when that was tried: `done`, or why not; empty when it was not tried. */
  readonly mended: string;
}
