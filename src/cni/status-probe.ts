import type { Clock } from '../base/clock.ts';
import { raceSignal, withDeadline } from '../base/deadline.ts';
import { describe } from '../base/errors.ts';
import type { NetworkConfig } from './network-config.ts';

/** What StatusProbe needs; durations in milliseconds. */
export interface StatusProbeDeps {
  /** Asks a network's plugins; throws when one cannot take an ADD. */
  readonly ask: (network: NetworkConfig, signal: AbortSignal) => Promise<void>;
  readonly clock: Clock;
  /** How long an answer counts. */
  readonly freshMs: number;
  /** How long the plugins may take. */
  readonly answerMs: number;
  /** How long a caller waits for them; then it gets the last answer. */
  readonly patienceMs: number;
}

interface Answer {
  readonly network: NetworkConfig;
  readonly problem: string;
  readonly atMs: number;
}

/** Asks plugins for their STATUS, seldom enough that a kubelet may ask often, and never holding it up for long. */
export class StatusProbe {
  readonly #deps: StatusProbeDeps;
  readonly #closing = new AbortController();
  #last: Answer | undefined;
  #asking: { network: NetworkConfig; done: Promise<void> } | undefined;

  constructor(deps: StatusProbeDeps) {
    this.#deps = deps;
  }

  /** Ends the question that runs. */
  async close(): Promise<void> {
    this.#closing.abort();
    await this.#asking?.done;
  }

  /** Why the network cannot take pods now; empty when it can. Throws the signal's reason. */
  async problemOf(network: NetworkConfig, signal: AbortSignal): Promise<string> {
    const { clock, freshMs, patienceMs } = this.#deps;
    const last = this.#lastOf(network);
    if (last && clock.monotonicMs() - last.atMs < freshMs) return last.problem;
    const { promise: lostPatience, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, patienceMs);
    try {
      await raceSignal(Promise.race([this.#ask(network), lostPatience]), signal);
    } finally {
      clearTimeout(timer);
    }
    return (
      this.#lastOf(network)?.problem ?? `the plugins of CNI network "${network.name}" have not answered STATUS yet`
    );
  }

  #lastOf(network: NetworkConfig): Answer | undefined {
    return this.#last?.network === network ? this.#last : undefined;
  }

  #ask(network: NetworkConfig): Promise<void> {
    if (this.#asking?.network !== network) {
      const asking = { network, done: this.#askNow(network) };
      this.#asking = asking;
      void asking.done.then(() => {
        if (this.#asking === asking) this.#asking = undefined;
      });
    }
    return this.#asking?.done ?? Promise.resolve();
  }

  async #askNow(network: NetworkConfig): Promise<void> {
    using limited = withDeadline(`STATUS of CNI network "${network.name}"`, this.#deps.answerMs, this.#closing.signal);
    let problem = '';
    try {
      await this.#deps.ask(network, limited);
    } catch (err) {
      problem = describe(err);
    }
    if (!this.#closing.signal.aborted) this.#last = { network, problem, atMs: this.#deps.clock.monotonicMs() };
  }
}
