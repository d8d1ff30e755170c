import type { status } from '@grpc/grpc-js';

/** An error for the person at the terminal: what went wrong, and what to do about it. */
export class CliError extends Error {
  override readonly name = 'CliError';
  readonly hint: string | undefined;
  /** The gRPC status, when berthd answered with one. */
  readonly code: status | undefined;

  constructor(message: string, hint?: string, code?: status) {
    super(message);
    this.hint = hint;
    this.code = code;
  }
}
