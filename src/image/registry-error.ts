import { BerthError, type ErrorKind, findCause } from '../base/errors.ts';

/**
 * What a failed request over TLS says about plain HTTP: `likely` where nobody listens for TLS or something else than TLS
 * came back, `possible` where the connection broke, which a server that wants a client certificate may do too.
 */
export type PlainHttp = 'likely' | 'possible' | 'no';

/** The facts about a failed exchange with a registry that decide what happens next. */
export interface RegistryFailure {
  /** HTTP status, undefined when there was no answer. */
  readonly status?: number | undefined;
  /** True when the same request may well succeed a moment later. */
  readonly retryable?: boolean;
  /** How long the registry asks us to wait. */
  readonly retryAfterMs?: number | undefined;
  /** Whether plain HTTP may do where TLS did not; `no` unless it is said. */
  readonly plainHttp?: PlainHttp;
  readonly cause?: unknown;
}

/** A failed exchange with a registry. */
export class RegistryError extends BerthError {
  override readonly name = 'RegistryError';
  readonly status: number | undefined;
  readonly retryable: boolean;
  readonly retryAfterMs: number | undefined;
  readonly plainHttp: PlainHttp;

  constructor(kind: ErrorKind, message: string, failure: RegistryFailure = {}) {
    super(kind, message, { cause: failure.cause });
    this.status = failure.status;
    this.retryable = failure.retryable ?? false;
    this.retryAfterMs = failure.retryAfterMs;
    this.plainHttp = failure.plainHttp ?? 'no';
  }
}

/** True when the failure says that the registry is down, unreachable or refuses to serve for now. */
export function isRegistryUnavailable(err: unknown): boolean {
  const failure = findCause(err, RegistryError);
  if (!failure) return false;
  return failure.status === undefined
    ? failure.kind === 'unavailable'
    : failure.status >= 500 || failure.status === 429;
}
