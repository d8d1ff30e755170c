import { raceSignal } from '../base/deadline.ts';
import { BerthError, because, describe, kindOf } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import type { Meter } from '../base/meter.ts';

/** Between one minute, in which the kubelet has asked again, and two. */
const KEPT_MS = 90_000;

/** What a client asks to be made. */
export interface CreationRequest<Spec> {
  /** Unique, as the record's. */
  readonly name: string;
  /** The same for requests of which a later one takes the place of an earlier one: all attempts at the same thing. */
  readonly group: string;
  /** What it will be part of; '' for nothing. */
  readonly owner: string;
  readonly spec: Spec;
}

/** Something that is made, and that no client sees before it is claimed. */
export interface Unclaimed<R> {
  readonly id: string;
  /** Shows it to clients. What cannot be shown is undone. */
  claim(): Promise<R>;
  /** Undoes it. What cannot be undone is kept for its client to remove. */
  discard(): Promise<void>;
}

/**
 * Makes what a request asks for, up to the claim; tells the step that it is at. Ends soon when the signal aborts. What it
 * takes the place of is being undone meanwhile, until `replaced` settles.
 */
export type Make<R> = (
  onStep: (step: string) => void,
  signal: AbortSignal,
  replaced: Promise<unknown>,
) => Promise<Unclaimed<R>>;

interface Creation<Spec, R> {
  readonly request: CreationRequest<Spec>;
  readonly startedMs: number;
  readonly giveUp: AbortController;
  /** Settles when what it takes the place of is gone. Never rejects. */
  readonly replaced: Promise<unknown>;
  readonly result: PromiseWithResolvers<R>;
  /** How many clients wait for it. */
  waiters: number;
  step: string;
  /** What is going on with it now; never rejects. */
  work: Promise<void>;
  /** Made when nobody waited any more. */
  parked: { readonly made: Unclaimed<R>; readonly timer: NodeJS.Timeout } | undefined;
  discarding: Promise<void> | undefined;
}

/** How creations of one kind are told apart and reported. */
export interface CreationsOptions<Spec> {
  readonly kind: 'sandbox' | 'container';
  /** The pipeline's name, for metrics. */
  readonly pipeline: string;
  /** True when both ask for the same. */
  readonly isSame: (one: Spec, other: Spec) => boolean;
  readonly log: Logger;
  readonly meter: Meter;
  readonly shutdown: AbortSignal;
  readonly keptMs?: number;
}

/**
 * What is being made for clients that may have lost patience. A request that is repeated joins the work in flight, or
 * gets what was made meanwhile: that is kept for a while, invisible, when its client has left. A request that asks for
 * something else in its place has it cleaned up, and so has nobody asking.
 */
export class Creations<Spec, R> {
  readonly #options: CreationsOptions<Spec>;
  readonly #creations = new Map<string, Creation<Spec, R>>();

  constructor(options: CreationsOptions<Spec>) {
    this.#options = options;
  }

  /** True when a request of this name is being made, or waits to be claimed. */
  has(name: string): boolean {
    return this.#creations.has(name);
  }

