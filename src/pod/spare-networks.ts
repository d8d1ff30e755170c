import { isDeepStrictEqual } from 'node:util';

import type { Clock } from '../base/clock.ts';
import { raceSignal, withDeadline } from '../base/deadline.ts';
import { BerthError, describe } from '../base/errors.ts';
import { newSandboxId, type SandboxId } from '../base/ids.ts';
import { forEachLimited } from '../base/limited.ts';
import type { Logger } from '../base/log.ts';
import type { Cni, CniResult, PodNetwork, SpareAttachment } from '../cni/cni.ts';
import type { DefaultSysctls } from '../runtime/default-sysctls.ts';
import { type NamespaceMaker, unpinNamespacesAside } from '../sys/namespaces.ts';
import { POD_INTERFACE } from './names.ts';
import { makeSandboxFolders, removeSandboxFolders, sandboxPaths } from './sandbox-files.ts';

/** Pods that came within it are a sign that more will come. */
const RECENT_MS = 10_000;
/** Without a pod for so long, none is kept. */
const IDLE_MS = 30_000;
/** About as long as a pod takes to come up: until then it shall have the processors to itself. */
const HEAD_START_MS = 50;
/** After a failure, of a range without a free address for one, none is made for so long. */
const PAUSE_MS = 60_000;
const MAKE_TIMEOUT_MS = 30_000;
const GIVE_BACK_TIMEOUT_MS = 60_000;
/** The longest that a stop waits for networks to be given back; the next start does the rest. */
const CLOSE_TIMEOUT_MS = 10_000;
/** Attached at once, with those of pods that have come: plugins wait for each other in the kernel. */
const PARALLEL = 2;

/** What spare networks are made with. */
export interface SpareNetworksDeps {
  /** The most that are kept; 0: none. */
  readonly limit: number;
  readonly stateDir: string;
  readonly sandboxDir: string;
  readonly cni: Pick<Cni, 'canSpare' | 'canSpareFor' | 'addSpare' | 'isGood' | 'claim' | 'release' | 'spareIds'>;
  readonly namespaces: Pick<NamespaceMaker, 'makeNetwork'>;
  /** What it says may change. */
  readonly security: { readonly defaultSysctls: DefaultSysctls };
  readonly clock: Pick<Clock, 'monotonicMs'>;
  readonly log: Logger;
}

interface Spare {
  readonly id: SandboxId;
  readonly attachment: SpareAttachment;
  /** Those that it was made with. */
  readonly sysctls: Readonly<Record<string, string>>;
}

/** A network that belongs to the sandbox with that id from now on. */
export interface TakenNetwork {
  readonly id: SandboxId;
  readonly result: CniResult;
}

/**
 * Network namespaces that the plugins have attached already, each with the id that its sandbox will have: a pod that
 * takes one does not wait for CNI ADD, two fifths of the time in which it comes up. They are made while pods come one
 * after the other, as many as came lately, and given back when none has come for a while: a node at rest has none. Only
 * with plugins that do not ask whose network it is.
 */
export class SpareNetworks {
  readonly #deps: SpareNetworksDeps;
  readonly #shutdown = new AbortController();
  #limit: number;
  /** Oldest first. */
  #ready: readonly Spare[] = [];
  readonly #making = new Map<SandboxId, Promise<void>>();
  /** Those whose plugins have not given them back yet. */
  readonly #leaving = new Map<SandboxId, Promise<void>>();
  /** Pods that get the next ones, or undefined when they come to nothing. */
  readonly #waiting: ((spare: Spare | undefined) => void)[] = [];
  /** How many pods are being attached without a spare one. */
  #attaching = 0;
  /** When the last pods came. */
  #comingsMs: readonly number[] = [];
  #pausedUntilMs = Number.NEGATIVE_INFINITY;
  #nextFill: NodeJS.Timeout | undefined;
  #idle: NodeJS.Timeout | undefined;

  constructor(deps: SpareNetworksDeps) {
    this.#deps = deps;
    this.#limit = deps.limit;
  }

