import { join, resolve } from 'node:path';
import { isDeepStrictEqual } from 'node:util';

import { raceSignal } from '../base/deadline.ts';
import { BerthError, describe, wrap } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import { type ConfDir, emptyConfDir, readConfDir } from './conf-dir.ts';
import { FolderWatch } from './folder-watch.ts';
import type { NetworkConfig } from './network-config.ts';
import type { PluginBinaries } from './plugin-binaries.ts';

/** What Networks needs. */
export interface NetworksDeps {
  readonly confDir: string;
  /** The network for pods; without a name it is the one of the first valid file. */
  readonly defaultNetwork?: string | undefined;
  readonly binaries: PluginBinaries;
  readonly log: Logger;
  /** From the first event of a change to the reading: a file is often written in pieces. */
  readonly settleMs: number;
}

interface State {
  readonly conf: ConfDir;
  /** The network for pods, when it can be used. */
  readonly network: NetworkConfig | undefined;
  /** What to do about it when it cannot; empty when it can. */
  readonly problem: string;
}

/** New watches in one reading; more means that somebody keeps replacing the folder, and more events come. */
const ROUNDS_LIMIT = 3;

/** The networks that the configuration folder holds now, read anew when it, or a folder of plugins, changes. */
export class Networks {
  #deps: NetworksDeps;
  readonly #watch: FolderWatch;
  readonly #closing = new AbortController();
  #state: State = {
    conf: emptyConfDir,
    network: undefined,
    problem: 'no CNI configuration has been read yet',
  };
  #ready = Promise.withResolvers<void>();
  #timer: NodeJS.Timeout | undefined;
  #reading: Promise<void> | undefined;
  #isStale = false;

  constructor(deps: NetworksDeps) {
    this.#deps = deps;
    this.#watch = new FolderWatch({ log: deps.log, onChange: () => this.#changed() });
  }

  /** Reads the folder and begins to watch it. */
  async start(): Promise<void> {
    await this.#read();
  }

  /** Reads another folder, or takes another of its networks, from now on. */
  async follow(place: Pick<NetworksDeps, 'confDir' | 'defaultNetwork'>): Promise<void> {
    this.#deps = { ...this.#deps, ...place };
    await this.#read();
  }

  /** Ends the watch and all waits. */
  async close(): Promise<void> {
    this.#closing.abort(new BerthError('cancelled', 'the daemon is stopping'));
    clearTimeout(this.#timer);
    this.#watch.close();
    await this.#reading;
    this.#watch.close();
  }

  /** The network for pods; undefined when there is none that can be used. */
  find(): NetworkConfig | undefined {
    return this.#state.network;
  }

  /** As find(), but throws a `precondition` error that says what is missing. */
  get(): NetworkConfig {
    const { network, problem } = this.#state;
    if (!network) throw new BerthError('precondition', problem);
    return network;
  }

  /** Why there is no network for pods, and what to do; empty when there is one. */
  get problem(): string {
    return this.#state.problem;
  }

  /** The files that were skipped, with their problems, as one text; empty when there are none. */
  get skipped(): string {
    return skippedText(this.#state.conf);
  }

  /** All valid networks, in the order of their files. */
  all(): readonly NetworkConfig[] {
    return this.#state.conf.networks.map(({ network }) => network);
  }

  /** Looks at the folder if it could not be watched; otherwise nothing. */
  async refresh(): Promise<void> {
    if (this.#watch.isBlind) await this.#read();
  }

  /**
   * Resolves when there is a network for pods; tells `onWait` first when it has to wait, and what is missing. Throws the
   * signal's reason, wrapped with what is missing.
   */
  async whenReady(signal: AbortSignal, onWait: (problem: string) => void = () => {}): Promise<void> {
    // The way of nearly every pod: nothing to wait for.
    if (this.#state.network) return;
    onWait(this.problem);
    const either = AbortSignal.any([signal, this.#closing.signal]);
    while (!this.#state.network) {
      try {
        await raceSignal(this.#ready.promise, either);
      } catch (err) {
        throw wrap(this.problem, err);
      }
    }
  }

  // Not put off again by later events: a folder that never rests is read all the same.
  #changed(): void {
    if (this.#closing.signal.aborted) return;
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      void this.#read();
    }, this.#deps.settleMs).unref();
  }

  async #read(): Promise<void> {
    if (this.#reading !== undefined) {
      this.#isStale = true;
      return this.#reading;
    }
    this.#reading = this.#readUntilFresh().finally(() => {
      this.#reading = undefined;
    });
    return this.#reading;
  }

  async #readUntilFresh(): Promise<void> {
    do {
      this.#isStale = false;
      try {
        await this.#readOnce();
      } catch (err) {
        this.#deps.log.error({ dir: this.#deps.confDir, err: describe(err) }, 'cannot read the CNI configuration');
      }
    } while (this.#isStale && !this.#closing.signal.aborted);
  }

  async #readOnce(): Promise<void> {
    const { confDir, binaries } = this.#deps;
    let { conf } = this.#state;
    for (let round = 0; round < ROUNDS_LIMIT && !this.#closing.signal.aborted; round += 1) {
      // First the watch, then the reading: nothing falls between them. Folders of newly found networks need a round.
      const isNew = this.#watch.arm(this.#folders(conf));
      if (round > 0 && !isNew) break;
      conf = await readConfDir(confDir);
    }
    if (this.#closing.signal.aborted) return;
    binaries.reset();
    this.#become({ conf, ...(await this.#choose(conf)) });
  }

  #folders(conf: ConfDir): string[] {
    const { confDir, binaries } = this.#deps;
    return [confDir, ...conf.pluginFolders, ...binaries.binDirs].map((folder) => resolve(folder));
  }

  async #choose(conf: ConfDir): Promise<Omit<State, 'conf'>> {
    const { confDir, binaries, defaultNetwork } = this.#deps;
    const name = defaultNetwork ?? '';
    const chosen = name === '' ? conf.networks[0] : conf.networks.find(({ network }) => network.name === name);
    if (!chosen) return { network: undefined, problem: absentText(confDir, conf, name) };
    const types = new Set(chosen.network.plugins.map((plugin) => plugin.type));
    const missing: string[] = [];
    for (const type of types) {
      if ((await binaries.find(type)) === undefined) missing.push(`"${type}"`);
    }
    if (missing.length === 0) return { network: chosen.network, problem: '' };
    const where = binaries.binDirs.join(', ');
    const problem = `CNI network "${chosen.network.name}" (${join(confDir, chosen.file)}) needs the plugin ${missing.join(', ')}, and there is no such program in ${where}: install it there`;
    return { network: undefined, problem };
  }

  #become(next: State): void {
    const { log, confDir } = this.#deps;
    const before = this.#state;
    this.#state = next;
    const known = new Set(before.conf.skipped.map(({ file, problem }) => `${file}\n${problem}`));
    for (const { file, problem } of next.conf.skipped) {
      if (!known.has(`${file}\n${problem}`))
        log.warn({ file: join(confDir, file), problem }, 'a CNI configuration file is skipped');
    }
    if (next.network) {
      if (!isDeepStrictEqual(before.network, next.network)) {
        const { name, plugins } = next.network;
        log.info({ network: name, plugins: plugins.map(({ type }) => type) }, 'pods get this CNI network');
      }
      this.#ready.resolve();
      return;
    }
    if (before.network) this.#ready = Promise.withResolvers<void>();
    if (before.problem !== next.problem) log.warn({ problem: next.problem }, 'there is no CNI network for pods');
  }
}

function absentText(confDir: string, conf: ConfDir, name: string): string {
  if (!conf.exists)
    return `no CNI configuration: the folder ${confDir} does not exist; put a network's .conflist file there`;
  const skipped = skippedText(conf);
  const because = skipped === '' ? '' : `; ${skipped}`;
  if (name !== '' && conf.networks.length > 0) {
    const names = conf.networks.map(({ network }) => `"${network.name}"`).join(', ');
    return `no CNI configuration named "${name}" in ${confDir}, only ${names}: correct cni.default_network or add it${because}`;
  }
  return `no valid CNI configuration in ${confDir}; put a network's .conflist file there${because}`;
}

function skippedText({ skipped }: ConfDir): string {
  if (skipped.length === 0) return '';
  const shown = skipped.slice(0, 5).map(({ file, problem }) => `${file}: ${problem}`);
  const more = skipped.length > shown.length ? ` and ${skipped.length - shown.length} more` : '';
  return `skipped ${shown.join('; ')}${more}`;
}