  /**
   * What the request asks for; `make` is called when nobody has asked before. A caller whose signal aborts stops waiting,
   * with an error that says how far it is. Throws `alreadyExists` while others wait for something else of that name.
   */
  async get(request: CreationRequest<Spec>, make: Make<R>, signal: AbortSignal): Promise<R> {
    for (;;) {
      signal.throwIfAborted();
      const known = this.#creations.get(request.name);
      if (!known) return await this.#wait(this.#begin(request, make), signal);
      if (!known.discarding) {
        if (this.#options.isSame(known.request.spec, request.spec)) return await this.#wait(known, signal);
        if (known.waiters > 0) {
          const problem = 'is being made with another configuration';
          throw new BerthError('alreadyExists', `${this.#options.kind} ${request.name} ${problem}`);
        }
      }
      await this.#untilAborted(known, this.#discard(known, 'another configuration is asked for'), signal);
    }
  }

  /** Gives up what is being made for this owner, and undoes it. */
  async discardOf(owner: string, reason: string): Promise<void> {
    const own = [...this.#creations.values()].filter(({ request }) => request.owner === owner);
    await Promise.all(own.map((creation) => this.#discard(creation, reason)));
  }

  /** Undoes what nobody has claimed, and waits for the work in flight, which the shutdown signal has told to end. */
  async close(): Promise<void> {
    const all = [...this.#creations.values()];
    await Promise.all(all.map((creation) => this.#discard(creation, 'berthd is stopping')));
  }

  #begin(request: CreationRequest<Spec>, make: Make<R>): Creation<Spec, R> {
    const replaced = [...this.#creations.values()]
      .filter((other) => other.request.group === request.group && other.waiters === 0)
      .map((other) => this.#discard(other, `${request.name} takes its place`));
    const creation: Creation<Spec, R> = {
      request,
      startedMs: performance.now(),
      giveUp: new AbortController(),
      replaced: Promise.all(replaced),
      result: Promise.withResolvers(),
      waiters: 0,
      step: 'wait for its turn',
      work: Promise.resolve(),
      parked: undefined,
      discarding: undefined,
    };
    // Who still waits gets it; nobody may.
    creation.result.promise.catch(() => {});
    this.#creations.set(request.name, creation);
    creation.work = this.#make(creation, make);
    return creation;
  }

  async #make(creation: Creation<Spec, R>, make: Make<R>): Promise<void> {
    const signal = AbortSignal.any([this.#options.shutdown, creation.giveUp.signal]);
    const onStep = (step: string): void => {
      creation.step = step;
    };
    try {
      const made = await make(onStep, signal, creation.replaced);
      // Also when berthd is stopping: it is made, and its client is there.
      if (creation.waiters > 0 && !creation.giveUp.signal.aborted) await this.#claim(creation, made);
      else this.#park(creation, made);
    } catch (err) {
      this.#settle(creation, () => creation.result.reject(err));
    }
  }

  async #claim(creation: Creation<Spec, R>, made: Unclaimed<R>): Promise<void> {
    try {
      const record = await made.claim();
      this.#settle(creation, () => creation.result.resolve(record));
    } catch (err) {
      this.#settle(creation, () => creation.result.reject(err));
    }
  }

  #park(creation: Creation<Spec, R>, made: Unclaimed<R>): void {
    const { kind, log, keptMs = KEPT_MS } = this.#options;
    const timer = setTimeout(() => void this.#discard(creation, 'nobody has asked for it again'), keptMs);
    creation.parked = { made, timer: timer.unref() };
    // Who has given it up undoes it now, and says so.
    if (creation.giveUp.signal.aborted) return;
    log.info({ [kind]: made.id, name: creation.request.name, keptMs }, `${kind} is made, and its client has left`);
  }

  async #wait(creation: Creation<Spec, R>, signal: AbortSignal): Promise<R> {
    creation.waiters += 1;
    try {
      const { parked } = creation;
      if (parked) {
        clearTimeout(parked.timer);
        creation.parked = undefined;
        creation.work = this.#claim(creation, parked.made);
      }
      return await this.#untilAborted(creation, creation.result.promise, signal);
    } finally {
      creation.waiters -= 1;
    }
  }

  /** Never rejects: what cannot be undone is listed, and in the log. */
  #discard(creation: Creation<Spec, R>, reason: string): Promise<void> {
    creation.discarding ??= this.#undo(creation, reason);
    return creation.discarding;
  }

  async #undo(creation: Creation<Spec, R>, reason: string): Promise<void> {
    const { kind, log } = this.#options;
    const { name } = creation.request;
    const gone = new BerthError('cancelled', `${kind} ${name} is given up: ${reason}`);
    creation.giveUp.abort(gone);
    await creation.work;
    const { parked } = creation;
    if (!parked) return;
    clearTimeout(parked.timer);
    creation.parked = undefined;
    log.info({ [kind]: parked.made.id, name, reason }, `${kind} that nobody has claimed is undone`);
    try {
      await parked.made.discard();
    } catch (err) {
      log.error({ [kind]: parked.made.id, name, err: describe(err) }, `${kind} that nobody has claimed is left`);
    }
    this.#settle(creation, () => creation.result.reject(gone));
  }

  #settle(creation: Creation<Spec, R>, tell: () => void): void {
    this.#creations.delete(creation.request.name);
    tell();
  }

  async #untilAborted<T>(creation: Creation<Spec, R>, work: Promise<T>, signal: AbortSignal): Promise<T> {
    try {
      return await raceSignal(work, signal);
    } catch (err) {
      throw signal.aborted && err === signal.reason ? this.#stalled(creation, err) : err;
    }
  }

  /** For the client that has to leave: what its request is waiting for, and that it may ask again. */
  #stalled({ request, step, startedMs }: Creation<Spec, R>, reason: unknown): BerthError {
    const { kind, pipeline, meter } = this.#options;
    const outcome = kindOf(reason);
    if (outcome === 'deadline') meter.stalled(pipeline, step);
    const seconds = ((performance.now() - startedMs) / 1000).toFixed(1);
    const text = `${kind} ${request.name} is not ready after ${seconds} s, still at "${step}"; ask again for it`;
    return because(outcome, text, reason);
  }
}
