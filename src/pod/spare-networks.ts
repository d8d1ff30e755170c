import { AsyncLocalStorage } from 'node:async_hooks';
import { existsSync, mkdirSync, rmdirSync, rmSync, writeFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { isDeepStrictEqual } from 'node:util';

import type { Clock } from '../base/clock.ts';
import { raceSignal, withDeadline } from '../base/deadline.ts';
import { BerthError, describe } from '../base/errors.ts';
import { newSandboxId, type SandboxId } from '../base/ids.ts';
import type { Logger } from '../base/log.ts';
import type { Cni, CniResult, PodNetwork, SpareAttachment } from '../cni/cni.ts';
import type { DefaultSysctls } from '../runtime/default-sysctls.ts';
import { readSpareNetworks } from '../runtime/pod-folders.ts';
import { type NamespaceMaker, unpinNamespacesAside } from '../sys/namespaces.ts';
import { POD_INTERFACE } from './names.ts';
import { removeSandboxFolders, type SandboxDirs, sandboxPaths } from './sandbox-files.ts';

/** Pods that came within it are a sign that more will come. */
const RECENT_MS = 10_000;
/** Without a pod for so long, none is kept. */
const IDLE_MS = 30_000;
/** Pods that come up have the processors to themselves for so long at most: about what four take that come at once. */
const HEAD_START_MS = 100;
/** When they are up before: the answer, and what the client does next, go first too. */
const AFTERWARDS_MS = 20;
/** How long a pod waits for one that is being made: longer than plugins take, unless something is wrong. */
const WAIT_MS = 1000;
/** After a failure, of a range without a free address for one, none is made for so long. */
const PAUSE_MS = 60_000;
const MAKE_TIMEOUT_MS = 30_000;
const GIVE_BACK_TIMEOUT_MS = 60_000;
/** The longest that a stop waits for networks to be given back; the next start does the rest. */
const CLOSE_TIMEOUT_MS = 10_000;
/** Attached at once, with those of pods that have come, and detached: plugins wait for each other in the kernel. */
const PARALLEL = 2;

/** What spare networks are made with. */
export interface SpareNetworksDeps extends SandboxDirs {
  /** The most that are kept; 0: none. */
  readonly limit: number;
  /** From then on none is made. */
  readonly shutdown: AbortSignal;
  readonly cni: Pick<Cni, 'canSpare' | 'canSpareFor' | 'addSpare' | 'isGood' | 'claim' | 'release'>;
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
 * Removes what was made ready for a sandbox, taken by it or not: address, namespace, folders. Nothing else of the
 * sandbox may be there. Safe to repeat. Throws a CniError when the plugins keep failing; then it stays as it is.
 */
export async function removeSpareNetwork(
  deps: SandboxDirs & { readonly cni: Pick<Cni, 'release'> },
  id: string,
): Promise<void> {
  const paths = sandboxPaths(deps, id);
  using signal = withDeadline(`give back the network of sandbox ${id}`, GIVE_BACK_TIMEOUT_MS);
  // While its namespace is there: the plugins find in it what they have to take back.
  await deps.cni.release({ containerId: id, ifName: POD_INTERFACE }, signal);
  await unpinNamespacesAside(paths.namespaces);
  if (!existsSync(paths.spareMark)) return await removeSandboxFolders(paths);
  await rm(paths.files, { recursive: true, force: true });
  await rm(paths.namespaces, { recursive: true, force: true });
  // Last: what is in a folder without it is taken for a pod's that was lost.
  rmSync(paths.spareMark);
  rmdirSync(paths.folder);
}

/**
 * Network namespaces that the plugins have attached already, each with the id that its sandbox will have: a pod that
 * takes one does not wait for CNI ADD, two fifths of the time in which it comes up. They are made while pods come one
 * after the other, as many as came lately, and given back when none has come for a while: a node at rest has none. Only
 * with plugins that do not ask whose network it is.
 */
export class SpareNetworks {
  readonly #deps: SpareNetworksDeps;
  readonly #closing = new AbortController();
  readonly #stop: AbortSignal;
  /** What is done here is no part of the request that has set it off. */
  readonly #outside = AsyncLocalStorage.snapshot();
  #limit: number;
  /** Oldest first. */
  #ready: readonly Spare[] = [];
  readonly #making = new Map<SandboxId, Promise<void>>();
  /** Being given back, or waiting for their turn. */
  readonly #leaving = new Map<SandboxId, Promise<void>>();
  readonly #turns: (() => void)[] = [];
  #removing = 0;
  /** Those whose plugins would not take them back: tried again. */
  readonly #stuck = new Set<SandboxId>();
  /** Pods that get the next ones, or undefined when they come to nothing. */
  readonly #waiting = new Set<(spare: Spare | undefined) => void>();
  /** How many pods are being attached without a spare one. */
  #attaching = 0;
  /** Sandboxes of the last pods that have got a network or are being attached, as far as none of their containers runs. */
  readonly #rising = new Set<SandboxId>();
  /** When the last pods came. */
  #comingsMs: readonly number[] = [];
  #pausedUntilMs = Number.NEGATIVE_INFINITY;
  /** At the latest, for as long as pods come. */
  #nextFill: NodeJS.Timeout | undefined;
  /** Before that, when all are up that have come. */
  #afterwards: NodeJS.Timeout | undefined;
  #nextTry: NodeJS.Timeout | undefined;
  #idle: NodeJS.Timeout | undefined;

  constructor(deps: SpareNetworksDeps) {
    this.#deps = deps;
    this.#limit = deps.limit;
    this.#stop = AbortSignal.any([deps.shutdown, this.#closing.signal]);
  }

  /** How many a pod could take at once. */
  get ready(): number {
    return this.#ready.length;
  }

  /** The sandbox ids of all: ready, being made, being given back, and those that could not be. */
  ids(): SandboxId[] {
    return [...this.#ready.map(({ id }) => id), ...this.#making.keys(), ...this.#leaving.keys(), ...this.#stuck];
  }

  /** Keeps at most so many from now on. */
  follow(limit: number): void {
    this.#limit = limit;
    for (const spare of this.#ready.slice(limit)) this.#drop(spare);
  }

  /**
   * Tells that a pod has come that could have a spare network, and gives it one: what is ready, or else what is being
   * made, for which it waits a second at most. Undefined when there is none, or the pod wants what only CNI ADD can give
   * it. Whoever takes one gives it back like any other. Throws `invalid` as Cni.add() does.
   */
  async take(pod: PodNetwork, signal: AbortSignal): Promise<TakenNetwork | undefined> {
    if (this.#limit === 0 || !this.#deps.cni.canSpareFor(pod)) return undefined;
    const taken = this.#takeReady() ?? this.#takeNext(signal);
    this.#noteComing();
    const spare = await taken;
    if (!spare) return undefined;
    try {
      // The network may have become another one while it was waited for.
      if (this.#deps.cni.canSpareFor(pod)) {
        const result = this.#deps.cni.claim(spare.attachment, pod);
        this.#rising.add(spare.id);
        return { id: spare.id, result };
      }
    } catch (err) {
      this.discard(spare.id);
      throw err;
    }
    this.discard(spare.id);
    return undefined;
  }

  /** Attaches a sandbox that has not taken a network; meanwhile fewer are made for others. */
  async attaching<T>(id: SandboxId, attach: () => Promise<T>): Promise<T> {
    this.#attaching += 1;
    this.#rising.add(id);
    try {
      return await attach();
    } finally {
      this.#attaching -= 1;
      this.#fillSoon();
    }
  }

  /**
   * Tells that a container of the sandbox runs. Once that is so for all that have come since networks were last begun,
   * the next are.
   */
  noteUp(id: SandboxId): void {
    if (!this.#rising.delete(id) || this.#rising.size > 0) return;
    clearTimeout(this.#afterwards);
    this.#afterwards = setTimeout(() => {
      // One may have come meanwhile.
      if (this.#rising.size === 0) this.#fill();
    }, AFTERWARDS_MS).unref();
  }

  /**
   * Gives back all, for a pod that found no address: they may have the last ones. Resolves to whether there were any.
   * Throws the signal's reason.
   */
  async giveBack(signal: AbortSignal): Promise<boolean> {
    const hadSome = this.ids().length > 0;
    this.#pause();
    this.#dropReady();
    this.#tryAgain();
    await raceSignal(this.#settled(), signal);
    return hadSome;
  }

  /** Gives back what was taken for a sandbox that did not come to be, beside whatever else is done. */
  discard(id: SandboxId): void {
    this.#leaving.set(
      id,
      this.#outside(() => this.#remove(id)),
    );
  }

  async #remove(id: SandboxId): Promise<void> {
    if (this.#removing >= PARALLEL) await new Promise<void>((resolve) => this.#turns.push(resolve));
    else this.#removing += 1;
    try {
      await removeSpareNetwork(this.#deps, id);
    } catch (err) {
      this.#noteStuck(id, err);
    } finally {
      this.#leaving.delete(id);
      const next = this.#turns.shift();
      if (next) next();
      else this.#removing -= 1;
    }
  }

  /** Gives back what an earlier berthd had ready, unless a sandbox has it. To be called before any is made. */
  async discardLeft(sandboxes: { find(id: string): unknown }): Promise<void> {
    const left = (readSpareNetworks(this.#deps.stateDir) as SandboxId[]).filter(
      (id) => sandboxes.find(id) === undefined,
    );
    if (left.length === 0) return;
    this.#deps.log.info({ containers: left }, 'networks that an earlier berthd had ready are given back');
    for (const id of left) this.discard(id);
    await this.#settled();
  }

  /** Ends what is being made, and gives everything back. What plugins keep for too long is left to the next start. */
  async close(): Promise<void> {
    this.#closing.abort(new BerthError('cancelled', 'the daemon is stopping'));
    for (const timer of [this.#idle, this.#nextFill, this.#afterwards, this.#nextTry]) clearTimeout(timer);
    this.#dropReady();
    using signal = withDeadline('give back networks that were ready', CLOSE_TIMEOUT_MS);
    await raceSignal(this.#settled(), signal).catch((err: unknown) => {
      this.#deps.log.warn({ containers: this.ids(), err: describe(err) }, 'the next start gives these networks back');
    });
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
      this.discard(spare.id);
    }
  }

  /** One that is being made, and that no other pod waits for; undefined when there is none, or it comes to nothing. */
  async #takeNext(signal: AbortSignal): Promise<Spare | undefined> {
    if (this.#waiting.size >= this.#making.size) return undefined;
    const { promise, resolve } = Promise.withResolvers<Spare | undefined>();
    this.#waiting.add(resolve);
    using limited = withDeadline('wait for a network that is being made', WAIT_MS, signal);
    const leave = (): void => {
      this.#waiting.delete(resolve);
      resolve(undefined);
    };
    limited.addEventListener('abort', leave, { once: true });
    if (limited.aborted) leave();
    try {
      return await promise;
    } finally {
      limited.removeEventListener('abort', leave);
    }
  }

  #noteComing(): void {
    const nowMs = this.#deps.clock.monotonicMs();
    this.#comingsMs = [...this.#comingsMs.filter((ms) => nowMs - ms < RECENT_MS), nowMs].slice(-this.#limit - 1);
    clearTimeout(this.#idle);
    this.#idle = setTimeout(() => this.#rest(), IDLE_MS).unref();
    this.#fillSoon();
  }

  /** One pod alone is no sign that others come. */
  get #wanted(): number {
    return Math.min(this.#limit, this.#comingsMs.length - 1);
  }

  get #isPaused(): boolean {
    // What plugins do not take back must not become more and more.
    if (this.#stop.aborted || this.#stuck.size > 0) return true;
    return this.#deps.clock.monotonicMs() < this.#pausedUntilMs;
  }

  #fillSoon(): void {
    this.#nextFill ??= setTimeout(() => this.#fill(), HEAD_START_MS).unref();
  }

  #fill(): void {
    this.#outside(() => this.#fillNow());
  }

  #fillNow(): void {
    clearTimeout(this.#nextFill);
    clearTimeout(this.#afterwards);
    this.#nextFill = undefined;
    this.#rising.clear();
    if (this.#isPaused || !this.#deps.cni.canSpare) return;
    const isMissing = (): boolean => this.#ready.length + this.#making.size - this.#waiting.size < this.#wanted;
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
    const [giveTo] = this.#waiting;
    if (giveTo) this.#waiting.delete(giveTo);
    const isGood = spare !== undefined && this.#isGood(spare);
    // What was bad from the beginning would be so again.
    if (spare && !isGood) this.#pause();
    giveTo?.(isGood ? spare : undefined);
    if (!spare || (isGood && giveTo)) return;
    // Nobody may want it by now.
    if (isGood && !this.#isPaused && this.#ready.length < this.#wanted) this.#ready = [...this.#ready, spare];
    else this.discard(spare.id);
  }

  async #make(id: SandboxId): Promise<Spare | undefined> {
    const { cni, namespaces, log } = this.#deps;
    const paths = sandboxPaths(this.#deps, id);
    using signal = withDeadline(`make network ${id} ready`, MAKE_TIMEOUT_MS, this.#stop);
    try {
      mkdirSync(paths.folder, { recursive: true, mode: 0o700 });
      writeFileSync(paths.spareMark, '');
      mkdirSync(paths.namespaces, { mode: 0o700 });
      const sysctls = this.#sysctls();
      const netns = await namespaces.makeNetwork({ networkIn: paths.namespaces, sysctls }, signal);
      const attachment = await cni.addSpare({ containerId: id, ifName: POD_INTERFACE, netns }, signal);
      return { id, attachment, sysctls };
    } catch (err) {
      const fields = { container: id, err: describe(err), pauseMs: PAUSE_MS };
      if (!this.#stop.aborted) log.info(fields, 'no network is made ready for a while: one could not be attached');
      this.#pause();
      this.discard(id);
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
    this.discard(spare.id);
  }

  // A pod has a kubelet that stops it again; this one has nobody else.
  #noteStuck(id: SandboxId, err: unknown): void {
    this.#stuck.add(id);
    this.#deps.log.warn(
      { container: id, err: describe(err), againInMs: PAUSE_MS },
      'a network that was ready could not be given back, and may keep its address; none is made ready until then',
    );
    if (!this.#stop.aborted) this.#nextTry ??= setTimeout(() => this.#tryAgain(), PAUSE_MS).unref();
  }

  #tryAgain(): void {
    clearTimeout(this.#nextTry);
    this.#nextTry = undefined;
    const stuck = [...this.#stuck];
    this.#stuck.clear();
    for (const id of stuck) this.discard(id);
  }
}
