import { sleep } from '../base/deadline.ts';
import { findCause } from '../base/errors.ts';
import { RegistryError } from './registry-error.ts';

/** How often and how patiently to try again. */
export interface RetryPolicy {
  /** Tries in all. */
  readonly attempts: number;
  /** Wait before the second try; doubled each time, with a random part so that nodes do not march in step. */
  readonly firstWaitMs: number;
  /** A registry that asks for more patience than this gets its refusal reported instead. */
  readonly maxWaitMs: number;
}

/** Four tries within some seconds: the kubelet has a back-off of its own. */
export const defaultRetryPolicy: RetryPolicy = Object.freeze({ attempts: 4, firstWaitMs: 300, maxWaitMs: 15_000 });

/** So much more, and a failure is the first one again: a large blob may come in any number of pieces. */
const PROGRESS_BYTES = 1024 * 1024;

/**
 * Runs `attempt` until it succeeds, fails for good, or the policy or the signal ends it. Throws the last failure.
 * `doneBytes` tells how far the attempts have come together.
 */
export async function retrying<T>(
  policy: RetryPolicy,
  signal: AbortSignal,
  attempt: () => Promise<T>,
  doneBytes: () => number = () => 0,
): Promise<T> {
  let before = doneBytes();
  for (let tried = 1; ; tried += 1) {
    try {
      return await attempt();
    } catch (err) {
      signal.throwIfAborted();
      const failure = findCause(err, RegistryError);
      if (doneBytes() - before >= PROGRESS_BYTES) [tried, before] = [1, doneBytes()];
      if (!failure?.retryable || tried >= policy.attempts) throw err;
      const backOffMs = policy.firstWaitMs * 2 ** (tried - 1) * (0.75 + Math.random() / 2);
      const waitMs = failure.retryAfterMs ?? Math.min(backOffMs, policy.maxWaitMs);
      if (waitMs > policy.maxWaitMs) throw err;
      await sleep(waitMs, signal);
    }
  }
}

/** The Retry-After header (RFC 9110, section 10.2.3) in milliseconds from now; undefined when it says nothing. */
export function retryAfterMs(header: string | undefined, nowMs: number): number | undefined {
  if (header === undefined) return undefined;
  if (/^\s*[0-9]{1,9}\s*$/.test(header)) return Number(header) * 1000;
  const date = Date.parse(header);
  return Number.isNaN(date) ? undefined : Math.max(0, date - nowMs);
}
