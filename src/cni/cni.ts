import { existsSync } from 'node:fs';
import { isDeepStrictEqual } from 'node:util';

import type { Clock } from '../base/clock.ts';
import { sleep, withDeadline } from '../base/deadline.ts';
import { BerthError, describe, findCause, kindOf } from '../base/errors.ts';
import { KeyedLock } from '../base/keyed-lock.ts';
import { forEachLimited } from '../base/limited.ts';
import type { Logger } from '../base/log.ts';
import type { Meter, Outcome } from '../base/meter.ts';
import type { Processes } from '../proc/processes.ts';
import {
  type AttachmentKey,
  type CniAttachment,
  checkKey,
  cniArgs,
  type PodNetwork,
  podOf,
  spareCniArgs,
} from './attachment.ts';
import { capabilityArgs } from './capability-args.ts';
import { CniError, cniCodes } from './cni-error.ts';
import type { CniVerb } from './cni-version.ts';
import { lateCloseLibrary } from './late-close.ts';
import type { NetworkConfig } from './network-config.ts';
import { Networks } from './networks.ts';
import { endOrphanedPlugins } from './orphaned-plugins.ts';
import { PluginBinaries } from './plugin-binaries.ts';
import { type Attached, hasGc, PluginChain } from './plugin-chain.ts';
import { type CniResult, cniResult } from './plugin-result.ts';
import { PluginRunner } from './plugin-runner.ts';
import { ResultCache } from './result-cache.ts';
import { SharedGate } from './shared-gate.ts';
import { ignoresPodNames, isLinked, linksOf, type SpareAttachment } from './spare-attachment.ts';
import { StatusProbe } from './status-probe.ts';

export type { CniAttachment, PodNetwork } from './attachment.ts';
export type { CniResult } from './plugin-result.ts';
export type { SpareAttachment } from './spare-attachment.ts';

/** Durations in milliseconds; tests hand in shorter ones. */
export interface CniTimes {
  /** The longest that one ADD or CHECK may take; what it waits for others before does not count. */
  readonly verbMs: number;
  /** The longest that one DEL may take, with all its tries. */
  readonly delMs: number;
  /** The longest that a network's GC may take, because ADD and DEL wait for it. */
  readonly gcMs: number;
  /** How long a GC waits for ADDs and DELs to end, which has later ones wait too; then it is put off. */
  readonly gcPatienceMs: number;
  /** For how long. */
  readonly gcPauseMs: number;
  /** The pauses between the tries of a DEL that fails. */
  readonly delPausesMs: readonly number[];
  /** From the first change of a configuration folder to its reading. */
  readonly settleMs: number;
  /** How long an answer to STATUS counts. */
  readonly statusFreshMs: number;
  /** How long the plugins may take for STATUS. */
  readonly statusAnswerMs: number;
  /** How long status() waits for them. */
  readonly statusPatienceMs: number;
}

/** What Cni needs. */
export interface CniDeps {
  readonly confDir: string;
  /** The network for pods; without a name it is the one of the first valid file. */
  readonly defaultNetwork?: string | undefined;
  /** Folders of plugin programs; the first that has one wins. */
  readonly binDirs: readonly string[];
  /** Where attachments are kept over restarts; must survive what pods survive. */
  readonly cacheDir: string;
  /** The library of native/late-close.c; without it the plugins' DEL waits for the kernel. */
  readonly lateClosePath?: string | undefined;
  readonly processes: Pick<Processes, 'run' | 'exitOf'>;
  readonly log: Logger;
  readonly meter: Meter;
  readonly clock: Clock;
  readonly times?: Partial<CniTimes>;
}

/** Whether pods can get a network, in the words that the kubelet shows. */
export interface NetworkStatus {
  readonly ready: boolean;
  /** `NetworkPluginNotReady`, or empty. */
  readonly reason: string;
  /** What is wrong and what to do; files that were skipped, also when the network is ready. */
  readonly message: string;
}

const defaultTimes: CniTimes = Object.freeze({
  verbMs: 60_000,
  delMs: 60_000,
  gcMs: 10_000,
  gcPatienceMs: 1000,
  gcPauseMs: 30_000,
  delPausesMs: Object.freeze([200, 1000, 3000]),
  settleMs: 50,
  statusFreshMs: 4000,
  statusAnswerMs: 5000,
  statusPatienceMs: 1000,
});

const GC_PARALLEL = 4;

/**
 * The network room: which networks there are, and attaching pods to them by running CNI plugins (CNI specification
 * 1.1). Nothing runs at the same time for the same container; ADD and DEL of different ones do.
 */
