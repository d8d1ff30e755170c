import { status } from '@grpc/grpc-js';

import { printable } from '../base/printable.ts';

/** An error for the person at the terminal: what went wrong, and what to do about it. */
export class CliError extends Error {
  override readonly name = 'CliError';
  readonly hint: string | undefined;
  /** The gRPC status, when berthd answered with one. */
  readonly code: status | undefined;
  /** Each of several mistakes, where `message` sums them up. */
  readonly problems: readonly string[];
  /** For the shell. */
  readonly exitCode: number;

  constructor(
    message: string,
    hint?: string,
    facts: { readonly code?: status; readonly problems?: readonly string[]; readonly exitCode?: number } = {},
  ) {
    super(message);
    this.hint = hint;
    this.code = facts.code;
    this.problems = facts.problems ?? [];
    this.exitCode = facts.exitCode ?? 1;
  }
}

/** The same error in other words. */
export function reworded(err: CliError, message: string, hint = err.hint): CliError {
  const { code, problems, exitCode } = err;
  return new CliError(message, hint, { ...(code === undefined ? {} : { code }), problems, exitCode });
}

/** The error as text for a person: a line for each mistake, then what to do. */
export function errorText({ message, problems, hint }: CliError): string {
  const lines = problems.length > 0 ? problems : message.split('\n');
  return `${lines.map((line) => `berth: ${printable(line)}\n`).join('')}${hint === undefined ? '' : `  ${hint}\n`}`;
}

/** The error as one line of JSON for a program: `error`, and where they are known `hint`, `code` and `problems`. */
export function errorJson({ message, problems, hint, code }: CliError): string {
  return `${JSON.stringify({
    error: message,
    ...(hint === undefined ? {} : { hint }),
    ...(code === undefined ? {} : { code: status[code] }),
    ...(problems.length === 0 ? {} : { problems }),
  })}\n`;
}
