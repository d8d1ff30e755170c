/**
 * The one error class of the code base. Rooms throw it where the fact is known; the server turns its kind into a
 * gRPC status in one place (src/server). Subclasses exist only where a caller needs a fact: an errno, an exit code.
 */

/** What went wrong, in the terms a caller can act on. Each kind is one gRPC status code. */
export type ErrorKind =
  | 'invalid'
  | 'notFound'
  | 'alreadyExists'
  | 'precondition'
  | 'permission'
  | 'exhausted'
  | 'unavailable'
  | 'deadline'
  | 'cancelled'
  | 'unimplemented'
  | 'internal';

/** An error that names the object and the step that failed. Messages are lower case, without a full stop. */
export class BerthError extends Error {
  override readonly name: string = 'BerthError';
  readonly kind: ErrorKind;

  constructor(kind: ErrorKind, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.kind = kind;
  }
}

/** A caller's mistake in one field: becomes InvalidArgument. `field` is the path as the CRI spells it. */
export function invalid(field: string, problem: string): BerthError {
  return new BerthError('invalid', `${field}: ${problem}`);
}

/** Adds one level of context and keeps the kind of what was caught; anything unknown is internal, a bug to fix. */
export function wrap(context: string, cause: unknown): BerthError {
  return new BerthError(kindOf(cause), context, { cause });
}

/** Node's errors of a machine that has run out of something: no bug, wherever they come up. */
const EXHAUSTED: ReadonlySet<unknown> = new Set(['ENOSPC', 'EDQUOT', 'ENOMEM', 'EMFILE', 'ENFILE']);

/**
 * The kind of any caught value. An abort is `cancelled`, an expired `AbortSignal.timeout` is `deadline`, a full disk is
 * `exhausted`.
 */
export function kindOf(err: unknown): ErrorKind {
  if (err instanceof BerthError) return err.kind;
  if (err instanceof Error && 'code' in err && EXHAUSTED.has(err.code)) return 'exhausted';
  if (err instanceof Error && err.name === 'AbortError') return 'cancelled';
  if (err instanceof Error && err.name === 'TimeoutError') return 'deadline';
  return 'internal';
}

/** An error of another kind than its cause: where a fact such as ENOENT means something to the caller. */
export function because(kind: ErrorKind, message: string, cause: unknown): BerthError {
  return new BerthError(kind, message, { cause });
}

/** True when `err` is a BerthError of one of these kinds. */
export function isKind(err: unknown, ...kinds: readonly ErrorKind[]): boolean {
  return err instanceof BerthError && kinds.includes(err.kind);
}

/** Finds the first error of a class in a cause chain, so that a fact survives the contexts wrapped around it. */
export function findCause<E extends Error>(err: unknown, type: abstract new (...args: never[]) => E): E | undefined {
  for (let at: unknown = err; at instanceof Error; at = at.cause) {
    if (at instanceof type) return at;
  }
  return undefined;
}

/** The cause chain as one line, outermost context first, root cause last, without stacks. */
export function describe(err: unknown): string {
  const parts: string[] = [];
  for (let at: unknown = err; at !== undefined && at !== null; at = at instanceof Error ? at.cause : undefined) {
    const text = at instanceof Error ? at.message : String(at);
    // Some errors end with the text of their cause already.
    if (text !== '' && !parts.at(-1)?.endsWith(text)) parts.push(text);
  }
  return parts.join(': ');
}