export class Cni {
  readonly #deps: CniDeps;
  readonly #times: CniTimes;
  readonly #networks: Networks;
  readonly #binaries: PluginBinaries;
  readonly #chain: PluginChain;
  readonly #cache: ResultCache;
  readonly #probe: StatusProbe;
  readonly #locks = new KeyedLock();
  readonly #gate = new SharedGate();
  readonly #closing = new AbortController();

  constructor(deps: CniDeps) {
    this.#deps = deps;
    this.#times = { ...defaultTimes, ...deps.times };
    const { confDir, defaultNetwork, log, processes, clock } = deps;
    const { settleMs, statusFreshMs, statusAnswerMs, statusPatienceMs } = this.#times;
    const binaries = new PluginBinaries(deps.binDirs);
    this.#binaries = binaries;
    this.#networks = new Networks({ confDir, defaultNetwork, binaries, log, settleMs });
    const lateClose = lateCloseLibrary(deps.lateClosePath, log);
    this.#chain = new PluginChain(new PluginRunner({ processes, binaries, lateClose }));
    this.#cache = new ResultCache(deps.cacheDir, log);
    this.#probe = new StatusProbe({
      ask: (network, signal) => this.#measured('STATUS', () => this.#chain.status(network, signal)),
      clock,
      freshMs: statusFreshMs,
      answerMs: statusAnswerMs,
      patienceMs: statusPatienceMs,
    });
  }

  /**
   * Reads the attachments of an earlier run and the configuration, and begins to watch it. Plugins that an earlier run
   * left in the middle of an ADD come to their end first, or are killed after three seconds.
   */
  async start(): Promise<void> {
    await Promise.all([this.#cache.load().then(() => this.#endOrphans()), this.#networks.start()]);
  }

  /** Follows other folders, or another network, from now on. What is attached keeps the network that it has. */
  async follow(place: {
    readonly confDir: string;
    readonly defaultNetwork: string;
    readonly binDirs: readonly string[];
  }): Promise<void> {
    this.#binaries.follow(place.binDirs);
    await this.#networks.follow({ confDir: place.confDir, defaultNetwork: place.defaultNetwork || undefined });
  }

  /** Ends the watch and all waits. Attachments stay; plugins at work have some seconds of Processes to end. */
  async close(): Promise<void> {
    this.#closing.abort(new BerthError('cancelled', 'the daemon is stopping'));
    await Promise.all([this.#networks.close(), this.#probe.close()]);
  }

  /** Whether there is a network for pods that could be tried, without asking its plugins. */
  get hasNetwork(): boolean {
    return this.#networks.find() !== undefined;
  }

  /** How many attachments are being changed, and how many calls wait for one of them. */
  get attachmentLocks(): { readonly size: number; readonly waiting: number } {
    return this.#locks;
  }

  /** Whether pods can get a network now. Asks the plugins when they speak 1.1, at most every few seconds. */
  async status(signal: AbortSignal): Promise<NetworkStatus> {
    await this.#networks.refresh();
    const network = this.#networks.find();
    const problem = network ? await this.#probe.problemOf(network, signal) : this.#networks.problem;
    if (problem !== '') return { ready: false, reason: 'NetworkPluginNotReady', message: problem };
    return { ready: true, reason: '', message: this.#networks.skipped };
  }

  /**
   * Resolves when there is a usable configuration; tells `onWait` first when it has to wait, and what is missing. Throws
   * the signal's reason, wrapped with what is missing.
   */
  async waitReady(signal: AbortSignal, onWait: (problem: string) => void): Promise<void> {
    await this.#networks.whenReady(signal, onWait);
  }

  /**
   * Attaches a pod to the network for pods. When a plugin fails, all are run with DEL, so that nothing is left; if that
   * fails too, del() finds what it needs in the cache. Throws `invalid` for what plugins cannot be given, `precondition`
   * when there is no network, or the pod is attached already, and CniError.
   */
  async add(a: CniAttachment, signal: AbortSignal): Promise<CniResult> {
    const network = this.#networks.get();
    if (a.netns === '')
      throw new BerthError('precondition', `container ${a.containerId} has no network namespace to attach`);
    const attached = this.#attachedFrom(a, network);
    return await this.#exclusively('ADD', a, signal, (limited) => this.#add(attached, limited));
  }

  /** Whether a pod's network can be attached before there is the pod: with plugins that do not ask whose it is. */
  get canSpare(): boolean {
    const network = this.#networks.find();
    return network !== undefined && ignoresPodNames(network);
  }

  /** Whether a spare attachment would be the same as what add() would make for this pod. Throws `invalid` as add() does. */
  canSpareFor(pod: PodNetwork): boolean {
    const network = this.#networks.find();
    if (!network || !ignoresPodNames(network)) return false;
    return Object.keys(capabilityArgs(pod, network.plugins)).length === 0;
  }

  /**
   * As add(), for a pod that is yet to come: canSpareFor() tells whether it may have it, and claim() gives it. Throws as
   * add() does, and `precondition` for a network whose plugins have to know the pod.
   */
  async addSpare(key: AttachmentKey & { readonly netns: string }, signal: AbortSignal): Promise<SpareAttachment> {
    const network = this.#networks.get();
    if (!ignoresPodNames(network))
      throw new BerthError(
        'precondition',
        `the plugins of CNI network "${network.name}" have to know whose network it is`,
      );
    checkKey(key);
    const attached = { ...key, network, cniArgs: spareCniArgs(key), capabilityArgs: {} };
    await this.#exclusively('ADD', key, signal, (limited) => this.#add(attached, limited));
    return { ...key, links: linksOf(this.#cache.find(key)?.result ?? {}) };
  }

  /** Gives a spare attachment that isGood() to a pod that has come. Throws `invalid` as add() does. */
  claim({ containerId, ifName }: SpareAttachment, { pod }: PodNetwork): CniResult {
    const attached = this.#cache.find({ containerId, ifName });
    if (!attached?.result) throw new BerthError('internal', `container ${containerId} has no network to be claimed`);
    this.#cache.put({ ...attached, cniArgs: cniArgs({ containerId, pod }) });
    return cniResult(attached.result, attached.network.name, ifName);
  }

  /** Whether a spare attachment is what add() would make now. */
  isGood(spare: SpareAttachment): boolean {
    const network = this.#networks.find();
    const attached = this.#cache.find(spare);
    return network !== undefined && isDeepStrictEqual(attached?.network, network) && isLinked(spare);
  }

  /** Whether plugins have been asked to attach this, and not yet to detach it. */
  isAttached(key: AttachmentKey): boolean {
    return this.#cache.find(key) !== undefined;
  }

  /** Detaches what isAttached(), as del() does; nothing is success. */
  async release(key: AttachmentKey, signal: AbortSignal): Promise<void> {
    if (!this.isAttached(key)) return;
    await this.#exclusively('DEL', key, signal, async (limited) => {
      const attached = this.#cache.find(key);
      if (!attached) return;
      const netns = existsSync(attached.netns) ? attached.netns : '';
      await this.#delUntilDone({ ...attached, netns }, limited);
    });
  }

  /** Whether ADD failed in the words of the plugin that gives addresses: there may be none left. */
  mayLackAddress(err: unknown): boolean {
    const failure = findCause(err, CniError);
    const [first] = this.#networks.find()?.plugins ?? [];
    return failure?.verb === 'ADD' && failure.code !== 0 && failure.plugin === first?.type;
  }

  /**
   * Detaches a pod, with the configuration that it was attached with. Tries again a few times. What was never attached,
   * or is detached already, is success; the plugins of the current network get their chance to free what they know.
   * Throws a CniError when the plugins keep failing: then the attachment stays known and del() can be repeated. A plugin
   * that stays missing is passed over in the end: a pod must be able to go when its network has been uninstalled.
   */
  async del(a: CniAttachment, signal: AbortSignal): Promise<void> {
    checkKey(a);
    await this.#exclusively('DEL', a, signal, async (limited) => {
      const attached = this.#cache.find(a);
      if (attached) await this.#delUntilDone({ ...attached, netns: a.netns }, limited);
      else await this.#delUnknown(a, limited);
    });
  }

  /** Asks the plugins whether an attachment is as they made it. Throws a CniError when not, `notFound` when unknown. */
  async check(a: CniAttachment, signal: AbortSignal): Promise<void> {
    checkKey(a);
    await this.#exclusively('CHECK', a, signal, async (limited) => {
      const attached = this.#cache.find(a);
      if (!attached?.result)
        throw new BerthError('notFound', `container ${a.containerId} is not attached to a network`);
      await this.#chain.check({ ...attached, netns: a.netns }, limited);
    });
  }

  /**
   * Frees what attachments hold that are not in `valid`: those that Berth knows by DEL, others by the plugins' own GC
   * (CNI 1.1). `valid` must name every sandbox there is, also those being made, and be taken in the same tick. While ADDs
   * and DELs do not let a GC come in between, it is put off. Goes on past failures, then throws the first. `lostAtReboot`
   * are the containers of which the log shall say that a restart of the machine has ended them.
   */
  async gc(
    valid: readonly AttachmentKey[],
    signal: AbortSignal,
    lostAtReboot: ReadonlySet<string> = new Set(),
  ): Promise<void> {
    const isValid = new Set(valid.map(keyOf));
    const stale = this.#cache.all().filter((attached) => !isValid.has(keyOf(attached)));
    const failures: unknown[] = [];
    await forEachLimited(stale, GC_PARALLEL, (attached) =>
      this.#delStale(attached, signal, lostAtReboot.has(attached.containerId)).catch(
        (err: unknown) => void failures.push(err),
      ),
    );
    for (const network of this.#networks.all().filter(hasGc)) {
      failures.push(...(await this.#gcNetwork(network, valid, signal)));
    }
    if (failures.length === 0) return;
    throw new BerthError(kindOf(failures[0]), `network cleanup: ${failures.length} of its calls failed`, {
      cause: failures[0],
    });
  }

  /**
   * Frees what is known here of a container that nothing else knows any more: nothing is success. Throws a CniError when
   * the plugins keep failing.
   */
  async forget(containerId: string, signal: AbortSignal): Promise<void> {
    for (const attached of this.#cache.all())
      if (attached.containerId === containerId) await this.#delStale(attached, signal);
  }

  async #endOrphans(): Promise<void> {
    const { processes, log } = this.#deps;
    const unfinished = this.#cache.all().filter(({ result }) => result === undefined);
    if (unfinished.length === 0) return;
    const ids = new Set(unfinished.map(({ containerId }) => containerId));
    const ended = await endOrphanedPlugins(ids, processes);
    if (ended > 0) log.info({ processes: ended }, 'ended CNI plugins that an earlier berthd had left at work');
  }

  async #add(attached: Attached, signal: AbortSignal): Promise<CniResult> {
    const { network, ifName, containerId } = attached;
    if (this.#cache.find(attached)) {
      throw new BerthError('precondition', `container ${containerId} is attached already: a DEL must come first`);
    }
    // Before the plugins run: whatever happens now, DEL will know what they were given.
    this.#cache.put(attached);
    try {
      const result = await this.#chain.add(attached, signal);
      this.#cache.put({ ...attached, result });
      return cniResult(result, network.name, ifName);
    } catch (err) {
      throw await this.#cleanedUp(attached, err);
    }
  }

  /** Undoes an ADD that failed; the caller's signal may be what ended it, so it has a time of its own. */
  async #cleanedUp(attached: Attached, reason: unknown): Promise<unknown> {
    using limited = this.#limited('DEL', attached, this.#until());
    const failures = await this.#measured('DEL', () => this.#chain.delAll(attached, limited));
    if (failures.length === 0) {
      await this.#cache.remove(attached);
      return reason;
    }
    const { containerId, network } = attached;
    const problems = failures.map(describe).join('; ');
    this.#deps.log.warn(
      { container: containerId, network: network.name, problems },
      'the DEL after a failed CNI ADD failed',
    );
    const cause = new AggregateError([reason, ...failures], `${describe(reason)}; and the DEL after it: ${problems}`);
    return new BerthError(kindOf(reason), 'CNI ADD failed, and so did its cleanup', { cause });
  }

  async #delUntilDone(attached: Attached, signal: AbortSignal): Promise<void> {
    const { delPausesMs } = this.#times;
    for (let attempt = 0; ; attempt += 1) {
      try {
        await this.#chain.del(attached, signal);
        await this.#cache.remove(attached);
        return;
      } catch (err) {
        const failure = findCause(err, CniError);
        const isPassing = failure?.code === cniCodes.tryAgainLater;
        const pauseMs = delPausesMs[attempt] ?? (isPassing ? delPausesMs.at(-1) : undefined);
        if (pauseMs === undefined && failure?.isProgramMissing)
          return await this.#delWithout(attached, failure, signal);
        if (pauseMs === undefined || signal.aborted) throw err;
        this.#deps.log.debug(
          { container: attached.containerId, err: describe(err), pauseMs },
          'CNI DEL is tried again',
        );
        // The plugin's words say more than that the time was up.
        await sleep(pauseMs, signal).catch(() => {
          throw err;
        });
      }
    }
  }

  /** Detaches with the plugins that are still there. */
  async #delWithout(attached: Attached, missing: CniError, signal: AbortSignal): Promise<void> {
    const [failure] = await this.#chain.delAll(attached, signal);
    if (failure !== undefined) throw failure;
    await this.#cache.remove(attached);
    this.#deps.log.warn(
      { container: attached.containerId, err: describe(missing) },
      'a CNI plugin is missing: what it made for the pod may be left',
    );
  }

  // Every ADD is in the cache before its plugins run, so that this one holds nothing that Berth knows of. A failure
  // must not keep a pod from going away.
  async #delUnknown(a: CniAttachment, signal: AbortSignal): Promise<void> {
    const network = this.#networks.find();
    if (!network) return;
    try {
      await this.#chain.del(this.#attachedFrom(a, network), signal);
    } catch (err) {
      signal.throwIfAborted();
      this.#deps.log.warn({ container: a.containerId, err: describe(err) }, 'DEL of an unknown CNI attachment failed');
    }
  }

  async #delStale(attached: Attached, signal: AbortSignal, isLostAtReboot = false): Promise<void> {
    const netns = existsSync(attached.netns) ? attached.netns : '';
    await this.#exclusively('DEL', attached, signal, async (limited) => {
      // A DEL may have come first, even a new ADD.
      if (this.#cache.find(attached) === attached) await this.#delUntilDone({ ...attached, netns }, limited);
    });
    const { containerId: container, network } = attached;
    const pod = podOf(attached.cniArgs);
    if (pod === undefined)
      return this.#deps.log.info({ container, network: network.name }, 'freed a network without a pod');
    this.#deps.log.info(
      { pod, container, network: network.name },
      isLostAtReboot
        ? 'the machine was rebooted: freed what this pod had of its network before'
        : 'freed what a pod that is gone had left of its network',
    );
  }

  async #gcNetwork(network: NetworkConfig, valid: readonly AttachmentKey[], signal: AbortSignal): Promise<unknown[]> {
    const { gcMs, gcPatienceMs, gcPauseMs } = this.#times;
    const until = this.#until(signal);
    for (;;) {
      const failures = await this.#gate.alone(gcPatienceMs, until, async () => {
        using limited = withDeadline(`CNI GC of network "${network.name}"`, gcMs, until);
        // Those that were made while this waited are valid too.
        const all = new Map([...valid, ...this.#cache.all()].map((key) => [keyOf(key), key]));
        // Awaited here: the deadline ends with this block.
        return await this.#measured('GC', () => this.#chain.gc(network, [...all.values()], limited));
      });
      if (failures) return failures;
      await sleep(gcPauseMs, until);
    }
  }

  #attachedFrom(a: CniAttachment, network: NetworkConfig): Attached {
    checkKey(a);
    return {
      containerId: a.containerId,
      ifName: a.ifName,
      netns: a.netns,
      network,
      cniArgs: cniArgs(a),
      capabilityArgs: capabilityArgs(a, network.plugins),
    };
  }

  /** Does one thing to a container's attachment at a time. The deadline begins when it is its turn. */
  async #exclusively<T>(
    verb: CniVerb,
    key: AttachmentKey,
    signal: AbortSignal,
    fn: (limited: AbortSignal) => Promise<T>,
  ): Promise<T> {
    const until = this.#until(signal);
    return await this.#measured(verb, () =>
      this.#locks.withKey(key.containerId, until, () =>
        this.#gate.shared(until, async () => {
          using limited = this.#limited(verb, key, until);
          // Awaited here: the deadline ends with this block.
          return await fn(limited);
        }),
      ),
    );
  }

  #limited(verb: CniVerb, { containerId }: AttachmentKey, until: AbortSignal): AbortSignal & Disposable {
    const { delMs, verbMs } = this.#times;
    return withDeadline(`CNI ${verb} of container ${containerId}`, verb === 'DEL' ? delMs : verbMs, until);
  }

  #until(signal?: AbortSignal): AbortSignal {
    return signal ? AbortSignal.any([signal, this.#closing.signal]) : this.#closing.signal;
  }

  async #measured<T>(verb: CniVerb, fn: () => Promise<T>): Promise<T> {
    const startedMs = this.#deps.clock.monotonicMs();
    let outcome: Outcome = 'ok';
    try {
      const result = await fn();
      // Who goes on past failures returns them.
      if (Array.isArray(result) && result.length > 0) outcome = kindOf(result[0]);
      return result;
    } catch (err) {
      outcome = kindOf(err);
      throw err;
    } finally {
      this.#deps.meter.cni(verb, outcome, (this.#deps.clock.monotonicMs() - startedMs) / 1000);
    }
  }
}

function keyOf({ containerId, ifName }: AttachmentKey): string {
  return `${containerId} ${ifName}`;
}
