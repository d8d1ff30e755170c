import { status } from '@grpc/grpc-js';

import { CliError } from './cli-error.ts';

/** POSIX shells' exit codes for a command that is there and cannot be run, and for one that is not there. */
const CANNOT_RUN = 126;
const NOT_FOUND = 127;

/**
 * The error with the exit code that a shell has for it, where berthd says that the command in the request's `field`
 * cannot be run; any other error as it is. Why it cannot, only the words of the OCI runtimes tell.
 */
export function noSuchCommand(err: unknown, field: string): unknown {
  if (!(err instanceof CliError) || err.code !== status.INVALID_ARGUMENT || !err.message.includes(`${field}: `))
    return err;
  const exitCode = /not found|no such file/i.test(err.message) ? NOT_FOUND : CANNOT_RUN;
  return new CliError(err.message, err.hint, { code: err.code, exitCode });
}