  /** How many a pod could take at once. */
  get ready(): number {
    return this.#ready.length;
  }

  /** The sandbox ids of all: ready, being made, being given back. */
  ids(): SandboxId[] {
    return [...this.#ready.map(({ id }) => id), ...this.#making.keys(), ...this.#leaving.keys()];
  }

  /** Keeps at most so many from now on. */
  follow(limit: number): void {
    this.#limit = limit;
    for (const spare of this.#ready.slice(limit)) this.#drop(spare);
  }

  /**
   * Tells that a pod has come that wants a network of its own, and gives it one if it may be a spare one: what is ready,
   * or else what is being made. Undefined when there is none, or the pod wants what only CNI ADD can give it. Whoever
   * takes one gives it back like any other. Throws `invalid` as Cni.add() does.
   */
  async take(pod: PodNetwork, maySpare: boolean): Promise<TakenNetwork | undefined> {
    if (this.#limit === 0) return undefined;
    const isAsked = maySpare && this.#deps.cni.canSpareFor(pod);
    const taken = isAsked ? (this.#takeReady() ?? this.#takeNext()) : undefined;
    this.#noteComing();
    const spare = await taken;
    if (!spare) return undefined;
    try {
      return { id: spare.id, result: this.#deps.cni.claim(spare.attachment, pod) };
    } catch (err) {
      this.#leave(spare.id);
      throw err;
    }
  }

  /** Attaches a pod that has not taken a network; meanwhile fewer are made for others. */
  async attaching<T>(attach: () => Promise<T>): Promise<T> {
    this.#attaching += 1;
    try {
      return await attach();
    } finally {
      this.#attaching -= 1;
      this.#fill();
    }
  }

  /**
   * Gives back all, for a pod that could not be attached: they may have the last addresses. Resolves to whether there
   * were any. Throws the signal's reason.
   */
  async giveBack(signal: AbortSignal): Promise<boolean> {
    const hadSome = this.ids().length > 0;
    this.#pause();
    this.#dropReady();
    await raceSignal(this.#settled(), signal);
    return hadSome;
  }

  /** Removes what was made for a sandbox that has nothing else yet. Safe to repeat, and when a pod has taken it. */
  async discard(id: string): Promise<void> {
    const paths = sandboxPaths(this.#deps, id);
    using signal = withDeadline(`give back the network of sandbox ${id}`, GIVE_BACK_TIMEOUT_MS);
    // While its namespace is there: the plugins find in it what they have to take back.
    await this.#deps.cni.release({ containerId: id, ifName: POD_INTERFACE }, signal);
    await unpinNamespacesAside(paths.namespaces);
    await removeSandboxFolders(paths);
  }

  /** Gives back what an earlier berthd had ready. To be called before any is made. */
  async discardLeft(): Promise<void> {
    await forEachLimited(this.#deps.cni.spareIds(), PARALLEL, async (id) => await this.discard(id));
  }

  /** Ends what is being made, and gives everything back. What plugins keep for too long is left to the next start. */
  async close(): Promise<void> {
    this.#shutdown.abort(new BerthError('cancelled', 'the daemon is stopping'));
    clearTimeout(this.#idle);
    clearTimeout(this.#nextFill);
    this.#dropReady();
    using signal = withDeadline('give back networks that were kept ready', CLOSE_TIMEOUT_MS);
    await raceSignal(this.#settled(), signal);
  }

  /** Nothing is being made or given back. */
  async #settled(): Promise<void> {
    while (this.#making.size + this.#leaving.size > 0)
      await Promise.all([...this.#making.values(), ...this.#leaving.values()]);
  }

  #takeReady(): Spare | undefined {
    for (;;) {
      const [spare, ...others] = this.#ready;
      this.#ready = others;
      if (!spare || this.#isGood(spare)) return spare;
      this.#leave(spare.id);
    }
  }

  /** One that is being made, and that no other pod waits for; undefined when there is none, or it comes to nothing. */
  #takeNext(): Promise<Spare | undefined> | undefined {
    if (this.#waiting.length >= this.#making.size) return undefined;
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  #noteComing(): void {
    const nowMs = this.#deps.clock.monotonicMs();
    this.#comingsMs = [...this.#comingsMs.filter((ms) => nowMs - ms < RECENT_MS), nowMs].slice(-this.#limit - 1);
    clearTimeout(this.#idle);
    this.#idle = setTimeout(() => this.#rest(), IDLE_MS).unref();
    if (this.#ready.length === 0) this.#fill();
    else this.#nextFill ??= setTimeout(() => this.#fill(), HEAD_START_MS).unref();
  }

  /** One pod alone is no sign that others come. */
  get #wanted(): number {
    return Math.min(this.#limit, this.#comingsMs.length - 1);
  }

  get #isPaused(): boolean {
    return this.#shutdown.signal.aborted || this.#deps.clock.monotonicMs() < this.#pausedUntilMs;
  }

  #fill(): void {
    clearTimeout(this.#nextFill);
    this.#nextFill = undefined;
    if (this.#isPaused || !this.#deps.cni.canSpare) return;
    const isMissing = (): boolean => this.#ready.length + this.#making.size - this.#waiting.length < this.#wanted;
    while (this.#making.size + this.#attaching < PARALLEL && isMissing()) {
      const id = newSandboxId();
      const made = this.#make(id).then((spare) => {
        this.#making.delete(id);
        this.#handOver(spare);
        this.#fill();
      });
      this.#making.set(id, made);
    }
  }

  #handOver(spare: Spare | undefined): void {
    const giveTo = this.#waiting.shift();
    const isTaken = spare !== undefined && giveTo !== undefined && this.#isGood(spare);
    giveTo?.(isTaken ? spare : undefined);
    if (!spare || isTaken) return;
    // Nobody may want it by now.
    if (!this.#isPaused && this.#ready.length < this.#wanted) this.#ready = [...this.#ready, spare];
    else this.#leave(spare.id);
  }

  async #make(id: SandboxId): Promise<Spare | undefined> {
    const { cni, namespaces, log } = this.#deps;
    const paths = sandboxPaths(this.#deps, id);
    using signal = withDeadline(`make network ${id} ready`, MAKE_TIMEOUT_MS, this.#shutdown.signal);
    try {
      makeSandboxFolders(paths);
      const sysctls = this.#sysctls();
      const netns = await namespaces.makeNetwork({ networkIn: paths.namespaces, sysctls }, signal);
      const attachment = await cni.addSpare({ containerId: id, ifName: POD_INTERFACE, netns }, signal);
      return { id, attachment, sysctls };
    } catch (err) {
      if (!this.#shutdown.signal.aborted) log.info({ err: describe(err) }, 'no network is kept ready for a while');
      this.#pause();
      this.#leave(id);
      return undefined;
    }
  }

  #isGood({ attachment, sysctls }: Spare): boolean {
    return this.#deps.cni.isGood(attachment) && isDeepStrictEqual(sysctls, this.#sysctls());
  }

  #sysctls(): Record<string, string> {
    return this.#deps.security.defaultSysctls.with({}, { kinds: ['net'], hasUserNamespace: false });
  }

  #pause(): void {
    this.#pausedUntilMs = this.#deps.clock.monotonicMs() + PAUSE_MS;
  }

  #rest(): void {
    this.#comingsMs = [];
    this.#dropReady();
  }

  #dropReady(): void {
    for (const spare of this.#ready) this.#drop(spare);
  }

  #drop(spare: Spare): void {
    this.#ready = this.#ready.filter((other) => other !== spare);
    this.#leave(spare.id);
  }

  #leave(id: SandboxId): void {
    const left = this.discard(id)
      .catch((err: unknown) => {
        this.#deps.log.warn(
          { container: id, err: describe(err) },
          'a network that was kept ready could not be given back',
        );
      })
      .finally(() => this.#leaving.delete(id));
    this.#leaving.set(id, left);
  }
}
