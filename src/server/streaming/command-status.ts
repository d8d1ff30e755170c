import { describe } from '../../base/errors.ts';

/** How an exec or attach ended. */
export type CommandOutcome =
  | { readonly type: 'ended'; readonly exitCode: number }
  | { readonly type: 'failed'; readonly error: unknown };

/**
 * What clients of v4 and v5 read from the error stream: a Status of Kubernetes' meta/v1 as JSON. They take the exit code
 * from the cause of type ExitCode.
 */
export function statusJson(outcome: CommandOutcome): string {
  if (outcome.type === 'failed') {
    const message = failureText(outcome);
    return JSON.stringify({
      metadata: {},
      status: 'Failure',
      message,
      reason: 'InternalError',
      details: { causes: [{ message }] },
      code: 500,
    });
  }
  if (outcome.exitCode === 0) return JSON.stringify({ metadata: {}, status: 'Success' });
  return JSON.stringify({
    metadata: {},
    status: 'Failure',
    message: failureText(outcome),
    reason: 'NonZeroExitCode',
    details: { causes: [{ reason: 'ExitCode', message: String(outcome.exitCode) }] },
  });
}

/** What clients of v1 to v3 read: a text if something went wrong, else nothing. */
export function statusText(outcome: CommandOutcome): string {
  return outcome.type === 'ended' && outcome.exitCode === 0 ? '' : failureText(outcome);
}

function failureText(outcome: CommandOutcome): string {
  return outcome.type === 'ended'
    ? `command terminated with exit code ${outcome.exitCode}`
    : `error executing command in container: ${describe(outcome.error)}`;
}
