import { randomBytes } from 'node:crypto';

import type { Clock } from '../../base/clock.ts';
import { BerthError } from '../../base/errors.ts';

/** What the kubelet's own streaming library allows. */
const MAX_TOKENS = 1000;
const LIFETIME_MS = 60_000;
const TOKEN_BYTES = 16;

/**
 * Tickets for what was granted by an RPC and is fetched over HTTP: unguessable, good once, for a minute. No more than
 * 1000 are out at a time.
 */
export class StreamTokens<T> {
  readonly #clock: Clock;
  /** Oldest first, as all live equally long. */
  readonly #tickets = new Map<string, { readonly value: T; readonly expiresMs: number }>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** A new token for `value`. Throws `exhausted` when too many were not used yet. */
  issue(value: T): string {
    this.#expire();
    if (this.#tickets.size >= MAX_TOKENS)
      throw new BerthError(
        'exhausted',
        `${MAX_TOKENS} streams were asked for and not yet connected to; try again later`,
      );
    const token = randomBytes(TOKEN_BYTES).toString('base64url');
    this.#tickets.set(token, { value, expiresMs: this.#clock.monotonicMs() + LIFETIME_MS });
    return token;
  }

  /** What the token was issued for, or undefined if it never was, was used before, or is too old. */
  take(token: string): T | undefined {
    this.#expire();
    const ticket = this.#tickets.get(token);
    this.#tickets.delete(token);
    return ticket?.value;
  }

  #expire(): void {
    const nowMs = this.#clock.monotonicMs();
    for (const [token, { expiresMs }] of this.#tickets) {
      if (expiresMs > nowMs) return;
      this.#tickets.delete(token);
    }
  }
}
