import type { Deadline } from '@grpc/grpc-js';

import { BerthError } from '../base/errors.ts';

/** How much of its time a client is given an answer early, so that it gets there: a twentieth, within these. */
const SHORTEST_MARGIN_MS = 50;
const LONGEST_MARGIN_MS = 1000;
/** As far as a timer goes. */
const MAX_TIMER_MS = 2_147_483_647;

/** What a handler knows about its call. */
export interface Call {
  /** Aborts when the client has left or its deadline has passed. */
  readonly signal: AbortSignal;
  /** Aborts with `signal`, or a moment before the deadline: what is answered then still reaches the client. */
  readonly patience: AbortSignal;
}

/** The part of a gRPC call that says how long its client waits. */
export interface Waiting {
  getDeadline(): Deadline;
  once(event: 'cancelled', listener: () => void): unknown;
}

/** One call of a client; dispose of it when it is answered. */
export class ClientCall implements Call, Disposable {
  readonly #method: string;
  readonly #deadlineMs: number;
  readonly #gone = new AbortController();
  #patience: AbortSignal | undefined;
  #timer: NodeJS.Timeout | undefined;
  #isAnswered = false;

  constructor(method: string, call: Waiting) {
    this.#method = method;
    // A date for those who like it; without a deadline Infinity.
    this.#deadlineMs = Number(call.getDeadline());
    // It comes at the end of every call: making the reason, with its stack, for those that were answered costs much.
    call.once('cancelled', () => {
      if (!this.#isAnswered) this.#gone.abort(new DOMException(`the client of ${method} has left`, 'AbortError'));
    });
  }

  get signal(): AbortSignal {
    return this.#gone.signal;
  }

  // Most calls never ask for it.
  get patience(): AbortSignal {
    this.#patience ??= this.#startPatience();
    return this.#patience;
  }

  [Symbol.dispose](): void {
    this.#isAnswered = true;
    clearTimeout(this.#timer);
  }

  #startPatience(): AbortSignal {
    const leftMs = this.#deadlineMs - Date.now();
    if (leftMs > MAX_TIMER_MS) return this.signal;
    const marginMs = Math.min(Math.max(leftMs / 20, SHORTEST_MARGIN_MS), LONGEST_MARGIN_MS);
    const over = new AbortController();
    const problem = `the client of ${this.#method} waits no longer`;
    this.#timer = setTimeout(() => over.abort(new BerthError('deadline', problem)), Math.max(leftMs - marginMs, 0));
    return AbortSignal.any([this.signal, over.signal]);
  }
}
